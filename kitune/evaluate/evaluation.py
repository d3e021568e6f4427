"""What an evaluation says: metrics with intervals, each label, confusions, slices, new texts, baselines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.cells import cell_len

from kitune.config import TaskName
from kitune.data.split import groups_of
from kitune.data.table import Rows, Table
from kitune.errors import numbered
from kitune.evaluate.bootstrap import (
    FEWEST_GROUPS,
    FEWEST_RESAMPLES,
    MOST_RESAMPLES,
    Interval,
    difference,
    intervals,
    takes_too_long,
)
from kitune.evaluate.measures import Answered, Measure, measures, of_labels
from kitune.metrics import Metrics, without_nan
from kitune.notebook import Block, Grid, Shown
from kitune.tasks import TASKS

# Of a confusion matrix that is wider than a terminal, the largest cells are listed.
MOST_WIDTH, LISTED_CELLS = 78, 12
DECIMALS = 4
# Of fewer groups the intervals hold the truth in less than nine of ten cases.
FEW_GROUPS = 20
TOO_FEW = "so few that their intervals are too narrow"
LABEL_KINDS = ("precision", "recall", "f1")


@dataclass(frozen=True)
class Scores:
    """The metrics of some rows, and the 95 % interval of each that has one.

    Attributes:
        too_long: the metrics that have none because resampling takes too long.
        of_labels: the metrics of single labels.
    """

    rows: int
    metrics: Metrics
    intervals: Mapping[str, Interval]
    too_long: tuple[str, ...] = ()
    of_labels: frozenset[str] = frozenset()

    @property
    def overall(self) -> "Scores":
        """The same without the metrics of single labels."""
        named: list[Mapping[str, Any]] = [self.metrics, self.intervals]
        metrics, intervals = ({name: one[name] for name in one if name not in self.of_labels} for one in named)
        return Scores(self.rows, metrics, intervals)

    def as_json(self) -> dict[str, Any]:
        """What is said of all labels together; NaN, which JSON lacks, is null."""
        return {"metrics": without_nan(self.overall.metrics), "intervals": without_nan(self.overall.intervals)}

    def cells(self, name: str) -> tuple[Any, Any, Any]:
        """A metric and the ends of its interval, for a table."""
        low, high = self.intervals.get(name, (None, None))
        return without_nan(self.metrics.get(name)), low, high


def scores(answered: Answered, *, most: int = MOST_RESAMPLES, own: Measure | None = None) -> Scores:
    """Every metric of these rows.

    Args:
        most: resamples at most.
        own: the user's metrics of them.
    """
    metrics: Metrics = {}
    found: dict[str, Interval] = {}
    too_long: list[str] = []
    for measure in measures(answered):
        metrics |= measure.value()
        found |= intervals(measure, most=most, groups=answered.groups)
        too_long += measure.names if takes_too_long(measure) else ()
    if own is not None:
        mine, around = own.value(), intervals(own, most=most, groups=answered.groups)
        # One that has the name of one of these, and another value, is told apart, for what is beside it is by these.
        called = {name: f"{name} (own)" if name in metrics else name for name in mine}
        called = {name: new for name, new in called.items() if mine[name] != metrics.get(name)}
        metrics |= {new: mine[name] for name, new in called.items()}
        found |= {new: around[name] for name, new in called.items() if name in around}
        too_long += called.values() if takes_too_long(own) or not own.resampled else ()
    single = frozenset(of_labels(answered.label_names))
    return Scores(len(answered), metrics, found, tuple(name for name in too_long if name not in single), single)


def scores_of_some(answered: Answered, rows: Rows) -> Scores:
    """The scores of some of the rows; of none there are none."""
    return scores(answered.take(rows)) if len(rows) else Scores(0, {}, {})


@dataclass(frozen=True)
class Evaluation(Shown):
    """A model's scores on labelled rows.

    Attributes:
        source: where the rows came from.
        scores: of all rows; the metrics of a label are called `f1[name]`.
        confusion: (labels, labels) how many rows of each label (a row of the matrix) got which answer (a column); of a
            multi-label task (labels, 2, 2) as scikit-learn's `multilabel_confusion_matrix`; None for a regression.
        new: of the rows whose text the model was not trained on, where it was on others' or on all.
        slices: by column and value.
        baselines: of what a fine-tuned model has to beat, by name; where some texts are new to the model and some are not, on
            the new ones, for it may know the others by heart.
        ahead: how far the model is above each baseline by the task's first metric on those rows, and the 95 % interval of that,
            by the same resamples of the rows for both; None where it would take too long, or all of them agree.
        notes: what there is to say.
    """

    source: str
    task: TaskName
    label_names: tuple[str, ...]
    scores: Scores
    label_rows: tuple[int, ...]
    confusion: NDArray[np.int64] | None
    new: Scores | None = None
    slices: Mapping[str, Mapping[str, Scores]] = field(default_factory=dict)
    baselines: Mapping[str, Scores] = field(default_factory=dict)
    ahead: Mapping[str, tuple[float, Interval | None]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def some_new(self) -> Scores | None:
        """The scores of the new texts, where there are both new ones and others."""
        return self.new if self.new is not None and self.new.rows else None

    @property
    def metrics(self) -> Metrics:
        """The metrics of all rows by name, but those of single labels."""
        return self.scores.overall.metrics

    @property
    def intervals(self) -> Mapping[str, Interval]:
        """Their 95 % intervals."""
        return self.scores.overall.intervals

    @property
    def labels(self) -> dict[str, dict[str, Any]]:
        """Rows, precision, recall and F1 of each label, and the interval of each."""
        if self.task == "regression":
            return {}
        return {
            name: {
                "rows": rows,
                **{kind: without_nan(self.scores.metrics[f"{kind}[{name}]"]) for kind in LABEL_KINDS},
                **{f"{kind}_interval": self.scores.intervals.get(f"{kind}[{name}]") for kind in LABEL_KINDS},
            }
            for name, rows in zip(self.label_names, self.label_rows, strict=True)
        }

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        said: dict[str, Any] = {"data": self.source, "task": self.task, "rows": self.scores.rows}
        said |= self.scores.as_json()
        if self.task != "regression":
            said |= {"labels": self.labels, "confusion": None if self.confusion is None else self.confusion.tolist()}
        if self.new is not None:
            said["new"] = {"rows": self.new.rows, **self.new.as_json()}
        if self.slices:
            said["by"] = {
                column: {value: {"rows": one.rows, **one.as_json()} for value, one in of.items()}
                for column, of in self.slices.items()
            }
        said["baselines"] = {
            name: {
                "rows": one.rows,
                **one.as_json(),
                "ahead": without_nan(self.ahead[name][0]),
                "ahead_interval": self.ahead[name][1],
            }
            for name, one in self.baselines.items()
        }
        return said | {"notes": list(self.notes)}

    def blocks(self) -> list[Block]:
        """Tables: metrics, labels, confusions, slices, baselines."""
        blocks: list[Block] = [f"{numbered(self.scores.rows, 'row')} of {self.source}; from and to: 95 % interval", ""]
        blocks.append(metrics_grid(self))
        if self.task != "regression":
            blocks += ["", label_grid(self)]
        if self.confusion is not None and self.confusion.ndim == 2:
            blocks += ["", *confusion_blocks(self.confusion, self.label_names)]
        headline = TASKS[self.task].headline[:2]
        for column, of in self.slices.items():
            blocks += ["", slice_grid(f"by {column}", of, headline)]
        if self.baselines:
            blocks += ["", baseline_grid(self, headline[0])]
        return [*blocks, *(["", *self.notes] if self.notes else [])]


def judged(
    answered: Answered,
    source: str,
    *,
    new: Rows | None = None,
    groups: Mapping[str, Mapping[str, Rows]] | None = None,
    baselines: Mapping[str, Answered] | None = None,
    own: Measure | None = None,
    notes: Sequence[str] = (),
) -> Evaluation:
    """The evaluation of answers.

    Args:
        new: the rows whose texts are new to the model, where not all of them are.
        groups: by column and value, the rows of each slice.
        baselines: what others say of the same rows, by name.
        own: the user's metrics, of all rows.
    """
    said = list(notes)
    others = {name: replace(one, groups=answered.groups) for name, one in (baselines or {}).items()}
    compared = answered
    if new is not None and len(new):
        compared, others = answered.take(new), {name: one.take(new) for name, one in others.items()}
    if answered.groups is not None:
        parts = {} if new is None or not len(new) else {"the new texts": new}
        parts |= {f"{column} {value}": rows for column, of in (groups or {}).items() for value, rows in of.items()}
        said += dependence_notes(answered.groups, parts)
    if len(answered) < 100:
        said.append(f"{numbered(len(answered), 'row')} say little: look at the intervals before the values")
    slices = {
        column: {value: scores(answered.take(rows), most=FEWEST_RESAMPLES) for value, rows in of.items()}
        for column, of in (groups or {}).items()
    }
    of_all = scores(answered, own=own)
    if of_all.too_long:
        what = f"resampling {numbered(len(answered), 'row')} takes too long"
        said.append(f"no interval of {', '.join(of_all.too_long)}: {what}")
    return Evaluation(
        source,
        answered.task,
        answered.label_names,
        of_all,
        rows_of_labels(answered),
        confusion(answered),
        None if new is None else scores_of_some(answered, new),
        slices,
        {name: scores(one, most=FEWEST_RESAMPLES) for name, one in others.items()},
        leads(compared, others),
        tuple(said),
    )


def measure_of(metric: str, answered: Answered) -> Measure:
    """The measure that gives a metric of the task."""
    return next(one for one in measures(answered) if metric in one.names)


def chance_line(answered: Answered) -> str | None:
    """How far chance moves the task's first metric, in words; None where resampling says nothing or takes too long."""
    metric = TASKS[answered.task].headline[0]
    if (interval := intervals(measure_of(metric, answered), groups=answered.groups).get(metric)) is None:
        return None
    drawn = "rows" if answered.groups is None else "groups of rows"
    if answered.groups is not None and len(np.unique(answered.groups)) < FEW_GROUPS:
        drawn += f", {TOO_FEW}"
    return f"{metric} of other such {drawn}: {interval[0]:.3f} to {interval[1]:.3f} (95 %)"


