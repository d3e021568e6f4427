"""What a training will take: time, memory and disk, from updates that are tried out for two seconds and leave no trace."""

import time
from dataclasses import asdict, dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kitune.config import EngineOptions
from kitune.data.cache import content_key, kept_json
from kitune.data.encode import Encoded
from kitune.data.table import Rows
from kitune.findings import Finding
from kitune.model.kernels import processor
from kitune.model.vocabulary import tables_in_use
from kitune.training.journal import resident_mb
from kitune.training.loop import State, Training, add_gradients

Tokens: TypeAlias = NDArray[np.int64]
# How long it may try, and below how many updates the bar says as much sooner.
PROBE_SECONDS, LEAST_UPDATES = 2.0, 40
# Parts of the updates, by their tokens, that are tried: short, middling and long ones.
PLACES = (0.5, 0.1, 0.9, 0.3, 0.7)
# A pass without gradients, as part of one with them.
FORWARD_SHARE = 0.35


@dataclass(frozen=True)
class Costs:
    """Seconds of an update: so many for itself, and so many for each of its tokens."""

    each: float
    token: float


def estimate(training: Training, evaluated: dict[str, Encoded], engine: EngineOptions) -> Finding | None:
    """Time, memory and disk of a training that has not begun; None for one that is over before the estimate is worth it.

    Args:
        evaluated: the parts that are scored, each epoch (valid) or once.
    """
    epochs = training.epochs
    if epochs.total_steps < LEAST_UPDATES or training.machine.world_size > 1:
        return None
    updates = epochs.updates(0)
    tokens = np.asarray([int(training.train.lengths[rows].sum()) for rows in updates])
    costs = kept_costs(training, updates, tokens, engine) if engine.cache else measured(training, updates, tokens)
    of_epoch = costs.each * len(updates) + costs.token * float(tokens.sum())
    scored = {part: float(encoded.lengths.sum()) for part, encoded in evaluated.items()}
    forward = FORWARD_SHARE * costs.token
    seconds = epochs.count * (of_epoch + forward * scored.get("valid", 0.0)) + forward * sum(scored.values())
    # Of embeddings that are not in use no moments are kept.
    tables = tables_in_use(training.network).values()
    unused = 4 * sum(table.original.numel() - table.weight.numel() for table in tables)
    weights = 4 * sum(parameter.numel() for parameter in training.network.parameters())
    disk = 2 * (weights + unused) + engine.keep_checkpoints * (3 * weights + unused)
    less = ", or less where patience ends it" if training.options.patience else ""
    says = f"about {in_time(seconds)}{less} ({in_time(of_epoch)} an epoch)"
    memory = f"{resident_mb() * 2**20 / 1e9:.1f} GB of memory, " if resident_mb() else ""  # not every system says it
    says += f"; {memory}{disk / 1e9:.1f} GB of disk"
    return Finding("estimate", says, "--limit makes a trial run")


def kept_costs(training: Training, updates: list[Rows], tokens: Tokens, engine: EngineOptions) -> Costs:
    """The costs as measured once for this network, these lengths and this machine: the next run starts at once."""
    shapes = str([(name, tuple(parameter.shape)) for name, parameter in training.network.named_parameters()])
    machine = f"{processor()} {training.machine.describe()}"
    key = content_key(shapes, tokens.tobytes().hex(), machine, engine.model_dump_json())
    return Costs(**kept_json("costs", key, lambda: asdict(measured(training, updates, tokens))))


def measured(training: Training, updates: list[Rows], tokens: Tokens) -> Costs:
    """The costs of an update by a straight line through those that were tried."""
    order = np.argsort(tokens, kind="stable")
    chosen = [int(order[int(place * (len(order) - 1))]) for place in PLACES]
    began = time.perf_counter()
    tried(training, updates[chosen[-1]])  # the first one takes memory and prepares the products
    found: list[tuple[int, float]] = []
    for number in [*chosen, *chosen]:
        found.append((int(tokens[number]), tried(training, updates[number])))
        if len(found) >= 3 and time.perf_counter() - began > PROBE_SECONDS:
            break
    sizes, seconds = (np.asarray(column, dtype=np.float64) for column in zip(*found, strict=True))
    mean = float(sizes.mean())
    token = float(np.polyfit(sizes, seconds, 1)[0]) if np.ptp(sizes) > 0.2 * mean else float(seconds.mean()) / mean
    token = min(max(token, 0.0), float(seconds.mean()) / mean)
    return Costs(float(seconds.mean()) - token * mean, token)


def tried(training: Training, rows: Rows) -> float:
    """Seconds of one update that changes nothing: its gradients are dropped, and its step has a rate of 0.

    Before the first real update all moments are zero, and a step without gradients at rate 0 leaves every bit as it is.
    """
    began = time.perf_counter()
    training.optimizer.zero_gradient()
    add_gradients(training, State(peak=0.0, planned_epochs=0), rows)
    training.optimizer.gradient_norm()
    training.optimizer.step_without_effect()
    return time.perf_counter() - began


def in_time(seconds: float) -> str:
    """`40 s`, `12 min 5 s` or `3.5 h`."""
    if seconds < 90:
        return f"{max(1.0, seconds):.0f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s" if seconds < 5400 else f"{seconds / 3600:.1f} h"
