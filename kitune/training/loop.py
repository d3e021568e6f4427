"""The loop: plan -> collate -> forward -> sum of losses -> backward -> `optimizer.step()`, one update at a time."""

import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kitune.config import TrainOptions
from kitune.data.batches import BatchPlan, collate, micro_batches, plan_epoch
from kitune.data.encode import Encoded
from kitune.data.table import Rows
from kitune.errors import UserError
from kitune.metrics import Metrics, better, standard_error
from kitune.model.heads import LabelScale
from kitune.training.devices import Machine
from kitune.training.journal import Journal
from kitune.training.optimizer import FlatAdamW
from kitune.training.schedule import learning_rate_at

# fp16: the loss is multiplied by a scale that halves when a gradient overflows and doubles after so many good updates.
FIRST_SCALE, GOOD_UPDATES, LEAST_SCALE = 2.0**14, 1_000, 1.0


@dataclass
class State:
    """What a resumed run needs besides weights and moments; all else follows from the options and the step.

    Attributes:
        step: updates done.
        loss_sum, loss_rows: of the epoch that is under way: the numerator and denominator of its mean loss.
        log: what log.json shows.
        best_value: of the metric that chooses best/, the best so far.
        best_step: of best/: where that was, or a later one that is as good.
        waiting: evaluations since `best_value`.
        stopped: patience has ended the training.
        decay_from, peak: step at which the present schedule began, and its peak rate.
        planned_epochs: how many the training was to have when the state was noted.
        unused_decay: what weight decay has left of the embeddings of tokens that the data does not have.
        loss_scale, good_updates: fp16's.
    """

    peak: float
    planned_epochs: int
    step: int = 0
    loss_sum: float = 0.0
    loss_rows: float = 0.0
    log: dict[str, Any] = field(default_factory=dict)
    best_value: float | None = None
    best_step: int | None = None
    waiting: int = 0
    stopped: bool = False
    decay_from: int = 0
    unused_decay: float = 1.0
    loss_scale: float = FIRST_SCALE
    good_updates: int = 0

    def as_json(self) -> dict[str, Any]:
        """For a checkpoint; floats survive JSON to the last bit."""
        return asdict(self)


@dataclass(frozen=True)
class Epochs:
    """The updates of every epoch, planned at the start, so that the schedule knows its end."""

    plan: BatchPlan
    lengths: NDArray[np.int64]
    seed: int
    count: int

    def updates(self, epoch: int) -> list[Rows]:
        """The rows of each update of one epoch."""
        return plan_epoch(self.plan, self.lengths, seed=self.seed, epoch=epoch)

    @cached_property
    def ends(self) -> list[int]:
        """Step at which each epoch ends."""
        if self.plan.tokens is None:
            each = math.ceil(len(self.lengths) / self.plan.rows)
            return [each * (epoch + 1) for epoch in range(self.count)]
        return list(accumulate(len(self.updates(epoch)) for epoch in range(self.count)))

    @property
    def total_steps(self) -> int:
        return self.ends[-1] if self.ends else 0

    def position(self, step: int) -> tuple[int, int]:
        """Epoch that update `step` belongs to, and its place in it."""
        epoch = int(np.searchsorted(self.ends, step, side="right"))
        return epoch, step - (self.ends[epoch - 1] if epoch else 0)


@dataclass(frozen=True)
class Training:
    """All that does not change while a network learns.

    Attributes:
        loss: (logits, labels, weights) -> sum over rows.
        mean_weight: of train's rows, with their classes' weights. An update's loss is divided by it times its rows, and not by
            their own weights: so a light row counts little also among light ones.
        valid_rows: that the weights are chosen on.
        path: `fast`, `plain` as it was asked for, or why it is; another one draws other dropout masks.
        label_scale: in which a regression learns its labels.
    """

    network: nn.Module
    optimizer: FlatAdamW
    train: Encoded
    epochs: Epochs
    loss: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    mean_weight: float
    options: TrainOptions
    machine: Machine
    pad_id: int
    log_every: int
    valid_rows: int
    path: str
    label_scale: LabelScale | None

    def learning_rate(self, state: State) -> float:
        """The rate of the next update."""
        total = self.epochs.total_steps - state.decay_from
        # Epochs on top of a finished run decay anew, without a second warm-up: the moments are warm. The last step learns.
        warmup_steps = 0 if state.decay_from else min(math.ceil(total * self.options.warmup_share), max(0, total - 1))
        return learning_rate_at(
            state.step - state.decay_from,
            name=self.options.schedule,
            learning_rate=state.peak,
            warmup_steps=warmup_steps,
            total_steps=total,
            options=self.options.schedule_options,
        )