def leads(answered: Answered, others: Mapping[str, Answered]) -> dict[str, tuple[float, Interval | None]]:
    """How far the answers are above each of the others by the task's first metric, and the interval of that."""
    metric = TASKS[answered.task].headline[0]
    own, rivals = measure_of(metric, answered), {name: measure_of(metric, side) for name, side in others.items()}
    value = own.value()[metric]
    return {
        name: (value - one.value()[metric], difference(own, one, metric, answered.groups))
        for name, one in rivals.items()
    }


def dependence(table: Table, column: str | None) -> Rows | None:
    """The group of each row, (rows,), where chance draws the rows of one together; None where each row is its own."""
    if column is None or column not in table.columns:
        return None
    groups = groups_of(table, column)
    return groups if groups.max(initial=-1) + 1 < len(groups) else None


def dependence_notes(groups: Rows, parts: Mapping[str, Rows]) -> list[str]:
    """That intervals are by groups, and where there are too few of them.

    Args:
        groups: of all rows, (rows,).
        parts: the rows of each part that has intervals of its own.
    """
    counts = {name: len(np.unique(groups[rows])) for name, rows in parts.items()}
    count = len(np.unique(groups))
    rows_of = f"{numbered(len(groups), 'row')} are of {numbered(count, 'group')}"
    if count < FEWEST_GROUPS:
        return [f"{rows_of}, too few for intervals"]
    said = f"{rows_of}: the intervals draw whole groups"
    if count < FEW_GROUPS:
        return [f"{said}, {TOO_FEW}"]
    few = [name for name, of_part in counts.items() if FEWEST_GROUPS <= of_part < FEW_GROUPS]
    listed = ", ".join(few[:5]) + (f" and {len(few) - 5} more" if len(few) > 5 else "")
    return [said, *([f"{listed}: of fewer than {FEW_GROUPS} groups, {TOO_FEW}"] if few else [])]


