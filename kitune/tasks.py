"""The table of tasks. A task is a row: its functions and nothing else."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kitune.config import TaskName
from kitune.metrics import (
    Metrics,
    Threshold,
    multi_label_metrics,
    regression_metrics,
    sigmoid,
    single_label_metrics,
    softmax,
)
from kitune.model.losses import binary_cross_entropy_sum, cross_entropy_sum, squared_error_sum

Decoded = list[Any]


@dataclass(frozen=True)
class Task:
    """What differs between tasks.

    Attributes:
        problem_type: transformers' name for it, written to config.json.
        loss: (logits, labels, weights) -> sum over rows.
        metrics: (logits, labels) -> values by name; the first in `headline` chooses the best weights unless told.
        probabilities: logits -> (rows, outputs), or None where outputs are no probabilities.
        decode: (logits, label names, threshold) -> one answer a row.
    """

    problem_type: str
    loss: Callable[..., Tensor]
    metrics: Callable[..., Metrics]
    headline: tuple[str, ...]
    probabilities: Callable[[NDArray[np.float32]], NDArray[np.float64]] | None
    decode: Callable[[NDArray[np.float32], Sequence[str], Threshold], Decoded]


def argmax_name(logits: NDArray[np.float32], names: Sequence[str], threshold: Threshold) -> Decoded:
    """The name of the largest output."""
    return [names[i] for i in logits.argmax(axis=1)]


def names_above(logits: NDArray[np.float32], names: Sequence[str], threshold: Threshold) -> Decoded:
    """The names of all outputs whose probability reaches the threshold."""
    return [[names[int(i)] for i in np.flatnonzero(row)] for row in sigmoid(logits) >= threshold]


def raw_value(logits: NDArray[np.float32], names: Sequence[str], threshold: Threshold) -> Decoded:
    """The one output."""
    return [float(value) for value in logits[:, 0]]


TASKS: dict[TaskName, Task] = {
    "single-label": Task(
        "single_label_classification",
        cross_entropy_sum,
        single_label_metrics,
        ("accuracy", "macro_f1", "f1", "mcc"),
        softmax,
        argmax_name,
    ),
    "multi-label": Task(
        "multi_label_classification",
        binary_cross_entropy_sum,
        multi_label_metrics,
        ("micro_f1", "macro_f1", "subset_accuracy"),
        sigmoid,
        names_above,
    ),
    "regression": Task(
        "regression", squared_error_sum, regression_metrics, ("spearman", "pearson", "rmse", "mae"), None, raw_value
    ),
}


def task_of(problem_type: str | None, num_labels: int) -> TaskName:
    """The task of a classification model of any origin, by its config; as transformers guesses where it says nothing."""
    for name, task in TASKS.items():
        if task.problem_type == problem_type:
            return name
    return "regression" if num_labels == 1 else "single-label"
