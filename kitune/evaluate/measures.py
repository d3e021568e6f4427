"""Every metric of a task, by scikit-learn and scipy, over rows that may count several times.

What has no meaning on the rows at hand is NaN, here, and null in JSON: an AUC where a class has no rows or all of them, the
recall of a class without rows. A class that neither occurs nor is predicted is left out of every average.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kitune.config import TaskName
from kitune.data.table import Rows
from kitune.metrics import Metrics, Threshold, sigmoid, softmax

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# How often each case counts, (cases,) or (samples, cases).
Weights = NDArray[np.floating] | Ints
# Bins of confidence in the calibration error (Guo et al. 2017, arXiv:1706.04599, section 3).
CALIBRATION_BINS = 15
# Microseconds of a call of scikit-learn for one sample.
SLOW = 1_500


@dataclass(frozen=True)
class Answered:
    """What a model said of labelled rows.

    Attributes:
        logits: (rows, outputs).
        labels: as `label_array` gives them.
        label_names: of the outputs.
        threshold: probability from which a label of a multi-label task counts; one for all rows, or (rows, 1).
        groups: the group of each row, (rows,), where rows of one group are not independent: chance draws them together.
    """

    task: TaskName
    logits: NDArray[np.floating]
    labels: NDArray[np.int64] | NDArray[np.float32]
    label_names: tuple[str, ...]
    threshold: Threshold = 0.5
    groups: Ints | None = None

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def predicted(self) -> NDArray[Any]:
        """What the outputs decide: (rows,) positions, (rows, labels) of true and false, or (rows,) numbers."""
        if self.task == "single-label":
            return np.asarray(self.logits.argmax(axis=1))
        if self.task == "multi-label":
            return np.asarray(sigmoid(self.logits) >= self.threshold)
        return np.asarray(self.logits[:, 0], dtype=np.float64)

    def take(self, rows: Rows) -> "Answered":
        """Some of the rows."""
        threshold = self.threshold if isinstance(self.threshold, float) else self.threshold[rows]
        groups = None if self.groups is None else self.groups[rows]
        return replace(self, logits=self.logits[rows], labels=self.labels[rows], threshold=threshold, groups=groups)


@dataclass(frozen=True)
class Measure:
    """Metrics that are computed together, for many samples at once.

    Attributes:
        names: of what `of` gives, in its order.
        case: which of the distinct cases each row is, (rows,).
        of: weights of the cases, (samples, cases) -> the metrics' values, (samples, names).
        work: microseconds that a sample takes, about; a fixed figure, so that equal rows have equal intervals everywhere.
        resampled: whether a resample says how far the metrics may be off.
        shares: those that are shares of rows that are right.
        else_zero: those that are 0 where they have no meaning on the rows as they are; a resample of no meaning says nothing.
    """

    names: tuple[str, ...]
    case: Ints
    of: Callable[[Weights], Floats]
    work: float
    resampled: bool = True
    shares: tuple[str, ...] = ()
    else_zero: tuple[str, ...] = ()

    @cached_property
    def counts(self) -> Ints:
        """How often each case occurs, (cases,)."""
        return np.bincount(self.case)

    def of_rows(self, weights: Weights) -> Floats:
        """The metrics of each sample, (samples, names), from weights of the rows, (samples, rows)."""
        return self.values(np.stack([np.bincount(self.case, weights=sample) for sample in weights]))

    def values(self, weights: Weights) -> Floats:
        """The metrics of each sample, without scikit-learn's remarks about classes that a sample lacks."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.of(weights)

    def value(self) -> Metrics:
        """The metrics of the rows as they are."""
        found = zip(self.names, map(float, self.values(self.counts[None])[0]), strict=True)
        return {name: 0.0 if name in self.else_zero and np.isnan(value) else value for name, value in found}


def measures(answered: Answered) -> list[Measure]:
    """The metrics of the task, each by its name; those of a label are called `f1[name]`."""
    return MEASURES[answered.task](answered)


