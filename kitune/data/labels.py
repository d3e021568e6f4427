"""Labels as data: which task they make, their names, and the arrays that a loss takes."""

import ast
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kitune.config import TaskName
from kitune.data.columns import refuse_rows
from kitune.data.table import Table, kind_of
from kitune.errors import UserError, command, numbered
from kitune.findings import allowing

SEPARATORS = ("|", ";", ",")
# The separator of cells that are lists as Python or JSON writes them, `['a', 'b']`: so pandas writes lists to CSV.
LISTS = "[]"
LIST = re.compile(r"\[\s*(\]|['\"\d-].*\])", re.DOTALL)
# Whole numbers with more distinct values than this are amounts, not classes.
MOST_INTEGER_CLASSES = 100


def guess_task(values: Sequence[Any]) -> tuple[TaskName, str]:
    """The task that a label column makes, and why: for the sentence that is said."""
    present = [value for value in values if value is not None and value != ""]
    if any(isinstance(value, list | tuple) for value in present):
        return "multi-label", "the labels are lists"
    if are_lists(present) and any(sign in cell for cell in present for sign in "'\","):  # `[1]` may be a name
        return "multi-label", "the labels are lists in brackets"
    distinct = Counter(name_of(value) for value in present)
    numbers = [number for number in map(number_in, distinct) if number is not None]
    if present and len(numbers) == len(distinct):
        if any(number != int(number) for number in numbers):
            return "regression", "the labels are numbers with fractions"
        if len(distinct) > MOST_INTEGER_CLASSES:
            return "regression", f"the labels are {len(distinct):,} different whole numbers"
    elif separator_of(list(distinct)):
        return "multi-label", f"the labels are lists parted by {separator_of(list(distinct))!r}"
    return "single-label", numbered(len(distinct), "different label")