def rows_of_labels(answered: Answered) -> tuple[int, ...]:
    """How many rows each label has."""
    if answered.task == "regression":
        return ()
    if answered.task == "multi-label":
        return tuple(int(count) for count in (answered.labels > 0.5).sum(axis=0))
    counts = np.bincount(answered.labels.astype(np.int64), minlength=len(answered.label_names))
    return tuple(int(count) for count in counts)


def confusion(answered: Answered) -> NDArray[np.int64] | None:
    """Labels beside answers, by scikit-learn."""
    from sklearn.metrics import confusion_matrix, multilabel_confusion_matrix

    if answered.task == "regression":
        return None
    if answered.task == "multi-label":
        gold, predicted = answered.labels > 0.5, answered.predicted
        if gold.shape[1] == 1:  # which scikit-learn takes for a binary problem
            return np.asarray(confusion_matrix(gold[:, 0], predicted[:, 0], labels=[False, True]))[None]
        return np.asarray(multilabel_confusion_matrix(gold, predicted))
    return np.asarray(
        confusion_matrix(answered.labels, answered.predicted, labels=np.arange(len(answered.label_names)))
    )


def metrics_grid(evaluation: Evaluation) -> Grid:
    """A line a metric; where some texts are not new to the model, the new ones' beside."""
    new = evaluation.some_new
    header = ("metric", "value", "from", "to") + (("new texts", "from", "to") if new else ())
    rows = [(name, *evaluation.scores.cells(name), *(new.cells(name) if new else ())) for name in evaluation.metrics]
    if new:
        rows.insert(0, ("rows", evaluation.scores.rows, None, None, new.rows, None, None))
    return Grid(header, rows, DECIMALS)