def single_label(answered: Answered) -> list[Measure]:
    """Of decisions: those that scikit-learn calls by these names. Of probabilities: AUC, log loss, calibration error."""
    gold, shares = answered.labels.astype(np.int64), softmax(answered.logits)
    predicted, outputs = answered.predicted, answered.logits.shape[1]
    cells, case = np.unique(np.stack([gold, predicted]), axis=1, return_inverse=True)

    def decisions(weights: Weights) -> Floats:
        # All samples are one problem for scikit-learn, in which every sample has classes of its own.
        own = np.arange(len(weights))[:, None] * outputs
        precision, recall, f1, rows = label_scores(
            own + cells[0], own + cells[1], weights, np.arange(own.size * outputs)
        )
        accuracy = average(recall, rows)  # each class's share that was found, by its rows
        told = [accuracy, mean(recall), mean(f1), accuracy, average(f1, rows)]
        return np.column_stack([*told, *([f1[:, 1]] if outputs == 2 else []), precision, recall, f1])

    def correlations(weights: Weights) -> Floats:
        return np.asarray([[correlation(cells, sample)] for sample in weights])

    def areas(weights: Weights) -> Floats:
        hot = gold[:, None] == np.arange(outputs)
        columns = slice(1, 2) if outputs == 2 else slice(None)  # of two classes the second's
        return np.asarray([[mean_auc(hot[:, columns], shares[:, columns], sample)] for sample in weights])

    def losses(weights: Weights) -> Floats:
        from sklearn.metrics import log_loss

        if len(weights) == 1:
            return np.asarray([[log_loss(gold, shares, labels=np.arange(outputs), sample_weight=weights[0])]])
        of_row = -np.log(np.maximum(shares[np.arange(len(gold)), gold], np.finfo(np.float64).eps))
        return np.asarray(weights @ of_row[:, None] / weights.sum(axis=1, keepdims=True))

    def calibration(weights: Weights) -> Floats:
        return np.asarray([[calibration_error(shares.max(axis=1), gold == predicted, sample)] for sample in weights])

    names: tuple[str, ...] = ("accuracy", "balanced_accuracy", "macro_f1", "micro_f1", "weighted_f1")
    names += ("f1",) if outputs == 2 else ()
    rows = np.arange(len(gold))
    return [
        Measure(
            names + of_labels(answered.label_names),
            case,
            decisions,
            5 + 0.3 * cells.shape[1],
            shares=("accuracy", "micro_f1"),
            else_zero=("f1",),
        ),
        Measure(("mcc",), case, correlations, SLOW + cells.shape[1], else_zero=("mcc",)),
        Measure(("auc",), rows, areas, SLOW * outputs + 0.3 * shares.size),
        Measure(("log_loss",), rows, losses, 20 + 0.05 * len(gold)),
        Measure(("calibration_error",), rows, calibration, SLOW, resampled=False),
    ]


def multi_label(answered: Answered) -> list[Measure]:
    """As `single_label`, over the decisions on each label of each row; AUC is the mean of the labels' own."""
    gold, shares = answered.labels > 0.5, sigmoid(answered.logits)
    predicted, outputs = answered.predicted, answered.logits.shape[1]
    right = (gold == predicted).all(axis=1)

    def decisions(weights: Weights) -> Floats:
        there, said, both = (weights @ part.astype(np.float64) for part in (gold, predicted, gold & predicted))
        neither = weights.sum(axis=1, keepdims=True) - there - said + both
        counted = np.stack([neither, said - both, there - both, both], axis=2)  # (samples, labels, 4)
        precision, recall, f1, rows = (part.reshape(-1, outputs) for part in outcome_scores(counted.reshape(-1, 4)))
        micro = outcome_scores(counted.sum(axis=1))[2]
        subsets = weights @ right / weights.sum(axis=1)
        return np.column_stack([micro, mean(f1), average(f1, rows), subsets, precision, recall, f1])

    def areas(weights: Weights) -> Floats:
        return np.asarray([[mean_auc(gold, shares, sample)] for sample in weights])

    def losses(weights: Weights) -> Floats:
        from sklearn.metrics import log_loss

        if len(weights) == 1:
            of_each = np.repeat(weights[0], outputs)
            return np.asarray([[log_loss(gold.ravel(), shares.ravel(), labels=[False, True], sample_weight=of_each)]])
        of_row = -np.log(np.maximum(np.where(gold, shares, 1 - shares), np.finfo(np.float64).eps)).mean(axis=1)
        return np.asarray(weights @ of_row[:, None] / weights.sum(axis=1, keepdims=True))

    def calibration(weights: Weights) -> Floats:
        return np.asarray(
            [[calibration_error(shares.ravel(), gold.ravel(), np.repeat(one, outputs))] for one in weights]
        )

    names = ("micro_f1", "macro_f1", "weighted_f1", "subset_accuracy", *of_labels(answered.label_names))
    rows = np.arange(len(gold))
    return [
        Measure(
            names,
            rows,
            decisions,
            20 + 5 * outputs + 2e-3 * gold.size,
            shares=("subset_accuracy",),
            else_zero=("micro_f1", "macro_f1"),
        ),
        Measure(("auc",), rows, areas, SLOW * outputs + 0.3 * shares.size),
        Measure(("log_loss",), rows, losses, 20 + 0.05 * len(gold)),
        Measure(("calibration_error",), rows, calibration, SLOW, resampled=False),
    ]


