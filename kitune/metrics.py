"""Metrics by scikit-learn and scipy, and which way is better."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

# The metrics that may choose the best weights, and whether more of it is better.
MORE_IS_BETTER = {
    "loss": False,
    "accuracy": True,
    "macro_f1": True,
    "f1": True,
    "mcc": True,
    "micro_f1": True,
    "subset_accuracy": True,
    "pearson": True,
    "spearman": True,
    "rmse": False,
    "mae": False,
}

# Metrics that are shares of rows, and those that are correlations: how far chance moves them is known.
SHARES = frozenset({"accuracy", "macro_f1", "f1", "micro_f1", "subset_accuracy"})
CORRELATIONS = frozenset({"mcc", "pearson", "spearman"})

Metrics = dict[str, float]
# The probability from which a label counts: one for all rows, or (rows, 1), each row's own.
Threshold = float | NDArray[np.float64]
THRESHOLDS = np.linspace(0.05, 0.95, 19)


def softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Probabilities over the last axis."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def sigmoid(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Each output's own probability."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64))))


def single_label_metrics(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Metrics:
    """Accuracy, macro-F1 over the classes that occur in labels or predictions, MCC; F1 of the second class where two are.

    Args:
        logits: (rows, classes).
        labels: (rows,).
    """
    from sklearn.metrics import f1_score, matthews_corrcoef

    predicted = logits.argmax(axis=1)
    varies = len(np.union1d(predicted, labels)) > 1  # scikit-learn warns of the 0 that it gives for a single class
    metrics = {
        "accuracy": float((predicted == labels).mean()),
        "macro_f1": float(f1_score(labels, predicted, average="macro", zero_division=0.0)),
        "mcc": float(matthews_corrcoef(labels, predicted)) if varies else 0.0,
    }
    if logits.shape[1] == 2:
        metrics["f1"] = float(
            f1_score(labels, predicted, pos_label=1, labels=[0, 1], average="binary", zero_division=0.0)
        )
    return metrics


def multi_label_metrics(logits: NDArray[np.float32], labels: NDArray[np.float32], *, threshold: float = 0.5) -> Metrics:
    """Micro-F1, macro-F1 and the share of rows whose labels are all right, where a probability reaches `threshold`.

    A label that neither occurs nor is answered is in no average.

    Args:
        logits, labels: (rows, labels).
    """
    from sklearn.metrics import f1_score

    shares, gold = sigmoid(logits), labels > 0.5
    predicted = shares >= threshold
    there, micro = gold.any(axis=0) | predicted.any(axis=0), micro_f1(shares, gold, threshold)
    # A single column is a binary problem for scikit-learn, with an F1 of either class.
    alone = gold.shape[1] == 1
    of_label = np.asarray([micro] if alone else f1_score(gold, predicted, average=None, zero_division=0.0))[there]
    return {
        "micro_f1": micro,
        "macro_f1": float(of_label.mean()) if len(of_label) else 0.0,
        "subset_accuracy": float((predicted == gold).all(axis=1).mean()),
    }


def micro_f1(shares: NDArray[np.float64], gold: NDArray[np.bool_], threshold: float) -> float:
    """F1 of all decisions together; 0 where no label is there and none is said.

    Args:
        shares, gold: (rows, labels).
    """
    from sklearn.metrics import f1_score

    return float(f1_score(gold.ravel(), shares.ravel() >= threshold, zero_division=0.0))


def best_threshold(logits: NDArray[np.float32], labels: NDArray[np.float32]) -> float:
    """The one threshold for all labels with the best micro-F1 on these rows, the one nearest to 0.5 of equals."""
    shares, gold = sigmoid(logits), labels > 0.5
    scores = [micro_f1(shares, gold, float(threshold)) for threshold in THRESHOLDS]
    best = max(scores)
    return float(
        min((t for t, score in zip(THRESHOLDS, scores, strict=True) if score == best), key=lambda t: abs(t - 0.5))
    )


def regression_metrics(logits: NDArray[np.float32], labels: NDArray[np.float32]) -> Metrics:
    """Pearson, Spearman, RMSE and MAE; a correlation is 0 where either side is constant.

    Args:
        logits, labels: (rows, 1).
    """
    from scipy.stats import pearsonr, spearmanr

    predicted, gold = logits[:, 0].astype(np.float64), labels[:, 0].astype(np.float64)
    varies = len(gold) > 1 and np.ptp(predicted) > 0 and np.ptp(gold) > 0
    return {
        "pearson": float(pearsonr(predicted, gold).statistic) if varies else 0.0,
        "spearman": float(spearmanr(predicted, gold).statistic) if varies else 0.0,
        "rmse": float(np.sqrt(np.square(predicted - gold).mean())),
        "mae": float(np.abs(predicted - gold).mean()),
    }


def better(name: str, new: float, old: float | None, *, more: bool | Literal["auto"] = "auto") -> bool:
    """Whether `new` beats `old`; NaN beats nothing.

    Args:
        more: whether more of it is better; auto: as MORE_IS_BETTER says of the metric.
    """
    if new != new:
        return False
    more = MORE_IS_BETTER[name] if more == "auto" else more
    return old is None or (new > old if more else new < old)


def standard_error(name: str, value: float, rows: int) -> float:
    """How far chance moves a metric of so many rows, about: of a share as of a binomial, of a correlation as Fisher says.

    Of other metrics it is not known without the rows, and 0.
    """
    if rows < 2:
        return 0.0
    if name in SHARES:
        return float(np.sqrt(max(0.0, value * (1 - value)) / rows))
    return float((1 - value**2) / np.sqrt(rows - 1)) if name in CORRELATIONS else 0.0


def without_nan(value: Any) -> Any:
    """`value` as JSON can say it: what is not finite is null."""
    if isinstance(value, Mapping):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table_line(metrics: Metrics, names: Sequence[str]) -> str:
    """`accuracy 0.912, macro_f1 0.903`: the metrics of `names` that are there."""
    return ", ".join(f"{name} {metrics[name]:.4f}" for name in names if name in metrics)
