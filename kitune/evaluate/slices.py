"""Slices of labelled rows by the values of a column."""

import numpy as np
from numpy.typing import NDArray

from kitune.data.labels import number_in
from kitune.data.table import Rows, Table
from kitune.errors import numbered

# A column of numbers with more distinct values than this is cut at its quartiles.
MOST_NUMBERS = 12
# Of a column's values so many have a slice of their own, the commonest first.
MOST_SLICES = 20


def slices_of(table: Table, column: str) -> tuple[dict[str, Rows], str | None]:
    """The rows of each value of a column, the commonest first, and a sentence where there are too many values.

    Numbers of many values are cut at their quartiles.
    """
    values = ["" if value is None else str(value) for value in table.values(column)]
    numbers = [number_in(value) for value in values if value]
    if numbers and None not in numbers and len(set(numbers)) > MOST_NUMBERS:
        cuts = np.quantile(np.asarray(numbers, dtype=np.float64), (0.25, 0.5, 0.75))
        values = [quarter(float(number), cuts) if (number := number_in(value)) is not None else "" for value in values]
    found: dict[str, list[int]] = {}
    for row, value in enumerate(values):
        found.setdefault(value or "(empty)", []).append(row)
    largest = sorted(found, key=lambda value: -len(found[value]))[:MOST_SLICES]
    more = len(found) - len(largest)
    note = f"{column}: {numbered(more, 'value')} with fewer rows are not shown" if more else None
    return {value: np.asarray(found[value], dtype=np.int64) for value in largest}, note


def quarter(number: float, cuts: NDArray[np.float64]) -> str:
    """The quarter of a column that a number is in, in words."""
    place = int(np.searchsorted(cuts, number, side="left"))
    low, middle, high = (f"{cut:.12g}" for cut in cuts)
    return (f"up to {low}", f"{low} to {middle}", f"{middle} to {high}", f"above {high}")[place]
