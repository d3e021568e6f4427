"""How kitune's defaults were chosen: an option at several values, on sets that stand in no table of results; resumable.

    python bench/defaults.py --data ../shared/data --vary train.head_rate=1,5,10

Every other option is at its default. Each run's scores on valid and test are appended to the results file as a JSON line;
the table shows means over the seeds that all values have.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

from machine import PROJECT, circumstances
from quality import judge, run_kitune
from sets import TABLE, hold_out, load_set

from kitune.config import parse_set

Varied = tuple[tuple[str, str], ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words = lambda text: text.split(",")  # noqa: E731
    parser.add_argument("--data", type=Path, default=PROJECT.parent / "shared" / "data", help="folder of all sets")
    parser.add_argument("--sets", type=words, default=["trec50", "sst5", "qnli"])
    parser.add_argument("--seeds", type=words, default=["1", "2", "3"])
    parser.add_argument("--limit", type=int, default=4000, help="train rows at most")
    parser.add_argument("--vary", action="append", required=True, metavar="OPTION=VALUE,VALUE")
    parser.add_argument("--results", type=Path, default=PROJECT / "bench" / "results" / "defaults.jsonl")
    told = parser.parse_args()
    if chosen_on := sorted(set(told.sets) & set(TABLE)):
        parser.error(f"{', '.join(chosen_on)}: defaults are not chosen on the sets of the table")
    options = [(name, values.split(",")) for name, _, values in (words.partition("=") for words in told.vary)]
    ways = [tuple((name, value) for (name, _), value in zip(options, way, strict=True))
            for way in product(*(values for _, values in options))]  # fmt: skip
    for seed in map(int, told.seeds):
        for name in told.sets:
            for way in ways:
                if (name, seed, told.limit, way) not in read(told.results):
                    append(told.results, run(name, seed, way, told))
    print_means(read(told.results), told, ways)


def read(path: Path) -> dict[tuple[str, int, int, Varied], dict[str, Any]]:
    """The results by set, seed, limit and what was varied."""
    lines = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    return {
        (line["set"], line["seed"], line["limit"], tuple(map(tuple, line["varied"]))): line
        for line in lines
        if "varied" in line
    }


def append(path: Path, line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def run(name: str, seed: int, way: Varied, told: argparse.Namespace) -> dict[str, Any]:
    """One training, scored on valid after each epoch, and on test at its end."""
    bench = load_set(name, told.data, limit=told.limit)
    train, valid = hold_out(bench, seed=seed)
    options = parse_set([f"{option}={value}" for option, value in way])
    with tempfile.TemporaryDirectory() as folder:
        done = run_kitune(bench, train, valid, seed=seed, options=options, folder=Path(folder) / "run")
        log = json.loads((Path(folder) / "run" / "log.json").read_text())
    judged, _ = judge(bench, done, train, valid)
    return {
        "set": name,
        "seed": seed,
        "limit": told.limit,
        "varied": way,
        "headline": bench.headline,
        **done.settings,
        "rows": len(train),
        "valid": [entry["valid_log"] for entry in log.values()],
        "test": judged["metrics"],
        **circumstances(),
    }


def print_means(results: dict[Any, dict[str, Any]], told: argparse.Namespace, ways: list[Varied]) -> None:
    """A line a set: the test scores of each way."""
    seeds = [int(seed) for seed in told.seeds]
    print(f"\n| set | seeds | {' | '.join(', '.join(value for _, value in way) for way in ways)} |")
    print("|---|---|" + "---|" * len(ways))
    for name in told.sets:
        common = [seed for seed in seeds if all((name, seed, told.limit, way) in results for way in ways)]
        lines = {way: [results[name, seed, told.limit, way] for seed in common] for way in ways}
        shown = [f"{100 * mean(line['test'][line['headline']] for line in lines[way]):.2f}" for way in ways if common]
        print(f"| {name} | {', '.join(map(str, common))} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
