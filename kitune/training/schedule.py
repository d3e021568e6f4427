"""Learning rates as pure functions of the step: nothing to save, nothing to restore.

Each is equal to the schedule of the same name in transformers (`transformers/optimization.py`).
"""

import math
from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from typing import Any

from kitune.errors import UserError


def linear(step: int, *, warmup_steps: int, total_steps: int) -> float:
    """Up to 1 in `warmup_steps`, then straight down to 0 at `total_steps`."""
    if step < warmup_steps:
        return step / max(1, warmup_steps)
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))


def cosine(step: int, *, warmup_steps: int, total_steps: int, num_cycles: float = 0.5) -> float:
    """Down along a cosine; half a cycle ends at 0."""
    if step < warmup_steps:
        return step / max(1, warmup_steps)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * num_cycles * 2.0 * progress(step, warmup_steps, total_steps))))


def cosine_with_restarts(step: int, *, warmup_steps: int, total_steps: int, num_cycles: int = 1) -> float:
    """`num_cycles` times down along half a cosine, each from 1."""
    if step < warmup_steps:
        return step / max(1, warmup_steps)
    part = progress(step, warmup_steps, total_steps)
    if part >= 1.0:
        return 0.0
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((float(num_cycles) * part) % 1.0))))


def polynomial(
    step: int, *, warmup_steps: int, total_steps: int, learning_rate: float, lr_end: float = 1e-7, power: float = 1.0
) -> float:
    """Down along a power of the remaining share to `lr_end`, an absolute rate below `learning_rate`."""
    if lr_end >= learning_rate:
        raise UserError(
            f"train.schedule_options: lr_end {lr_end} is not below the learning rate {learning_rate}",
            fix="lower lr_end",
        )
    if step < warmup_steps:
        return step / max(1, warmup_steps)
    if step > total_steps:
        return lr_end / learning_rate
    remaining = 1 - (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return ((learning_rate - lr_end) * float(remaining**power) + lr_end) / learning_rate


def constant(step: int) -> float:
    """1, from the first step."""
    return 1.0


def constant_with_warmup(step: int, *, warmup_steps: int) -> float:
    """Up to 1 in `warmup_steps`, and there it stays."""
    return step / max(1.0, warmup_steps) if step < warmup_steps else 1.0


def inverse_sqrt(step: int, *, warmup_steps: int, timescale: int | None = None) -> float:
    """Down with the root of the steps; `timescale` defaults to the warm-up, or 10,000 without one."""
    scale = timescale or warmup_steps or 10_000
    if step < warmup_steps:
        return step / max(1, warmup_steps)
    return 1.0 / math.sqrt((step + scale - warmup_steps) / scale)


def cosine_with_min_lr(
    step: int,
    *,
    warmup_steps: int,
    total_steps: int,
    learning_rate: float,
    num_cycles: float = 0.5,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
) -> float:
    """A cosine that ends at `min_lr` (a rate) or `min_lr_rate` (a share of the peak)."""
    least = least_share(min_lr, min_lr_rate, learning_rate)
    if step < warmup_steps:
        return step / max(1, warmup_steps)
    return cosine_above(progress(step, warmup_steps, total_steps), num_cycles, least)


def cosine_warmup_with_min_lr(
    step: int,
    *,
    warmup_steps: int,
    total_steps: int,
    learning_rate: float,
    num_cycles: float = 0.5,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
    warmup_lr_rate: float | None = None,
) -> float:
    """The same, counted from the end of each step; warm-up may begin at `warmup_lr_rate`, a share of the peak."""
    least = least_share(min_lr, min_lr_rate, learning_rate)
    if step < warmup_steps:
        if warmup_lr_rate is None:
            return (step + 1) / max(1, warmup_steps)
        return warmup_lr_rate + (1.0 - warmup_lr_rate) * step / max(1, warmup_steps - 1)
    return cosine_above((step - warmup_steps + 1) / max(1, total_steps - warmup_steps), num_cycles, least)


def warmup_stable_decay(
    step: int,
    *,
    warmup_steps: int,
    total_steps: int,
    num_decay_steps: int,
    num_stable_steps: int | None = None,
    warmup_type: str = "linear",
    decay_type: str = "cosine",
    min_lr_ratio: float = 0.0,
    num_cycles: float = 0.5,
) -> float:
    """Up from `min_lr_ratio`, level, and down to it again in the last `num_decay_steps`."""
    if warmup_type not in RISES or decay_type not in FALLS:
        raise UserError(
            f"train.schedule_options: warmup_type {warmup_type!r}, decay_type {decay_type!r}",
            fix=f"use {', '.join(RISES)}",
        )
    stable = total_steps - warmup_steps - num_decay_steps if num_stable_steps is None else num_stable_steps
    if step < warmup_steps:
        factor = RISES[warmup_type](step / max(1, warmup_steps))
    elif step < warmup_steps + stable:
        return 1.0
    elif step < warmup_steps + stable + num_decay_steps:
        factor = FALLS[decay_type]((step - warmup_steps - stable) / max(1, num_decay_steps), num_cycles)
    else:
        return min_lr_ratio
    return max(0.0, factor * (1.0 - min_lr_ratio) + min_lr_ratio)


RISES: Mapping[str, Callable[[float], float]] = {
    "linear": lambda part: part,
    "cosine": lambda part: 0.5 * (1.0 - math.cos(math.pi * part)),
    "1-sqrt": lambda part: 1.0 - math.sqrt(1.0 - part),
}
FALLS: Mapping[str, Callable[[float, float], float]] = {
    "linear": lambda part, cycles: 1.0 - part,
    "cosine": lambda part, cycles: 0.5 * (1.0 + math.cos(math.pi * cycles * 2.0 * part)),
    "1-sqrt": lambda part, cycles: 1.0 - math.sqrt(part),
}


def cosine_above(part: float, num_cycles: float, least: float) -> float:
    """A cosine over the share `part` of the way, squeezed between 1 and `least`."""
    factor = 0.5 * (1.0 + math.cos(math.pi * num_cycles * 2.0 * part))
    return max(0.0, factor * (1 - least) + least)


def least_share(min_lr: float | None, min_lr_rate: float | None, learning_rate: float) -> float:
    """The lowest multiplier, given as a rate or as a share of the peak."""
    if (min_lr is None) == (min_lr_rate is None):
        raise UserError(
            "train.schedule_options: this schedule takes one of min_lr and min_lr_rate",
            fix="--set 'train.schedule_options={min_lr_rate: 0.1}'",
        )
    return min_lr / learning_rate if min_lr is not None else float(min_lr_rate or 0.0)


def progress(step: int, warmup_steps: int, total_steps: int) -> float:
    """Share of the steps after warm-up that are done."""
    return (step - warmup_steps) / max(1, total_steps - warmup_steps)


SCHEDULES: Mapping[str, Callable[..., float]] = {
    schedule.__name__: schedule
    for schedule in (
        linear,
        cosine,
        cosine_with_restarts,
        polynomial,
        constant,
        constant_with_warmup,
        inverse_sqrt,
        cosine_with_min_lr,
        cosine_warmup_with_min_lr,
        warmup_stable_decay,
    )
}


def learning_rate_at(
    step: int,
    *,
    name: str,
    learning_rate: float,
    warmup_steps: int,
    total_steps: int,
    options: Mapping[str, Any] | None = None,
) -> float:
    """The learning rate of optimizer step `step`, counted from 0.

    Raises:
        UserError: an option that the schedule does not have, or lacks.
    """
    schedule = SCHEDULES[name]
    known = signature(schedule).parameters
    facts = {"warmup_steps": warmup_steps, "total_steps": total_steps, "learning_rate": learning_rate}
    given = dict(options or {})
    takes = [key for key in known if key not in facts and key != "step"]
    lacking = [key for key in takes if known[key].default is Parameter.empty and key not in given]
    unknown = [key for key in given if key not in takes]
    wrong = [key for key in given if key in takes and isinstance(given[key], str) != (known[key].annotation is str)]
    if unknown or lacking:
        problem = f"has no option {unknown[0]!r}" if unknown else f"needs {lacking[0]}"
        raise UserError(
            f"train.schedule_options: {name} {problem}",
            fix=f"it takes {', '.join(takes)}" if takes else "leave train.schedule_options empty",
        )
    if wrong:
        raise UserError(
            f"train.schedule_options: {wrong[0]} {given[wrong[0]]!r} is "
            + ("no number" if isinstance(given[wrong[0]], str) else "no name"),
            fix=f"give {name} another value of {wrong[0]}",
        )
    return learning_rate * schedule(step, **{key: value for key, value in facts.items() if key in known}, **given)
