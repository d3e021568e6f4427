"""Linear heads over fixed features: logistic and ridge regression, their strength chosen on the valid part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from measure import best_threshold, measure
from numpy.typing import NDArray
from sets import Task
from sklearn.linear_model import LogisticRegression, Ridge

Matrix = Any  # a dense or sparse (rows, features)
Score = Callable[[Matrix], NDArray[Any]]  # features (rows, features) -> outputs (rows, outputs)
STRENGTHS = (0.1, 1.0, 10.0, 30.0)  # 0.1 is for ridge regression, whose valid score still rises there
NEVER = -1e4  # output of a label that train does not hold


def best_head(
    features: tuple[Matrix, Matrix],
    labels: tuple[NDArray[Any], NDArray[Any]],
    *,
    task: Task,
    headline: str,
    num_outputs: int,
) -> tuple[Score, float]:
    """The head that is best by `headline` on the valid part, fitted on train alone, and its strength.

    Args:
        features: of the train and the valid rows.
        labels: of the train and the valid rows, as `sets.gold` gives them.
    """
    found: list[tuple[float, float, Score]] = []
    for strength in STRENGTHS:
        if task == "regression":
            score = ridge(features[0], labels[0], strength=strength)
        elif task == "multi-label":
            score = one_against_rest(features[0], labels[0], strength=strength)
        else:
            score = logistic(features[0], labels[0], num_outputs=num_outputs, strength=strength)
        outputs = score(features[1])
        threshold = best_threshold(outputs, labels[1]) if task == "multi-label" else None
        metric = measure(outputs, labels[1], task=task, threshold=threshold)[headline]
        found.append((metric, strength, score))
    _, strength, score = max(found, key=lambda candidate: candidate[0])  # of equal ones the first: the least strength
    return score, strength


def logistic(features: Matrix, labels: NDArray[Any], *, num_outputs: int, strength: float) -> Score:
    """Multinomial logistic regression; `labels` are class indices (rows,), `strength` is scikit-learn's C."""
    model = LogisticRegression(C=strength, max_iter=1000).fit(features, labels)

    def score(other: Matrix) -> NDArray[Any]:
        outputs = np.full((other.shape[0], num_outputs), NEVER)
        decision = model.decision_function(other)
        if decision.ndim == 1:  # two classes share one number
            decision = np.stack([np.zeros_like(decision), decision], axis=1)
        outputs[:, model.classes_] = decision
        return outputs

    return score


def one_against_rest(features: Matrix, labels: NDArray[Any], *, strength: float) -> Score:
    """A logistic regression for each label; `labels` are 0 or 1, (rows, labels).

    Not scikit-learn's OneVsRestClassifier: to a label that no train row holds it gives the output 0, which is a
    probability of a half.
    """
    held = [number for number in range(labels.shape[1]) if 0 < labels[:, number].sum() < len(labels)]
    models = [LogisticRegression(C=strength, max_iter=1000).fit(features, labels[:, number]) for number in held]

    def score(other: Matrix) -> NDArray[Any]:
        outputs = np.full((other.shape[0], labels.shape[1]), NEVER)
        for number, model in zip(held, models, strict=True):
            outputs[:, number] = model.decision_function(other)
        return outputs

    return score


def ridge(features: Matrix, labels: NDArray[Any], *, strength: float) -> Score:
    """Ridge regression; `labels` are scores (rows,), `strength` is the inverse of its alpha: more fits closer."""
    model = Ridge(alpha=1 / strength).fit(features, labels)
    return lambda other: np.asarray(model.predict(other)).reshape(-1, 1)
