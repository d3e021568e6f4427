"""The parts of a data set, train, valid and test: read, their columns and labels understood, one of them split off."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kitune.config import RunOptions, TaskName
from kitune.data.columns import Columns, choose_columns, require_columns
from kitune.data.labels import (
    SEPARATORS,
    guess_task,
    label_array,
    label_names,
    label_values,
    name_of,
    nothing_to_learn,
    number_in,
    quoted,
    require_learnable,
    separator_in,
    unlabelled_rows,
)
from kitune.data.read import FORMATS, Source, read_table
from kitune.data.sources import PARTS, parts_in, read_part
from kitune.data.split import limit, split, text_keys
from kitune.data.table import Rows, Table
from kitune.errors import UserError, command, numbered
from kitune.findings import Finding, about_rows, allowing

SCORED_SEED = 1
# How a table of the hub says that a row has no label, once it is written to CSV.
MINUS_ONE = {"-1", "-1.0"}


@dataclass(frozen=True)
class Cut:
    """Train before valid was cut from it, and which of its rows each of the two has."""

    table: Table
    rows: Mapping[str, Rows]


@dataclass(frozen=True)
class Parts:
    """What a training learns from: the table of each part, their columns, task and label names."""

    tables: Mapping[str, Table]
    columns: Columns
    task: TaskName
    names: tuple[str, ...]
    options: RunOptions
    found: tuple[Finding, ...] = ()  # about rows that are left out
    cut: Cut | None = None  # where valid was cut from train
    separator: str = "auto"  # of several labels in one cell, in every part

    @property
    def given(self) -> dict[str, Table]:
        """The tables in the parts that the user gave."""
        if self.cut is None:
            return dict(self.tables)
        return {"train": self.cut.table} | {n: table for n, table in self.tables.items() if n not in self.cut.rows}

    @cached_property
    def given_keys(self) -> dict[str, NDArray[np.uint64]]:
        """A key of the text or pair of each row of the given tables (see `text_keys`)."""
        return {part: text_keys(table, self.columns.text) for part, table in self.given.items()}

    def keys(self, part: str) -> NDArray[np.uint64]:
        """The key of each row of a part."""
        if self.cut is not None and part in self.cut.rows:
            return self.given_keys["train"][self.cut.rows[part]]
        return self.given_keys[part]

    def labels(self, part: str) -> NDArray[np.int64] | NDArray[np.float32]:
        """The labels of a part, as the loss takes them."""
        return self.labels_in(self.tables[part])

    def labels_in(self, table: Table) -> NDArray[np.int64] | NDArray[np.float32]:
        """The labels of a table with the parts' columns."""
        assert self.columns.label is not None
        return label_array(
            table,
            self.columns.label,
            self.task,
            self.names,
            separator=self.separator,
            ordered=self.ordered,
            allowed=self.options.doctor.allow,
        )

    @property
    def ordered(self) -> bool:
        """Whether the order of the label names was told, so that a number may say the place of one."""
        assert self.columns.label is not None
        return told_names(self.tables["train"], self.columns.label, self.options) is not None

    def fingerprints(self) -> dict[str, str]:
        """A name for the content of each part, whatever file it came in."""
        return {part: table.fingerprint(self.columns_in(part)) for part, table in self.tables.items()}

    def columns_in(self, part: str) -> list[str]:
        """The columns with a part to play that this table has; groups and weights are train's alone."""
        return [name for name in self.columns.used if name in self.tables[part].columns]


