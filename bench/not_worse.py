"""Whether kitune's defaults are worse than the better Trainer: 90 % intervals of the difference.

    python bench/not_worse.py --data ../shared/data

From the decisions over the test rows that `quality.py` kept beside its results. A resample draws seeds, and rows for both
sides alike, with replacement; the interval is from the 5th to the 95th percentile of the differences of the mean scores. Not
worse (DESIGN, section 10): the lower end is above -1.0 point on each set and above -0.3 over all; CoLA and RTE have no bar.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import PROJECT
from numpy.typing import NDArray
from pairs import RESULTS, print_table
from scipy.stats import rankdata
from sets import gold, load_set
from sklearn.metrics import f1_score, matthews_corrcoef
from table import read_results

RESAMPLES = 2_000
LEAST_OF_SET, LEAST_OF_ALL = -1.0, -0.3
# Too few test rows for a bar: shown, and left out of the mean.
WITHOUT_BAR = frozenset({"cola", "rte"})
# Of a set's (seeds, rows) decisions and (rows,) labels, the mean score over seeds, x 100.
Score = Callable[[NDArray[Any], NDArray[Any]], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=PROJECT.parent / "shared" / "data", help="folder of all sets")
    parser.add_argument("--sets", default="mrpc,sst2,stsb")
    parser.add_argument("--results", type=Path, default=RESULTS / "quality.jsonl")
    arguments = parser.parse_args()
    generator = np.random.default_rng(1)
    drawn, gaps, rows = [], [], []
    for name in arguments.sets.split(","):
        own, gap = differences(name, arguments.data, arguments.results, generator)
        if name in WITHOUT_BAR:
            rows.append([*gap, *ends(own), "no bar"])
            continue
        drawn.append(own)
        gaps.append(gap[3])
        rows.append([*gap, *ends(own), "yes" if ends(own)[0] > LEAST_OF_SET else "no"])
    if drawn:
        over_all = np.mean(drawn, axis=0)
        verdict = "yes" if ends(over_all)[0] > LEAST_OF_ALL else "no"
        rows.append(["mean", "", "", float(np.mean(gaps)), *ends(over_all), verdict])
    header = ("set", "better Trainer", "seeds", "difference", "5 %", "95 %", "not worse")
    print_table(header, [[f"{cell:+.2f}" if isinstance(cell, float) else cell for cell in row] for row in rows])
    print(json.dumps({"benchmark": "not-worse", "rows": rows}))


def differences(
    name: str, data: Path, results: Path, generator: np.random.Generator
) -> tuple[NDArray[np.float64], list[Any]]:
    """Resampled differences of a set, (RESAMPLES,), and its name, the better Trainer, the seeds, and the difference itself."""
    bench = load_set(name, data)
    labels = gold(bench, bench.test)
    score = SCORES[bench.headline]
    kept: dict[str, dict[int, NDArray[Any]]] = {}
    for (of_set, who, seed), line in read_results(results).items():
        path = results.with_name(f"{of_set}-{who}-{seed}.npz")
        if of_set == name and path.exists():
            decided = np.load(path)["decided"]
            if abs(score(decided[None], labels) - 100 * line["score"]) < 0.01:  # not those of an earlier run
                kept.setdefault(who, {})[seed] = decided
    trainers = [who for who in kept if who.startswith("trainer")]
    seeds = sorted(set.intersection(*(set(kept[who]) for who in ("kitune", *trainers))))
    own = np.stack([kept["kitune"][seed] for seed in seeds])
    sides = {who: np.stack([kept[who][seed] for seed in seeds]) for who in trainers}
    better = max(sides, key=lambda who: score(sides[who], labels))
    other = sides[better]
    found = np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        chosen = generator.integers(len(seeds), size=len(seeds))
        rows = generator.integers(len(labels), size=len(labels))
        drawn_labels = labels[rows]
        found[number] = score(own[chosen][:, rows], drawn_labels) - score(other[chosen][:, rows], drawn_labels)
    told = ", ".join(map(str, seeds))
    return found, [name, better, told, score(own, labels) - score(other, labels)]


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