def number_in(text: str) -> float | None:
    """`text` as a finite number, else None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def separator_of(labels: Sequence[str]) -> str | None:
    """The sign that parts several labels in one cell: one whose parts also stand alone, or in other company."""
    for separator in SEPARATORS:
        joined = [label for label in labels if separator in label]
        if not joined:
            continue
        parts = Counter(part.strip() for label in labels for part in label.split(separator))
        # Labels like "Yes, gladly" have parts that occur nowhere else.
        if all(parts[part.strip()] > 1 for label in joined for part in label.split(separator)):
            return separator
    return None


def are_lists(values: Iterable[Any]) -> bool:
    """Whether every cell that is filled looks like a list in brackets."""
    found = False
    for value in values:
        if value is not None and value != "":
            if not isinstance(value, str) or not LIST.fullmatch(value.strip()):
                return False
            found = True
    return found


@lru_cache(2**16)  # cells repeat, and every part is looked at several times
def list_in(cell: str) -> tuple[str, ...] | None:
    """The labels in a list as Python or JSON writes it; None where it is none."""
    for read in (ast.literal_eval, json.loads):
        try:
            found = read(cell.strip())
        except (ValueError, SyntaxError):  # JSON's own error is a ValueError
            continue
        # Two strings side by side, as NumPy writes arrays, are one string in Python.
        if isinstance(found, list) and all(isinstance(label, str | int | float) for label in found):
            return None if re.search(r"""(['"])\s+\1""", cell) else tuple(map(name_of, found))
    return None


def separator_in(values: Sequence[Any], told: str = "auto", names: Sequence[str] = ()) -> str:
    """The sign that parts the labels of a cell: the told one, one that leaves nothing but `names`, or one that is shown."""
    if told != "auto":
        return told
    cells = sorted({value for value in values if isinstance(value, str)})
    if are_lists(values) and not set(cells).intersection(names):
        return LISTS
    known = {"", *names}
    for separator in SEPARATORS if names else ():
        if all(part.strip() in known for cell in cells for part in cell.split(separator)):
            return separator
    return separator_of(cells) or next((sign for sign in SEPARATORS if any(sign in cell for cell in cells)), ",")


def label_lists(values: Sequence[Any], separator: str) -> list[list[str]]:
    """Each row's labels as strings; an empty cell is a row with none."""
    separator = separator_in(values, separator)
    lists: list[list[str]] = []
    for value in values:
        if value is None or value == "":
            lists.append([])
        elif isinstance(value, list | tuple):
            lists.append([name_of(label) for label in value if label is not None])
        elif separator == LISTS:
            labels = list_in(str(value))
            lists.append([str(value)] if labels is None else [*labels])
        else:
            lists.append([part.strip() for part in name_of(value).split(separator) if part.strip()])
    return lists


def label_names(task: TaskName, values: Sequence[Any], separator: str = "auto") -> tuple[str, ...]:
    """The names that occur, numbers by size and words by code point; the names of a regression are not names."""
    if task == "multi-label":
        found = {label for labels in label_lists(values, separator) for label in labels}
    else:
        found = {name_of(value) for value in values if value is not None and value != ""}
    return tuple(sorted(found, key=lambda name: (number_in(name) is None, number_in(name) or 0.0, name)))


def name_of(value: Any) -> str:
    """The name of a label; of whole numbers without a fraction, which an empty cell in their column gives them in pandas."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def quoted(name: str) -> str:
    """A label for a sentence or a table: in quotes where one could not tell where it begins and ends."""
    return repr(name) if name != name.strip() or "," in name or not name else name


def unlabelled_rows(values: Sequence[Any]) -> list[int]:
    """The rows whose label is empty."""
    return [row for row, value in enumerate(values) if value is None or str(value).strip() == ""]


def nothing_to_learn(task: TaskName, names: Sequence[str]) -> bool:
    """Whether train holds no label at all, or a single class."""
    return len(names) < (2 if task == "single-label" else 1)


def require_learnable(table: Table, column: str, task: TaskName, names: Sequence[str]) -> None:
    """Refuse what nothing can be learned from: no label at all, or a single class."""
    if not names:
        raise UserError(f"{table.source}: column {column!r} holds no label", fix="name the right one: --label COLUMN")
    if len(names) == 1 and task == "single-label":
        raise UserError(
            f"{table.source}: every row has the label {names[0]!r} in column {column!r}, so there is nothing to tell apart",
            fix="add rows of another class, or name another column: --label COLUMN",
        )


def label_values(table: Table, column: str) -> list[Any]:
    """The cells of the label column.

    Raises:
        UserError: they are records, bytes or lists of lists.
    """
    kind: Any = table.data.schema.field(column).type
    if kind_of(kind) == "lists":
        kind = kind.value_type
    if (holds := kind_of(kind)) is not None:
        raise UserError(
            f"{table.source}: column {column!r} holds {holds}, not labels",
            fix="write each label as one word or number, or name another column: --label COLUMN",
        )
    return table.values(column)


def require_lists(table: Table, column: str, values: Sequence[Any]) -> None:
    """Refuse cells that are no lists in brackets, where lists are what the labels are."""
    wrong = [
        row for row, value in enumerate(values) if isinstance(value, str) and value.strip() and list_in(value) is None
    ]
    if wrong:
        problem = f"the labels are lists in brackets, and {values[wrong[0]]!r} is none"
        refuse_rows(table, wrong, problem, "write it as ['a', 'b']; cells that are one label: --task single-label")


def label_array(
    table: Table,
    column: str,
    task: TaskName,
    names: Sequence[str],
    *,
    separator: str = "auto",
    ordered: bool = True,
    trained: bool = False,
    allowed: Iterable[str] = (),
) -> NDArray[np.int64] | NDArray[np.float32]:
    """The labels as the task's loss takes them.

    Args:
        ordered: the order of the names was told, so that a number may say its place among them.
        trained: the labels are those of a finished model, which no option adds one to.
        allowed: codes of the doctor's findings that pass.

    Returns:
        single-label: (rows,) int64 positions in `names`; multi-label: (rows, names) float32 of 0 and 1;
        regression: (rows, 1) float32.

    Raises:
        UserError: a row has no label, or one that is not in `names`; with its line.
    """
    values = label_values(table, column)
    positions = {name: i for i, name in enumerate(names)}  # and, as they are met, of labels that say their place

    def place_of(row: int, label: str) -> int:
        if label not in positions:
            place = position_in(names, label) if ordered else None
            if place is None:
                raise unknown_label(label, names, table, row, column, trained=trained)
            positions[label] = place
        return positions[label]

    if task == "multi-label":
        separator = separator_in(values, separator, names)
        if separator == LISTS:
            require_lists(table, column, values)
        hot = np.zeros((len(values), len(names)), dtype=np.float32)
        for row, labels in enumerate(label_lists(values, separator)):
            for label in labels:
                hot[row, place_of(row, label)] = 1.0
        return hot
    fix = f"label them, or drop them (a training does so with {allowing('missing-labels', allowed)})"
    refuse_rows(table, unlabelled_rows(values), f"no label in column {column!r}", fix)
    if task == "regression":
        numbers = [number_in(str(value)) for value in values]
        wrong = [row for row, number in enumerate(numbers) if number is None]
        first = f"{values[wrong[0]]!r} in column {column!r} is no finite number" if wrong else ""
        refuse_rows(table, wrong, first, "correct the rows, or train on classes: --task single-label")
        return np.asarray(numbers, dtype=np.float32)[:, None]
    # A name that was told, or that an older model has, may be `1.0`.
    found = (str(value) if str(value) in positions else name_of(value) for value in values)
    return np.fromiter(map(place_of, range(len(values)), found), np.int64, len(values))


def unknown_label(
    label: str, names: Sequence[str], table: Table, row: int, column: str, *, trained: bool = False
) -> UserError:
    """The error for a label that is no name, nor says the place of one."""
    listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return UserError(
        f"{table.where(row)}: label {label!r} in column {column!r} is not among the "
        f"{numbered(len(names), 'label')} ({listed})",
        fix="correct the row, or tell the data's names for the model's labels, in its order: "
        + command("--set", "data.labels=[...]")
        if trained
        else f"correct the row, or tell all labels: {command('--set', 'data.labels=' + yaml_list([*names, label]))}",
    )


def names_by_place(
    values: Sequence[Any], task: TaskName, names: Sequence[str], separator: str = "auto"
) -> dict[str, str]:
    """The labels that are told by their place in `names`, each with the name there; none of a regression."""
    if task == "regression":
        return {}
    found = label_names(task, values, separator_in(values, separator, names))
    places = {label: position_in(names, label) for label in found if label not in names}
    return {label: names[place] for label, place in places.items() if place is not None}


def read_by_place(values: Sequence[Any], task: TaskName, names: Sequence[str], separator: str = "auto") -> str | None:
    """`0, 1 are read as no, yes`: the labels that are told by their place in `names`, for a sentence; None where none are."""
    by_place = names_by_place(values, task, names, separator)
    return f"{', '.join([*by_place][:5])} are read as {', '.join([*by_place.values()][:5])}" if by_place else None


def position_in(names: Sequence[str], label: str) -> int | None:
    """The place that a label says by being a number, where no name is a number itself; None where it says none."""
    number = number_in(label)
    if number is None or number != int(number) or not 0 <= number < len(names):
        return None
    return int(number) if all(number_in(name) is None for name in names) else None


def yaml_list(names: Iterable[str]) -> str:
    """`names` as a YAML list on one line."""
    return "[" + ", ".join(json.dumps(name, ensure_ascii=False) for name in names) + "]"


def class_weights(
    option: str | dict[str, float] | None, labels: NDArray[np.int64], names: Sequence[str]
) -> list[float] | None:
    """The weight of each class in the loss; `auto` is rows / (classes x rows of the class), as scikit-learn's `balanced`."""
    if option is None:
        return None
    if option == "auto":
        counts = np.bincount(labels, minlength=len(names))
        return [float(len(labels) / (len(names) * count)) if count else 0.0 for count in counts]
    assert isinstance(option, dict)
    unknown = sorted(set(option) - set(names))
    if unknown:
        raise UserError(
            f"train.class_weights: {unknown[0]!r} is not among the labels ({', '.join(names[:8])})",
            fix="name labels of the data, or use --set train.class_weights=auto",
        )
    return [float(option.get(name, 1.0)) for name in names]


def weight_array(table: Table, column: str | None) -> NDArray[np.float32] | None:
    """Each row's weight in the loss, (rows,) float32."""
    if column is None:
        return None
    numbers = [number_in(str(value)) for value in table.values(column)]
    wrong = [row for row, number in enumerate(numbers) if number is None or number < 0]
    refuse_rows(table, wrong, f"the weight in column {column!r} is not a number of 0 or more", "correct the rows")
    weights = np.asarray(numbers, dtype=np.float32)
    if not weights.any():
        raise UserError(
            f"{table.source}: every weight in column {column!r} is 0", fix="give some rows a weight above 0"
        )
    return weights
