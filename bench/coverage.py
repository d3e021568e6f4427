"""How often intervals hold the truth where rows come in groups: over rows, and over whole groups.

    python bench/coverage.py

Test sets of known accuracy, 500 for each line: groups (customers) whose shares of right answers differ (beta(4, 1), 0.8 on
average), of ten rows each or of uneven sizes. Needs no data.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
from machine import circumstances
from numpy.typing import NDArray
from pairs import print_table

from kitune.evaluate.bootstrap import intervals
from kitune.evaluate.measures import Answered, measures

TRUTH, SETS, SEED = 0.8, 500, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=lambda text: list(map(int, text.split(","))), default=[5, 10, 20, 40, 60, 100])
    told = parser.parse_args()
    rows: list[list[Any]] = [
        [count, sizes, *covered(count, sizes)] for count in told.groups for sizes in ("10", "uneven")
    ]
    header = ("groups", "rows of a group", "over rows, %", "over groups, %")
    print_table(header, [[str(cell) for cell in row] for row in rows])
    print(json.dumps({"benchmark": "coverage", "rows": rows, **circumstances()}))


def covered(count: int, sizes: str) -> tuple[float, float]:
    """Of SETS test sets, the per cent whose interval holds the true accuracy: over rows, and over groups."""
    generator, held = np.random.default_rng(SEED), np.zeros(2)
    for _ in range(SETS):
        share = generator.beta(4, 1, size=count)
        group_rows = np.full(count, 10) if sizes == "10" else 1 + generator.geometric(0.1, size=count)
        groups = np.repeat(np.arange(count), group_rows)
        measure = measures(answers(generator.random(len(groups)) < share[groups]))[0]
        for way, found in enumerate((intervals(measure), intervals(measure, groups=groups))):
            low, high = found.get("accuracy", (np.nan, np.nan))
            held[way] += low <= TRUTH <= high
    return tuple(np.round(100 * held / SETS, 1).tolist())


def answers(right: NDArray[np.bool_]) -> Answered:
    """Two classes, of which each row's own is answered where it is right."""
    labels = np.arange(len(right)) % 2
    return Answered("single-label", np.eye(2)[np.where(right, labels, 1 - labels)], labels, ("no", "yes"))


if __name__ == "__main__":
    main()