def read_parts(
    options: RunOptions, sources: Mapping[str, Source], *, examined: bool = False
) -> tuple[Parts, list[str]]:
    """Read, choose columns, name labels, limit and split.

    Args:
        examined: for the doctor: what a training refuses in labels is a finding.

    Returns:
        What to learn from, and the sentences that say what was guessed.
    """
    tables = read_tables(options, sources)
    columns, guessed_columns = choose_columns(tables["train"], options.data)
    said = [note for table in tables.values() for note in table.notes] + guessed_columns
    assert columns.label is not None
    for part in unlabelled(tables, named_sources(options, sources), columns.label):
        said.append(f"{tables.pop(part).source}: the {part} part has no labels and is left out")
    for table in tables.values():
        require_columns(table, [*columns.text, columns.label])
    task, why = guess_task(label_values(tables["train"], columns.label))
    if options.task == "auto":
        said.append(f"task: {task} ({why})")
    else:
        task = options.task
    found: list[Finding] = []
    if task != "multi-label" and (examined or "missing-labels" in options.doctor.allow):
        for part, table in tables.items():
            tables[part], finding = with_labels_alone(table, columns.label, part, options.doctor.allow)
            found += [finding] if finding else []
        unlearnable = len(tables["train"]) == 0 and task != "regression"  # which is told below, or is a finding
        if empty := [part for part, table in tables.items() if not len(table) and not unlearnable]:
            problem = f"{tables[empty[0]].source}: no row of the {empty[0]} part has a label"
            raise UserError(problem, fix="label some, or leave the part out")
    separator = common_separator(tables, columns.label, options) if task == "multi-label" else "auto"
    names, learned = names_of(tables, columns.label, task, options, separator)
    parts = Parts(tables, columns, task, names, options, tuple(found), separator=separator)
    if not examined:
        require_learnable(tables["train"], columns.label, task, learned)
    elif nothing_to_learn(task, learned):
        return replace(parts, names=learned), said
    parts = limited(parts)
    if "valid" not in tables:
        parts = with_valid(parts)
        held_out, kept = len(parts.tables["valid"]), len(parts.tables["train"])
        verb = "is" if held_out == 1 else "are"
        said.append(f"{held_out:,} of {numbered(held_out + kept, 'row')} {verb} held out to choose the best weights")
    for part in parts.tables:
        parts.labels(part)  # a label that is not known is refused now, with its line
    if task != "regression":
        more = f", ... ({len(names)} in all)" if len(names) > 8 else ""
        said.append(f"labels: {', '.join(map(quoted, names[:8]))}{more}")
        if not examined:
            require_shared_labels(parts)
    return parts, said


def require_shared_labels(parts: Parts) -> None:
    """Refuse validation or test rows of which none has a label of train: every answer to them would be wrong."""

    def places(part: str) -> set[int]:
        labels = parts.labels(part)
        return set(np.unique(labels) if labels.ndim == 1 else np.flatnonzero(labels.any(axis=0)))

    others = sorted(parts.given.keys() - {"train"})
    learned = places("train") if others else set()  # a pass over all of train
    for part in others:
        held = places(part)
        if not held or held & learned:
            continue
        names, there = (", ".join(quoted(parts.names[at]) for at in sorted(some)[:5]) for some in (held, learned))
        fix = "write them alike in both"
        if any(number_in(parts.names[place]) is not None for place in held):
            fix += f", or tell the names in the order of the numbers: {command('--set', 'data.labels=[...]')}"
        problem = f"{parts.tables[part].source}: none of its labels ({names}) is one of train's ({there})"
        raise UserError(problem, fix=fix)


def common_separator(tables: Mapping[str, Table], label: str, options: RunOptions) -> str:
    """What parts the labels of a cell, in every part alike: as train shows it, or all parts where no cell of train does."""
    values = label_values(tables["train"], label)
    if not any(sign in value for value in values if isinstance(value, str) for sign in SEPARATORS):
        values = [value for table in tables.values() for value in label_values(table, label)]
    names = told_names(tables["train"], label, options) or ()
    return separator_in(values, options.data.label_separator, names)


