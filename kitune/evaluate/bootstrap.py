"""Intervals by the bootstrap: how far a score may be off, because the rows are a sample."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from kitune.evaluate.measures import Ints, Measure

Interval = tuple[float, float]
CONFIDENCE = 0.95
# With fewer groups, resamples are so few different ones that an interval would hold the truth in two of three cases.
FEWEST_GROUPS = 5
MOST_RESAMPLES, FEWEST_RESAMPLES = 1_000, 200
# Microseconds for the resamples of one measure: beyond the first figure there are fewer of them, beyond the second there is
# no interval.
MUCH_WORK, MOST_WORK = 5e5, 1e7
# Numbers that lie in memory at once.
CHUNK = 4_000_000
SEED = 1


def intervals(measure: Measure, *, most: int = MOST_RESAMPLES, groups: Ints | None = None) -> dict[str, Interval]:
    """The 95 % percentile interval of each metric, by its name; none where resampling says nothing or takes too long.

    A resample draws as many rows as there are, or whole groups of them, with replacement; where a metric has no meaning on it,
    it is not counted.
    Where all of them give the same, as of rows that are all right, they say nothing: a share of right rows then has the exact
    binomial interval, and another metric none. Nor has one whose value lies outside: resamples lack labels of one or two rows,
    and a mean over labels moves with them.

    Args:
        most: resamples at most.
        groups: of the rows, (rows,), where those of one group are not independent.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13; Clopper and Pearson 1934; of groups Davison
    and Hinkley 1997, Bootstrap Methods and their Application, section 3.8.
    """
    drawn_apart = len(measure.case) if groups is None else len(np.unique(groups))
    fewest = 2 if groups is None else FEWEST_GROUPS
    if not measure.resampled or takes_too_long(measure) or drawn_apart < fewest:
        return {}
    count = min(most, max(FEWEST_RESAMPLES, int(MUCH_WORK / measure.work)))
    if groups is None:
        drawn = np.concatenate([measure.values(weights) for weights in resamples(measure.counts, count)])
    else:
        drawn = over_groups(measure, groups, count)
    found = {name: middle(values) for name, values in zip(measure.names, drawn.T, strict=True)}
    for name in measure.shares:
        if (interval := found[name]) is not None and interval[0] == interval[1]:
            found[name] = binomial(interval[0], drawn_apart)
    value = measure.value()
    return {
        name: interval
        for name, interval in found.items()
        if interval is not None and interval[0] < interval[1] and interval[0] <= value[name] <= interval[1]
    }


def takes_too_long(measure: Measure) -> bool:
    """Whether even the fewest resamples would."""
    return FEWEST_RESAMPLES * measure.work > MOST_WORK


def binomial(share: float, rows: int) -> Interval:
    """The exact 95 % interval of a share of rows, or of groups."""
    from scipy.stats import binomtest

    found = binomtest(round(share * rows), rows).proportion_ci(CONFIDENCE, "exact")
    return float(found.low), float(found.high)


def difference(first: Measure, second: Measure, name: str, groups: Ints | None = None) -> Interval | None:
    """The 95 % interval of how far a metric of the first is above the second's, both on the same resamples of the same rows.

    It is narrower than the two intervals beside each other let one think: what is hard for both cancels out.
    """
    rows, work = len(first.case), first.work + second.work + 0.03 * len(first.case)
    count = max(FEWEST_RESAMPLES, min(MOST_RESAMPLES, int(MUCH_WORK / work)))
    if rows < 2 or count * work > MOST_WORK or (groups is not None and len(np.unique(groups)) < FEWEST_GROUPS):
        return None
    sides: list[NDArray[np.float64]] = []
    for side in (first, second):
        if groups is None:
            drawn = [side.of_rows(weights) for weights in resamples(np.ones(rows, dtype=np.int64), count)]
        else:
            drawn = [over_groups(side, groups, count)]
        sides.append(np.concatenate(drawn)[:, side.names.index(name)])
    if name in first.else_zero:  # a constant answer correlates with nothing on every resample
        sides = [np.nan_to_num(values) for values in sides]
    found = middle(sides[0] - sides[1])
    # As of intervals: where nothing varies, nothing is known.
    return None if found is None or found[0] == found[1] else found


def over_groups(measure: Measure, groups: Ints, count: int) -> NDArray[np.float64]:
    """The metrics, (samples, names), of so many resamples that draw whole groups; the same ones at every call."""
    from scipy.sparse import csr_array

    group = np.unique(groups, return_inverse=True)[1]
    held = csr_array((np.ones(len(group), dtype=np.int64), (measure.case, group)))  # (cases, groups), rows of each
    draws = resamples(np.ones(held.shape[1], dtype=np.int64), count, width=held.shape[0])
    return np.concatenate([measure.values((held @ drawn.T).T) for drawn in draws])


def resamples(counts: Ints, count: int, *, width: int = 0) -> Iterator[Ints]:
    """How often each case is drawn in so many resamples, (samples, cases) at a time; the same ones at every call.

    Args:
        counts: how often each case occurs, (cases,).
        width: numbers that are made of a sample, where those are more than the cases.
    """
    generator, rows = np.random.default_rng(SEED), int(counts.sum())
    at_once = max(1, CHUNK // max(width, len(counts)))
    for begin in range(0, count, at_once):
        yield generator.multinomial(rows, counts / rows, size=min(at_once, count - begin))


def middle(values: NDArray[np.float64]) -> Interval | None:
    """The ends of the middle 95 % of the values that have a meaning."""
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    low, high = np.quantile(known, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return float(low), float(high)
