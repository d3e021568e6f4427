"""Settings that work without tuning, from the size of the model and the data.

Chosen on data sets that stand in no table of BENCHMARKS.md (trec, sst5 and our own tickets); see there for the figures.
"""

import math
from collections.abc import Sequence

from kitune.config import TaskName, TrainOptions
from kitune.errors import UserError
from kitune.metrics import MORE_IS_BETTER
from kitune.tasks import TASKS

# A 22M-parameter encoder with two classes learns well at this rate; larger ones want less, many classes more. On sst5 twice
# the rate of five classes is already too much: the network collapses to one answer.
BASE_RATE, BASE_PARAMETERS = 6e-5, 2.2e7
# Optimizer steps that a new head and a small data set want; many classes want more.
LEAST_STEPS, MOST_EPOCHS, FEWEST_EPOCHS = 1_200, 12, 4
# A new head learns at so many times the encoder's rate.
NEW_HEAD_RATE = 5.0
# Rows from which an epoch less does no harm.
MANY_ROWS = 50_000


def resolve(
    options: TrainOptions,
    *,
    task: TaskName,
    rows: int,
    num_labels: int,
    parameters: int,
    head_is_new: bool,
    own: Sequence[str] = (),
) -> TrainOptions:
    """`options` with a number in place of every `auto`.

    Args:
        rows: of train.
        parameters: of the whole network.
        head_is_new: and not that of an earlier run.
        own: names of the user's own metrics.
    """
    batch_rows = 16 if options.batch_rows == "auto" else options.batch_rows
    epochs = default_epochs(rows, batch_rows, num_labels, task) if options.epochs == "auto" else options.epochs
    rate = default_rate(num_labels, parameters, task) if options.learning_rate == "auto" else options.learning_rate
    new_or_not = NEW_HEAD_RATE if head_is_new else 1.0
    head_rate = new_or_not if options.head_rate == "auto" else options.head_rate
    resume_rate = rate / 2 if options.resume_learning_rate == "auto" else options.resume_learning_rate
    best = TASKS[task].headline[0] if options.best_metric == "auto" else options.best_metric
    require_metric(best, task, num_labels, own, options)
    return options.model_copy(
        update={
            "batch_rows": batch_rows,
            "epochs": epochs,
            "learning_rate": rate,
            "head_rate": head_rate,
            "resume_learning_rate": resume_rate,
            "best_metric": best,
        }
    )


def require_metric(name: str, task: TaskName, num_labels: int, own: Sequence[str], options: TrainOptions) -> None:
    """Refuse a metric that cannot choose the best weights."""
    known = ("loss", *TASKS[task].headline, *own)
    if name not in known:
        raise UserError(f"train.best_metric: a {task} task has no {name}", fix=f"choose among {', '.join(known)}")
    if name == "f1" and num_labels != 2 and name not in own:
        raise UserError("train.best_metric: f1 is for two classes", fix="--set train.best_metric=macro_f1")
    if name not in MORE_IS_BETTER and options.more_is_better == "auto":
        raise UserError(
            f"train.best_metric: it is not known whether more or less of {name} is better",
            fix="--set train.more_is_better=true, or false",
        )


def default_rate(num_labels: int, parameters: int, task: TaskName) -> float:
    """Peak learning rate, two digits: falls with the root of the model's size, rises with the number of classes."""
    size = (BASE_PARAMETERS / max(parameters, 1_000_000)) ** 0.5
    classes = 1.0 if task == "regression" else (max(2, num_labels) / 2) ** 0.25
    return float(f"{min(3e-4, max(1e-5, BASE_RATE * size * classes)):.1e}")


def default_epochs(rows: int, batch_rows: int, num_labels: int, task: TaskName) -> int:
    """Epochs: enough steps for small data and for many classes, few where rows are plenty."""
    of_labels = {"single-label": max(1.0, 2 * math.log10(max(2, num_labels))), "multi-label": 1.5, "regression": 1.0}
    steps = max(1, math.ceil(rows / batch_rows))
    fewest = FEWEST_EPOCHS if rows < MANY_ROWS else FEWEST_EPOCHS - 1
    return max(fewest, min(MOST_EPOCHS, math.ceil(LEAST_STEPS * of_labels[task] / steps)))
