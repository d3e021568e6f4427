"""Which column is what: told by the user, or guessed aloud."""

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kitune.config import DataOptions
from kitune.data.table import Table, holds_bytes, kind_of
from kitune.errors import UserError

# Pairs as the well-known data sets name them.
PAIR_NAMES = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("text", "text_pair"),
    ("query", "passage"),
    ("#1 String", "#2 String"),
)
TEXT_NAMES = (
    "text",
    "sentence",
    "review",
    "document",
    "content",
    "comment",
    "body",
    "message",
    "question",
    "テキスト",
    "本文",
    "文本",
    "内容",
    "评论",
    "문장",
    "내용",
    "리뷰",
)
LABEL_NAMES = (
    "label",
    "labels",
    "category",
    "class",
    "intent",
    "target",
    "sentiment",
    "score",
    "rating",
    "stars",
    "quality",
    "ラベル",
    "标签",
    "类别",
    "라벨",
)
# Names by which a first line is known for a header.
KNOWN_NAMES = frozenset(
    name.lower() for names in (*PAIR_NAMES, TEXT_NAMES, LABEL_NAMES, ("id", "index", "idx", "title")) for name in names
)


@dataclass(frozen=True)
class Columns:
    """The part that each column plays."""

    text: tuple[str, ...]
    label: str | None
    id: str | None = None
    weight: str | None = None
    group: str | None = None

    @property
    def used(self) -> list[str]:
        """Every column that has a part, once; a column without a name may have one too."""
        names = (*self.text, self.label, self.id, self.weight, self.group)
        return list(dict.fromkeys(name for name in names if name is not None))


def choose_columns(table: Table, options: DataOptions) -> tuple[Columns, list[str]]:
    """The columns of a training table.

    Returns:
        The columns, and a sentence for each that was guessed.

    Raises:
        UserError: a named column is not there or holds no texts, or nothing can be guessed.
    """
    told = (*(options.text or ()), options.label, options.id, options.weight, options.group)
    named = [name for name in told if name is not None]
    require_columns(table, named)
    said = []
    label = guess_label(table, set(named)) if options.label is None else options.label
    if options.label is None:
        said.append(f"label column: {label}")
    text = options.text or guess_text(table, {label, options.id, options.weight, options.group})
    if not options.text:
        said.append(f"text column{'s' if len(text) > 1 else ''}: {' and '.join(text)}")
    if len(set(text)) < len(text) or label in text:
        raise UserError(
            f"{table.source}: column {label if label in text else text[0]!r} is named twice",
            fix="give each of --text and --label a column of its own",
        )
    for name in text:
        require_utf8(table, name)
        table.require_texts(name)
    if options.group is not None:
        require_groups(table, options.group)
    return Columns(text, label, options.id, options.weight, options.group), said


def require_own_names(table: Table) -> None:
    """Refuse two columns of one name, where all columns are looked at."""
    doubled = [name for name, count in Counter(table.columns).items() if count > 1]
    if doubled:
        fix = "give each column a name of its own"
        raise UserError(f"{table.source}: two columns are called {doubled[0]!r}", fix=fix)


def require_columns(table: Table, names: Sequence[str]) -> None:
    """Refuse a name that `table` lacks, with the nearest that it has, and one that two columns have."""
    require_own_names(table)
    for name in names:
        if name not in table.columns:
            near = difflib.get_close_matches(name, table.columns, n=1)
            listed = ", ".join(column or "(no name)" for column in table.columns[:12])
            raise UserError(
                f"{table.source}: there is no column {name!r}; there {'is' if len(table.columns) == 1 else 'are'} {listed}",
                fix=f"did you mean {near[0]!r}?" if near else "name one of these",
            )


def guess_label(table: Table, taken: set[str]) -> str:
    """A column with a label's name, else the only one whose values repeat."""
    by_name = {name.strip().lower(): name for name in table.columns if name not in taken}
    for name in LABEL_NAMES:
        if name in by_name:
            return by_name[name]
    repeats = {name: distinct(table, name) for name in table.columns if name not in taken and name.strip()}
    few = {name: count for name, count in repeats.items() if 1 < count <= max(2, min(200, len(table) // 4))}
    if len(few) != 1:
        raise UserError(
            f"{table.source}: no column is clearly the label; there are {', '.join(table.columns[:12])}",
            fix="name it: --label COLUMN",
        )
    return next(iter(few))


def distinct(table: Table, column: str) -> int:
    """How many different values a column has; of strings without all of them as Python objects."""
    if is_text(table, column):
        return int(pc.count_distinct(table.data.column(column).cast(pa.large_string()), mode="all").as_py())
    return len(set(map(str, table.values(column))))


def guess_text(table: Table, taken: set[str | None]) -> tuple[str, ...]:
    """A known pair of names, a known single name, else the column with the longest strings."""
    require_own_names(table)
    free = [name for name in table.columns if name not in taken and is_text(table, name)]
    by_name = {name.strip().lower(): name for name in free}
    for first, second in PAIR_NAMES:
        if first.lower() in by_name and second.lower() in by_name:
            return by_name[first.lower()], by_name[second.lower()]
    for name in TEXT_NAMES:
        if name in by_name:
            return (by_name[name],)
    if not free:
        raise UserError(
            f"{table.source}: no column holds text; there are {', '.join(table.columns[:12])}",
            fix="name it: --text COLUMN",
        )
    sizes = {name: pc.sum(pc.utf8_length(table.data.column(name).cast(pa.large_string()))) for name in free}
    return (max(free, key=lambda name: sizes[name].as_py() or 0),)


def is_text(table: Table, column: str) -> bool:
    """Whether the column holds strings."""
    kind: Any = table.data.schema.field(column).type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def require_groups(table: Table, column: str) -> None:
    """Refuse a column of groups whose cells are no single texts or numbers."""
    if (kind := kind_of(table.data.schema.field(column).type)) in ("lists", "records"):
        raise UserError(
            f"{table.source}: column {column!r} holds {kind}, which name no groups",
            fix="name a column of texts or numbers",
        )


def require_utf8(table: Table, column: str) -> None:
    """Refuse bytes that are no texts; those that are were read as strings."""
    if holds_bytes(table.data.schema.field(column).type):
        wrong = [row for row, value in enumerate(table.values(column)) if value is not None and not is_utf8(value)]
        refuse_rows(table, wrong, f"column {column!r} holds bytes that are not UTF-8", "decode them to texts")


def is_utf8(value: bytes) -> bool:
    """Whether the bytes are UTF-8."""
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def refuse_rows(table: Table, rows: Sequence[int], what: str, fix: str) -> None:
    """Refuse a table because of `rows`, naming the first three."""
    if rows:
        more = f" and {len(rows) - 3:,} more" if len(rows) > 3 else ""
        raise UserError(f"{table.places(rows[:3])}{more}: {what}", fix=fix)