def names_of(
    tables: Mapping[str, Table], label: str, task: TaskName, options: RunOptions, separator: str = "auto"
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The label names of the task, and those that train holds.

    A label that only valid or test have gets an output too, or their rows could not be scored; nothing is learned about it.
    """
    if task == "regression":
        return (label,), (label,)
    learned = label_names(task, label_values(tables["train"], label), separator)
    if told := told_names(tables["train"], label, options):
        return told, learned
    further = {
        name
        for part, table in tables.items()
        if part != "train"
        for name in label_names(task, label_values(table, label), separator)
    }
    return (*learned, *sorted(further.difference(learned))), learned


def told_names(train: Table, label: str, options: RunOptions) -> tuple[str, ...] | None:
    """The label names in the order that the user or the data set tells; None where nobody does."""
    return options.data.labels or train.classes.get(label) or None


def with_labels_alone(table: Table, label: str, part: str, allowed: Sequence[str]) -> tuple[Table, Finding | None]:
    """The rows that have a label, and the finding about the others, beside those that are allowed."""
    missing = unlabelled_rows(table.values(label))
    if not missing:
        return table, None
    says = f"{numbered(len(missing), 'row')} without a label in column {label!r}"
    fix = f"label them, or drop them: {allowing('missing-labels', allowed)}"
    return table.take(np.delete(np.arange(len(table)), missing)), about_rows(
        "missing-labels", says, fix, part, table, missing
    )


def named_sources(options: RunOptions, sources: Mapping[str, Source]) -> dict[str, Source]:
    """What each part was said to come from, in Python or by its option; None where neither says so."""
    return {part: sources.get(part, getattr(options.data, part)) for part in PARTS}


def read_tables(options: RunOptions, sources: Mapping[str, Source]) -> dict[str, Table]:
    """The table of each part that is named, or that the source of train holds beside it."""
    named = named_sources(options, sources)
    if named["train"] is None:
        raise UserError("there is no training data", fix=f"kitune train DATA, with a file: {FORMATS}")
    held = parts_in(named["train"])
    if "train" not in held:
        in_file = isinstance(named["train"], str | Path)
        raise UserError(
            f"{named['train'] if in_file else 'data'}: there are rows for {', '.join(held)} and none to learn from",
            fix="name the file of those: kitune train FILE" if in_file else "give data={'train': ...}",
        )
    tables = {}
    for part in PARTS:
        if part != "train" and named[part] is not None:
            tables[part] = read_part(named[part], None, layout=options.data, name=part)
        elif part in held:
            tables[part] = read_table(held[part], layout=options.data, name=part)
    if further := [part for part in held if part not in PARTS]:
        note = f"{tables['train'].source}: it also holds {', '.join(further)}, which no part of a training is"
        tables["train"] = replace(tables["train"], notes=(*tables["train"].notes, note))
    return tables


def unlabelled(tables: Mapping[str, Table], named: Mapping[str, Source], label: str) -> list[str]:
    """The parts that came with train, not by a name of their own, and have no label in any row, as on many a hub page.

    The hub's -1 is none where train does not have it.
    """

    def labels(part: str) -> set[str]:
        return {name_of(value) for value in tables[part].values(label) if value not in (None, "")}

    came_along = [part for part in tables if part != "train" and named[part] is None]
    bare = [part for part in came_along if label not in tables[part].columns or not labels(part) - MINUS_ONE]
    known = labels("train") if bare else set()
    return [part for part in bare if label not in tables[part].columns or not labels(part) & known]


def limited(parts: Parts) -> Parts:
    """At most `data.limit` rows of each part."""
    most = parts.options.data.limit
    if most is None:
        return parts
    # The rows that are scored are the same for every seed of a training.
    seeds = {"train": parts.options.train.seed}
    tables = {
        part: table.take(limit(parts.labels(part), most, seeds.get(part, SCORED_SEED)))
        for part, table in parts.tables.items()
    }
    return replace(parts, tables=tables)


def with_valid(parts: Parts) -> Parts:
    """A validation part cut from train."""
    table, options = parts.tables["train"], parts.options
    share, seed = options.data.valid_share, options.train.seed
    kept, held_out = split(table, parts.columns, parts.labels("train"), valid_share=share, seed=seed)
    tables = {"train": table.take(kept), "valid": table.take(held_out)}
    tables |= {part: parts.tables[part] for part in ("test",) if part in parts.tables}
    return replace(parts, tables=tables, cut=Cut(table, {"train": kept, "valid": held_out}))


def label_shares(parts: Parts) -> list[float]:
    """Share of each label in train."""
    labels = parts.labels("train")
    if labels.ndim == 1:
        return [
            float(count) / len(labels) for count in np.bincount(labels.astype(np.int64), minlength=len(parts.names))
        ]
    return [float(share) for share in labels.mean(axis=0)]
