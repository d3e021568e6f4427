"""Metrics of all competitors, from their outputs and the gold labels; nobody measures himself."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import ConstantInputWarning, pearsonr, spearmanr
from sets import Task
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

GRID = [round(0.05 * step, 2) for step in range(1, 20)]  # probabilities 0.05 to 0.95


def decide(outputs: NDArray[Any], *, task: Task, threshold: float | None = None) -> NDArray[Any]:
    """What outputs (rows, outputs) say: class indices (rows,), 0 or 1 (rows, labels), or scores (rows,)."""
    if np.isnan(outputs).any():
        raise ValueError(f"outputs of {np.isnan(outputs).any(axis=1).sum()} rows hold NaN: the training diverged")
    if task == "single-label":
        return np.asarray(outputs.argmax(axis=1))
    if task == "regression":
        return outputs[:, 0].astype(np.float64)
    if threshold is None:
        raise ValueError("multi-label outputs need a threshold; take best_threshold() of the valid part")
    return np.asarray(expit(outputs) >= threshold, dtype=np.int64)


def best_threshold(outputs: NDArray[Any], labels: NDArray[Any]) -> float:
    """The one probability of GRID, for all labels alike, that gives the best micro-F1 on these rows."""
    scores = [micro_f1(decide(outputs, task="multi-label", threshold=at), labels) for at in GRID]
    return GRID[int(np.argmax(scores))]


def micro_f1(decided: NDArray[Any], labels: NDArray[Any]) -> float:
    return float(f1_score(labels, decided, average="micro", zero_division=0.0))


def measure(
    outputs: NDArray[Any], labels: NDArray[Any], *, task: Task, threshold: float | None = None
) -> dict[str, float]:
    """All metrics of the task, each as a share of 1; `labels` as `sets.gold` gives them."""
    if len(outputs) != len(labels) or outputs.ndim != 2:
        raise ValueError(f"outputs of shape {outputs.shape} for {len(labels)} rows; one row of outputs for each is due")
    decided = decide(outputs, task=task, threshold=threshold)
    if task == "regression":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConstantInputWarning)
            both = {"pearson": pearsonr(decided, labels).statistic, "spearman": spearmanr(decided, labels).statistic}
        # constant outputs correlate with nothing; as 0 they can be compared
        return {name: float(np.nan_to_num(value)) for name, value in both.items()}
    macro = float(f1_score(labels, decided, average="macro", zero_division=0.0))
    if task == "multi-label":
        return {"micro_f1": micro_f1(decided, labels), "macro_f1": macro}
    metrics = {"accuracy": float(accuracy_score(labels, decided)), "macro_f1": macro}
    if outputs.shape[1] == 2:
        metrics["f1"] = float(f1_score(labels, decided, zero_division=0.0))
        metrics["mcc"] = float(matthews_corrcoef(labels, decided))
    return metrics
