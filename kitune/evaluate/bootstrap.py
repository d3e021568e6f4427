"""Intervals by the bootstrap: how far a score may be off, because the rows are a sample."""

import numpy as np

from kitune.evaluate.measures import Measure

Interval = tuple[float, float]
CONFIDENCE = 0.95
MOST_RESAMPLES, FEWEST_RESAMPLES = 1_000, 200
# Microseconds for the resamples of one measure: beyond the first figure there are fewer of them, beyond the second there is
# no interval.
MUCH_WORK, MOST_WORK = 5e5, 7e6
# Numbers that lie in memory at once.
CHUNK = 4_000_000
SEED = 1


def intervals(measure: Measure, *, most: int = MOST_RESAMPLES) -> dict[str, Interval]:
    """The 95 % percentile interval of each metric, by its name; none where resampling says nothing or takes too long.

    A resample draws as many rows as there are, with replacement; where a metric has no meaning on it, it is not counted.

    Args:
        most: resamples at most.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """
    count = min(most, max(FEWEST_RESAMPLES, int(MUCH_WORK / measure.work)))
    rows = int(measure.counts.sum())
    if not measure.resampled or count * measure.work > MOST_WORK or rows < 2:
        return {}
    generator, shares = np.random.default_rng(SEED), measure.counts / rows
    at_once = max(1, CHUNK // len(shares))
    parts = [min(at_once, count - begin) for begin in range(0, count, at_once)]
    drawn = np.concatenate([measure.values(generator.multinomial(rows, shares, size=part)) for part in parts])
    found = {}
    for name, values in zip(measure.names, drawn.T, strict=True):
        known = values[~np.isnan(values)]
        if len(known):
            low, high = np.quantile(known, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
            found[name] = (float(low), float(high))
    return found