class NotFinite(Exception):
    """A loss or gradient that is no number, found before the update; the weights are still good."""

    def __init__(self, step: int, rows: Rows, learning_rate: float, loss: float, gradient_norm: float) -> None:
        super().__init__(f"step {step}")
        self.step, self.rows, self.learning_rate = step, rows, learning_rate
        self.loss, self.gradient_norm = loss, gradient_norm


class Interrupted(Exception):
    """The user or the system asked for an end; the state was saved."""


def fit(
    training: Training,
    state: State,
    journal: Journal,
    *,
    evaluate: Callable[[int], Metrics],
    save: Callable[[State, bool], None],
) -> None:
    """Train from `state` to the end of the last epoch, or until patience ends it; `state` moves along.

    Args:
        evaluate: scores the network as it is on the validation rows; it is given the epoch, for its bar.
        save: writes a checkpoint; its second argument says whether the network is the best so far.

    Raises:
        NotFinite: before the update that would have spoilt the weights.
        Interrupted: after SIGINT or SIGTERM, at the next boundary, when the state is saved.
    """
    epochs, options = training.epochs, training.options
    training.network.train()
    with boundary_signals() as received:
        while state.step < epochs.total_steps and not state.stopped:
            epoch, done = epochs.position(state.step)
            updates = epochs.updates(epoch)
            journal.begin(epoch, "TRAIN", len(updates), done)
            for rows in updates[done:]:
                event, tokens = update(training, state, rows, asked_to_end=bool(received))
                logged = state.step % training.log_every == 0
                journal.step({"step": state.step, "epoch": epoch, **event}, tokens=tokens, logged=logged)
                # Every process sees the sum, so that all of them end at the same boundary.
                signalled = bool(training.optimizer.end_requests)
                ends = state.step == epochs.ends[epoch]
                scores, improved = ends or falls_due(options.evaluate_every, state.step), False
                if scores:
                    improved = evaluated(training, state, evaluate(epoch), epoch, ends=ends)
                    training.network.train()
                    training.machine.say(progress_line(state, epoch, options))
                due = ends or falls_due(options.checkpoint_every, state.step)
                saves = due or improved or state.stopped or signalled
                if scores or saves:
                    journal.write_log(state.log)
                if saves:
                    save(state, improved)
                if signalled:
                    raise Interrupted(f"step {state.step}")
                if state.stopped:
                    break
                if not ends and falls_due(options.evaluate_every, state.step):  # the bar of valid took its place
                    journal.begin(epoch, "TRAIN", len(updates), state.step - (epochs.ends[epoch] - len(updates)))
        if any(training.machine.gather([bool(received)])):  # during the last evaluation, whose state is saved
            raise Interrupted(f"step {state.step}")


def falls_due(every: str | int, step: int) -> bool:
    """Whether something that happens every so many steps happens now; `epoch` does at the end of each only."""
    return isinstance(every, int) and step % every == 0


def update(training: Training, state: State, rows: Rows, *, asked_to_end: bool = False) -> tuple[dict[str, float], int]:
    """One optimizer step over `rows`, all micro-batches and processes together.

    Returns:
        Loss (mean over rows), learning rate and gradient norm (before clipping); and the tokens of this process.
    """
    machine, optimizer, options = training.machine, training.optimizer, training.options
    optimizer.zero_gradient()
    optimizer.end_requests += asked_to_end
    tokens = add_gradients(training, state, rows)
    if machine.world_size > 1:
        optimizer.gather_gradient()
        optimizer.exchanged.copy_(machine.sum_over_ranks(optimizer.exchanged))
    denominator = len(rows) * training.mean_weight
    divisor = denominator * (state.loss_scale if machine.precision == "fp16" else 1.0)
    scale = 1.0 / divisor if divisor else 1.0  # where all of train weighs nothing there is no gradient to divide
    loss_sum = float(optimizer.loss) * (training.label_scale.unit**2 if training.label_scale else 1.0)
    gradient_norm = optimizer.gradient_norm() * scale
    rate = training.learning_rate(state)
    loss_value = loss_sum / max(denominator, 1e-12)
    if advance(training, state, rows, loss_value, gradient_norm, rate):
        if options.clip is not None and gradient_norm > options.clip:
            scale *= options.clip / (gradient_norm + 1e-6)
        optimizer.step(rate, scale=scale)
        state.unused_decay *= 1.0 - rate * options.weight_decay
    state.step += 1
    state.loss_sum += loss_sum
    state.loss_rows += denominator
    return {"loss": loss_value, "lr": rate, "grad_norm": gradient_norm}, tokens


