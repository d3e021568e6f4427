"""Linear heads over fixed features, their strength chosen on the validation rows."""

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kitune.config import TaskName
from kitune.metrics import MORE_IS_BETTER, best_threshold
from kitune.tasks import TASKS

Matrix = Any  # (rows, features), dense or sparse
Labels = NDArray[Any]  # as `label_array` gives them
Outputs = NDArray[np.float64]
Head = Callable[[Matrix], Outputs]  # features -> (rows, outputs), as a network's logits

STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
MOST_ITERATIONS = 200
# Labels x features beyond which a baseline would take minutes and gigabytes.
MOST_COEFFICIENTS = 5e7
# The outputs of a label that train does not hold, and of one that it holds in every row.
NEVER, ALWAYS = -1e4, 1e4


def fit_head(
    task: TaskName,
    features: tuple[Matrix, Matrix],
    labels: tuple[Labels, Labels],
    *,
    num_outputs: int,
    headline: str | None = None,
) -> tuple[Head, float, float]:
    """The head that is fitted on train and best on valid, its threshold, and its strength.

    Args:
        features, labels: of train and of valid.
        headline: the metric; None: the task's first.

    Raises:
        ValueError: there is too much to fit.
    """
    if num_outputs * features[0].shape[1] > MOST_COEFFICIENTS:
        raise ValueError(f"{num_outputs:,} labels of {features[0].shape[1]:,} features each would take minutes")
    name = headline or TASKS[task].headline[0]
    best: tuple[float, Head, float, float] | None = None
    for strength, head in zip(STRENGTHS, HEADS[task](features[0], labels[0], num_outputs), strict=True):
        outputs = head(features[1])
        threshold = best_threshold(outputs.astype(np.float32), labels[1]) if task == "multi-label" else 0.5
        told = {"threshold": threshold} if task == "multi-label" else {}
        value = TASKS[task].metrics(outputs, labels[1], **told)[name]
        value = value if MORE_IS_BETTER[name] else -value
        if best is None or value > best[0]:  # of equals the first: the least strength
            best = (value, head, threshold, strength)
    assert best is not None
    return best[1:]


def logistic(features: Matrix, labels: Labels, num_outputs: int) -> Iterator[Head]:
    """Multinomial logistic regressions, one for each strength (scikit-learn's C), each started where the last one ended."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=MOST_ITERATIONS, warm_start=True)

    def head(fitted: Any, other: Matrix) -> Outputs:
        outputs = np.full((other.shape[0], num_outputs), NEVER)
        decision = fitted.decision_function(other)
        if decision.ndim == 1:  # two classes share one number
            decision = np.stack([np.zeros_like(decision), decision], axis=1)
        outputs[:, fitted.classes_] = decision
        return outputs

    for strength in STRENGTHS:
        yield bound(head, fitted(model.set_params(C=strength), features, labels))


def one_against_rest(features: Matrix, labels: Labels, num_outputs: int) -> Iterator[Head]:
    """A logistic regression for each label, for each strength.

    Not scikit-learn's OneVsRestClassifier: it gives a label that no row of train has the output 0, a probability of a half.
    """
    from sklearn.linear_model import LogisticRegression

    gold = labels > 0.5
    held = [number for number in range(num_outputs) if 0 < gold[:, number].sum() < len(gold)]
    of_all = np.where(gold.all(axis=0), ALWAYS, NEVER)
    models = {number: LogisticRegression(max_iter=MOST_ITERATIONS, warm_start=True) for number in held}

    def head(of_label: dict[int, Any], other: Matrix) -> Outputs:
        outputs = np.tile(of_all, (other.shape[0], 1))
        for number, one in of_label.items():
            outputs[:, number] = one.decision_function(other)
        return outputs

    for strength in STRENGTHS:
        of_label = {
            number: fitted(one.set_params(C=strength), features, gold[:, number]) for number, one in models.items()
        }
        yield bound(head, of_label)


def ridge(features: Matrix, labels: Labels, num_outputs: int) -> Iterator[Head]:
    """Ridge regressions; the strength is the inverse of alpha: more fits closer."""
    from sklearn.linear_model import Ridge

    def head(fitted: Any, other: Matrix) -> Outputs:
        return np.asarray(fitted.predict(other)).reshape(-1, 1)

    for strength in STRENGTHS:
        yield bound(head, Ridge(alpha=1 / strength).fit(features, labels[:, 0]))


HEADS: dict[TaskName, Callable[[Matrix, Labels, int], Iterator[Head]]] = {
    "single-label": logistic,
    "multi-label": one_against_rest,
    "regression": ridge,
}


def fitted(model: Any, features: Matrix, labels: Labels) -> Any:
    """A copy of the model as it is after this fit; a fit that has not come to its very end will do for a baseline."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return copy.deepcopy(model.fit(features, labels))


def bound(head: Callable[[Any, Matrix], Outputs], model: Any) -> Head:
    """`head` of this model."""
    return lambda other: head(model, other)