def regression(answered: Answered) -> list[Measure]:
    """Correlations, 0 where either side is constant, and errors."""
    said, gold = answered.predicted, answered.labels[:, 0].astype(np.float64)

    def numbers(weights: Weights) -> Floats:
        from scipy.stats import pearsonr, rankdata
        from sklearn.metrics import mean_absolute_error, root_mean_squared_error

        if len(np.unique(weights.sum(axis=1))) > 1:  # whole groups were drawn
            return np.concatenate([numbers(sample[None]) for sample in weights])
        rows = np.stack([np.repeat(np.arange(len(gold)), sample.astype(np.int64)) for sample in weights])
        ours, theirs = said[rows], gold[rows]
        varies = (np.ptp(ours, axis=1) > 0) & (np.ptp(theirs, axis=1) > 0)
        pearson, spearman = np.full((2, len(rows)), np.nan)
        if varies.any() and rows.shape[1] > 1:
            ours_, theirs_ = ours[varies], theirs[varies]
            pearson[varies] = pearsonr(ours_, theirs_, axis=1).statistic
            spearman[varies] = pearsonr(rankdata(ours_, axis=1), rankdata(theirs_, axis=1), axis=1).statistic
        errors = [f(theirs.T, ours.T, multioutput="raw_values") for f in (root_mean_squared_error, mean_absolute_error)]
        return np.column_stack([pearson, spearman, *errors])

    rows = np.arange(len(gold))
    names, correlations = ("pearson", "spearman", "rmse", "mae"), ("pearson", "spearman")
    return [Measure(names, rows, numbers, 20 + 0.3 * len(gold), else_zero=correlations)]


MEASURES: dict[TaskName, Callable[[Answered], list[Measure]]] = {
    "single-label": single_label,
    "multi-label": multi_label,
    "regression": regression,
}


def of_labels(names: Sequence[str]) -> tuple[str, ...]:
    """`precision[refund]` and so on, of each label."""
    return tuple(f"{kind}[{name}]" for kind in ("precision", "recall", "f1") for name in names)


def label_scores(gold: Ints, predicted: Ints, weights: Weights, labels: Ints) -> tuple[Floats, Floats, Floats, Floats]:
    """Precision, recall, F1 and rows of each label, (samples, labels) each.

    A label that was never predicted has precision 0 where it occurs; one that does not occur has no recall; one that does
    neither has nothing.

    Args:
        gold, predicted, weights: (samples, cases).
        labels: of all samples, (samples x labels,).
    """
    from sklearn.metrics import precision_recall_fscore_support

    scores = precision_recall_fscore_support(
        gold.ravel(), predicted.ravel(), labels=labels, sample_weight=weights.ravel(), zero_division=np.nan
    )
    precision, recall, f1, rows = (part.reshape(len(weights), -1) for part in scores)
    return np.where(np.isnan(precision) & (rows > 0), 0.0, precision), recall, f1, rows


def outcome_scores(counted: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """`label_scores` of many problems of yes and no, (problems, 1) each.

    Args:
        counted: (problems, 4), rows that are neither so nor said to be, said alone, so alone, both.
    """
    own = 2 * np.arange(len(counted))[:, None]
    yes = own + 1
    gold, predicted = own + np.asarray([0, 0, 1, 1]), own + np.asarray([0, 1, 0, 1])
    return label_scores(gold, predicted, counted, yes.ravel())


def correlation(cells: Ints, weights: Weights) -> float:
    """Matthews's correlation coefficient of labels and answers, (2, cases); NaN where one class is all there is."""
    from sklearn.metrics import matthews_corrcoef

    there = weights > 0
    if len(np.unique(cells[:, there])) < 2:
        return float("nan")
    return float(matthews_corrcoef(*cells[:, there], sample_weight=weights[there]))


def mean_auc(gold: NDArray[np.bool_], shares: Floats, weights: Weights) -> float:
    """Area under the ROC curve, equal probabilities counting half: the mean over the labels that have rows of both kinds.

    Args:
        gold, shares: (rows, labels).
        weights: (rows,).
    """
    from sklearn.metrics import roc_auc_score

    there = weights > 0
    gold, shares, weights = gold[there], shares[there], weights[there]
    both = [i for i in range(gold.shape[1]) if gold[:, i].any() and not gold[:, i].all()]
    areas = [roc_auc_score(gold[:, i], shares[:, i], sample_weight=weights) for i in both]
    return float(np.mean(areas)) if areas else float("nan")


def calibration_error(confidence: Floats, right: NDArray[np.bool_], weights: Weights) -> float:
    """Expected calibration error: how far confidence is from the share that is right, over bins of equal width.

    Args:
        confidence: (rows,) in [0, 1]: of the label that was chosen, or of each label that could be.
        right: (rows,) whether that label is so.

    Source: Guo et al. 2017, arXiv:1706.04599, equation 3.
    """
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    surplus = np.bincount(bins, weights=weights * (confidence - right), minlength=CALIBRATION_BINS)
    return float(np.abs(surplus).sum() / weights.sum())


def mean(values: Floats) -> Floats:
    """The mean over labels, (samples,), of the values that have a meaning; NaN where none has."""
    return np.asarray(np.nanmean(values, axis=1))


def average(values: Floats, rows: Floats) -> Floats:
    """The mean over labels, (samples,), each weighing as much as its rows; NaN where there are none."""
    counted = np.where(np.isnan(values), 0.0, rows)
    total = counted.sum(axis=1)
    return np.asarray((np.nan_to_num(values) * counted).sum(axis=1) / np.where(total > 0, total, np.nan))
