"""Whether kitune's defaults are worse than the better Trainer: 90 % intervals of the difference.

    python bench/not_worse.py --data ../shared/data

From the decisions over the test rows that `quality.py` kept beside its results. A resample draws seeds, one fewer than there
are, so that few of them vary as much as their mean does (Rao and Wu 1988, Resampling inference with complex survey data), and
rows, all with replacement and for both sides alike; the interval is from the 5th to the 95th percentile of the differences of
the mean scores. Not worse: the lower end is above -1.0 point on each set, against each of the two Trainers, and above -0.3 over
all sets, against the one of the higher mean. CoLA and RTE, of a few hundred test rows, have no bar; a set of fewer than five
seeds has no verdict.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from machine import PROJECT
from numpy.typing import NDArray
from pairs import RESULTS, print_table
from scipy.stats import rankdata
from sets import TABLE, gold, load_set
from sklearn.metrics import f1_score, matthews_corrcoef
from table import Line, decided_path, read_results

RESAMPLES = 2_000
LEAST_OF_SET, LEAST_OF_ALL = -1.0, -0.3
TRAINERS, SEEDS = ("trainer-5e-5", "trainer-own"), 5
# Too few test rows for a bar: shown, and left out of the mean.
WITHOUT_BAR = frozenset({"cola", "rte"})
# Of a set's (seeds, rows) decisions and (rows,) labels, the mean score over seeds, x 100.
Score = Callable[[NDArray[Any], NDArray[Any]], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=PROJECT.parent / "shared" / "data", help="folder of all sets")
    parser.add_argument("--sets", type=lambda text: text.split(","), default=list(TABLE), help="default: the table's")
    parser.add_argument("--results", type=Path, default=RESULTS / "quality.jsonl")
    arguments = parser.parse_args()
    generator = np.random.default_rng(1)
    drawn, gaps, rows = [], [], []
    for name in arguments.sets:
        seeds, sides = compared(name, arguments.data, arguments.results, generator)
        of_set = []
        for who, (gap, found) in sides.items():
            low, high = ends(found)
            of_set.append([name, who, ", ".join(map(str, seeds)), gap, low, high, verdict(name, len(seeds), low)])
        rows += of_set
        if of_set and of_set[0][-1] in ("yes", "no"):
            better = min(sides, key=lambda who: sides[who][0])
            gaps.append(sides[better][0])
            drawn.append(sides[better][1])
    if drawn:
        low, high = ends(np.mean(drawn, axis=0))
        over_all = "yes" if low > LEAST_OF_ALL else "no"
        rows.append([f"mean of {len(drawn)}", "the better", "", float(np.mean(gaps)), low, high, over_all])
    header = ("set", "against", "seeds", "difference", "5 %", "95 %", "not worse")
    print_table(header, [[f"{cell:+.2f}" if isinstance(cell, float) else cell for cell in row] for row in rows])
    print(json.dumps({"benchmark": "not-worse", "rows": rows}))


def verdict(name: str, seeds: int, low: float) -> str:
    """Whether a set is not worse, by the lower end of its interval, where that can be told."""
    if name in WITHOUT_BAR:
        return "no bar"
    if seeds < SEEDS:
        return "seeds are missing"
    return "yes" if low > LEAST_OF_SET else "no"


def compared(
    name: str, data: Path, results: Path, generator: np.random.Generator
) -> tuple[list[int], dict[str, tuple[float, NDArray[np.float64]]]]:
    """The seeds that all sides have, and of each Trainer how far kitune is above it: on the rows as they are, and resampled,
    (RESAMPLES,).

    Raises:
        SystemExit: two sides of a seed saw other rows, or `trainer-own` has not kitune's settings.
    """
    bench = load_set(name, data)
    labels, score, lines = gold(bench, bench.test), SCORES[bench.headline], read_results(results)
    kept: dict[str, dict[int, NDArray[Any]]] = {who: {} for who in ("kitune", *TRAINERS)}
    for who, seed in product(kept, range(1, SEEDS + 1)):
        line, path = lines.get((name, who, seed)), decided_path(results, name, who, seed)
        if line is not None and path.exists():
            decided = np.load(path)["decided"]
            if abs(score(decided[None], labels) - 100 * line["score"]) < 0.01:  # not those of an earlier run
                kept[who][seed] = decided
    seeds = sorted(set.intersection(*map(set, kept.values())))
    for seed in seeds:
        require_alike(name, seed, {who: lines[name, who, seed] for who in kept})
    if not seeds:
        return [], {}
    own, *others = (np.stack([kept[who][seed] for seed in seeds]) for who in kept)
    found = np.empty((len(TRAINERS), RESAMPLES))
    for number in range(RESAMPLES):
        chosen = generator.integers(len(seeds), size=max(1, len(seeds) - 1))
        rows = generator.integers(len(labels), size=len(labels))
        drawn = labels[rows]
        ours = score(own[chosen][:, rows], drawn)
        found[:, number] = [ours - score(other[chosen][:, rows], drawn) for other in others]
    gaps = [score(own, labels) - score(other, labels) for other in others]
    return seeds, {who: (gap, of_who) for who, gap, of_who in zip(TRAINERS, gaps, found, strict=True)}


def require_alike(name: str, seed: int, lines: dict[str, Line]) -> None:
    """Refuse to compare runs on other rows, or a `trainer-own` of other settings than kitune's."""
    own = lines["kitune"]
    for who, line in lines.items():
        if line["sha256"] != own["sha256"]:
            raise SystemExit(f"{name}, seed {seed}: {who} saw other rows than kitune")
    for key in ("learning_rate", "batch", "epochs"):
        if lines["trainer-own"][key] != own[key]:
            raise SystemExit(f"{name}, seed {seed}: trainer-own has another {key} than kitune")


def accuracy(decided: NDArray[Any], labels: NDArray[Any]) -> float:
    return 100 * float((decided == labels).mean())


def spearman(decided: NDArray[Any], labels: NDArray[Any]) -> float:
    ranks, own = rankdata(decided.reshape(len(decided), -1), axis=1), rankdata(labels)
    return 100 * float(np.mean([np.corrcoef(row, own)[0, 1] for row in ranks]))


def matthews(decided: NDArray[Any], labels: NDArray[Any]) -> float:
    return 100 * float(np.mean([matthews_corrcoef(labels, row) for row in decided]))


def micro_f1(decided: NDArray[Any], labels: NDArray[Any]) -> float:
    return 100 * float(np.mean([f1_score(labels, row, average="micro") for row in decided]))


SCORES: dict[str, Score] = {"accuracy": accuracy, "spearman": spearman, "mcc": matthews, "micro_f1": micro_f1}


def ends(drawn: NDArray[np.float64]) -> tuple[float, float]:
    return float(np.quantile(drawn, 0.05)), float(np.quantile(drawn, 0.95))


if __name__ == "__main__":
    main()