def label_grid(evaluation: Evaluation) -> Grid:
    """A line a label."""
    rows = [
        (name, one["rows"], *(one[kind] for kind in LABEL_KINDS), *(one["f1_interval"] or (None, None)))
        for name, one in evaluation.labels.items()
    ]
    return Grid(("label", "rows", *LABEL_KINDS, "from", "to"), rows, DECIMALS)


def confusion_blocks(matrix: NDArray[np.int64], names: Sequence[str]) -> list[Block]:
    """The matrix, or the largest of what is confused in it."""
    count_width = len(f"{matrix.max(initial=0):,}")
    width = max(map(cell_len, names)) + sum(2 + max(cell_len(name), count_width) for name in names)
    if width <= MOST_WIDTH:
        rows = [(name, *map(int, row)) for name, row in zip(names, matrix, strict=True)]
        return ["a row a label, a column an answer:", Grid(("", *names), rows)]
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    largest = [divmod(int(cell), len(names)) for cell in np.argsort(-wrong, axis=None, kind="stable")[:LISTED_CELLS]]
    listed = [(names[i], names[j], int(wrong[i, j]), int(matrix[i].sum())) for i, j in largest if wrong[i, j]]
    return ["confused most often:", Grid(("label", "answered", "rows", "of"), listed)] if listed else []


def baseline_grid(evaluation: Evaluation, name: str) -> Grid:
    """A line a rival: its score, and how far the model is ahead of it."""
    new = evaluation.some_new
    lines: list[tuple[Any, ...]] = [("this model", *(new or evaluation.scores).cells(name), None, None, None)]
    for rival, one in evaluation.baselines.items():
        ahead, interval = evaluation.ahead[rival]
        lines.append((rival, *one.cells(name), without_nan(ahead), *(interval or (None, None))))
    title = "on the new texts" if new else "against"
    return Grid((title, name, "from", "to", "ahead by", "from", "to"), lines, DECIMALS)


def slice_grid(title: str, of: Mapping[str, Scores], names: Sequence[str]) -> Grid:
    """A line a slice."""
    header = [title, "rows", *(cell for name in names for cell in (name, "from", "to"))]
    lines = [(value, one.rows, *(cell for name in names for cell in one.cells(name))) for value, one in of.items()]
    return Grid(header, lines, DECIMALS)