def add_gradients(training: Training, state: State, rows: Rows) -> int:
    """Forward and backward of this process's micro-batches of `rows`; the sums of their losses go to the optimizer.

    Returns:
        Their tokens.
    """
    machine, options = training.machine, training.options
    parts = micro_batches(rows, training.train, count=options.accumulation * machine.world_size)
    tokens = 0
    for number, part in enumerate(parts[machine.rank :: machine.world_size]):
        if len(part):
            # Dropout follows from where we are: nothing to save, and a resumed run draws the same masks.
            torch.manual_seed(dropout_seed(options.seed, state.step, machine.rank, number))
            batch = collate(training.train, part, pad_id=training.pad_id, device=machine.device)
            logits = batch.of_rows(training.network(**batch.inputs()).logits)
            loss = training.loss(logits, batch.labels, batch.weights)  # type: ignore[arg-type]
            torch.autograd.backward(loss * state.loss_scale if machine.precision == "fp16" else loss)
            training.optimizer.loss += loss.detach()
            tokens += int(training.train.lengths[part].sum())
    return tokens


def advance(training: Training, state: State, rows: Rows, loss: float, gradient_norm: float, rate: float) -> bool:
    """Whether the update may be made; fp16 skips one that overflowed and scales lower.

    Raises:
        NotFinite: the loss or the gradient is no number, and no scale would mend it.
    """
    finite = math.isfinite(loss) and math.isfinite(gradient_norm)
    if training.machine.precision != "fp16":
        if not finite:
            raise NotFinite(state.step, rows, rate, loss, gradient_norm)
        return True
    if not finite:
        if not math.isfinite(loss) or state.loss_scale <= LEAST_SCALE:
            raise NotFinite(state.step, rows, rate, loss, gradient_norm)
        state.loss_scale, state.good_updates = state.loss_scale / 2, 0
        return False
    state.good_updates += 1
    if state.good_updates == GOOD_UPDATES:
        state.loss_scale, state.good_updates = state.loss_scale * 2, 0
    return True


def dropout_seed(seed: int, step: int, rank: int, micro_batch: int) -> int:
    """A seed of its own for each forward pass; the layers draw from it in their order."""
    return int(np.random.SeedSequence([seed, step, rank, micro_batch]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def evaluated(training: Training, state: State, metrics: Metrics, epoch: int, *, ends: bool) -> bool:
    """Note the metrics of an evaluation in `state`; whether the weights take the place of the best so far."""
    options = training.options
    name = str(options.best_metric)
    if name not in metrics:
        raise UserError(
            f"train.best_metric: step {state.step}: compute_metrics gave no {name}, but {', '.join(metrics)}",
            fix="let the function give it each time, as NaN where it has no value",
        )
    improved = better(name, metrics[name], state.best_value, more=options.more_is_better)
    if improved:
        state.best_value, state.waiting = metrics[name], 0
    else:
        state.waiting += 1
        state.stopped = isinstance(options.patience, int) and state.waiting >= options.patience
    taken = improved or is_as_good(name, metrics[name], state.best_value, training)
    if taken:
        state.best_step = state.step
    entry = state.log.setdefault(f"Epoch {epoch}", {})
    if ends:
        entry["train_log"] = {"loss": state.loss_sum / max(state.loss_rows, 1e-12)}
        state.loss_sum = state.loss_rows = 0.0
        entry["valid_log"] = dict(metrics)
    else:
        entry.setdefault("steps", {})[str(state.step)] = dict(metrics)
    return taken


def is_as_good(name: str, value: float, best: float | None, training: Training) -> bool:
    """Whether a score is so near to the best that chance may be all that parts them: then the later weights are kept.

    Source: the rule of one standard error, Breiman et al. 1984, Classification and Regression Trees, section 3.4.3.
    """
    if best is None or not math.isfinite(value):
        return False
    room = training.options.best_within * standard_error(name, best, training.valid_rows)
    return training.options.best_within > 0 and abs(best - value) <= room


def progress_line(state: State, epoch: int, options: TrainOptions) -> str:
    """`Epoch 0: train loss 0.513, valid loss 0.402, accuracy 0.826 (best so far)`."""
    entry = state.log[f"Epoch {epoch}"]
    metrics = entry.get("steps", {}).get(str(state.step)) or entry["valid_log"]
    name = str(options.best_metric)
    parts = [f"valid loss {metrics['loss']:.4f}"] + ([f"{name} {metrics[name]:.4f}"] if name != "loss" else [])
    if "train_log" in entry:
        parts.insert(0, f"train loss {entry['train_log']['loss']:.4f}")
    place = "best so far" if metrics[name] == state.best_value else "as good"
    best = f" ({place})" if state.best_step == state.step else ""
    stopped = f"; no better for {state.waiting} evaluations, so it ends here" if state.stopped else ""
    return f"Epoch {epoch}, step {state.step}: {', '.join(parts)}{best}{stopped}"


@contextmanager
def boundary_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying in the middle of an update; a second one ends at once."""
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: whoever runs us there handles signals
        before = {}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
