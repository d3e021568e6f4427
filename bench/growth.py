"""Ten times the rows: time and memory of the whole command, from a CSV file to the finished run.

    python bench/growth.py --data ../shared/data

Reading, doctor, split, encoding, one epoch on the tiny shape, evaluation, saving: all of `kitune train`. The texts are
QNLI's with their words shuffled, so that no two rows are equal and the lengths stay. A fixed start-up would flatter the
ratio: it is taken as the time of the same command on a few rows, and told both with and without it.
"""

from __future__ import annotations

import argparse
import csv
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from machine import PROJECT
from memory import PeakMemory
from pairs import (
    RESULTS,
    Line,
    alternate,
    keep,
    neighbours_cpu_s,
    print_table,
    ratios,
    refuse_smoke,
    shown,
    spread,
    warn_of_neighbours,
)
from sets import Row
from shapes import model_of, qnli
from train import MAX_LENGTH

ROWS, FEW_ROWS, TIMES = 10_000, 64, 10


def main() -> None:
    arguments = read_arguments()
    refuse_smoke(arguments.results, smoke=arguments.rows != ROWS)
    with tempfile.TemporaryDirectory(prefix="bench-growth-") as name:
        folder = Path(name)
        model = model_of("tiny", arguments.data, folder / "model")
        counts = {"few": FEW_ROWS, "rows": arguments.rows, "ten times": TIMES * arguments.rows}
        source = qnli(arguments.data).train
        for side, count in counts.items():
            write_rows(folder / f"{side}.csv", source, count)
        sides = {side: partial(train, folder / f"{side}.csv", model) for side in counts}
        pairs = alternate(sides, arguments.pairs)
    for pair in pairs:
        for figures in pair.values():
            figures["without_start_s"] = figures["whole_s"] - pair["few"]["whole_s"]
    report(pairs, arguments, counts)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=PROJECT.parent / "shared" / "data", help="folder of all sets")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--rows", type=int, default=ROWS, help="of the smaller file; another number: a smoke run")
    parser.add_argument("--results", type=Path, default=RESULTS / "growth.jsonl")
    return parser.parse_args()


def write_rows(path: Path, source: Sequence[Row], count: int) -> None:
    """`count` rows, those of `source` over and over, each time with their words in another order."""
    chance = random.Random(1)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "sentence", "label"])
        for number in range(count):
            row = source[number % len(source)]
            question, sentence = (row[column].split() for column in ("question", "sentence"))
            chance.shuffle(question)
            chance.shuffle(sentence)
            writer.writerow([" ".join(question), " ".join(sentence), row["label"]])


def train(data: Path, model: Path) -> Line:
    """One `kitune train` of an epoch, watched from outside."""
    with tempfile.TemporaryDirectory(prefix="bench-growth-run-") as run:
        words = [sys.executable, "-m", "kitune", "train", str(data), "--model", str(model), "--out", f"{run}/run"]
        words += ["--text", "question", "--text", "sentence", "--label", "label"]
        for option in ("train.epochs=1", f"data.max_length={MAX_LENGTH}", "engine.cache=false"):
            words += ["--set", option]
        busy_before, began = neighbours_cpu_s(), time.perf_counter()
        with (Path(run) / "log").open("w+", encoding="utf-8") as log:
            process = subprocess.Popen(words, stdout=log, stderr=log)
            memory = PeakMemory(process.pid)
            code = process.wait()
            seconds, peak_mb = time.perf_counter() - began, memory.stop()
            if code:
                log.seek(0)
                raise SystemExit(f"{' '.join(words)} failed:\n{log.read()[-3000:]}")
    return {"whole_s": seconds, "peak_mb": peak_mb, "neighbours": (neighbours_cpu_s() - busy_before) / seconds}


def report(pairs: Sequence[dict[str, Line]], arguments: argparse.Namespace, counts: dict[str, int]) -> None:
    """The table, the ratios, and the JSON line."""
    print(f"`kitune train` on the tiny shape, one epoch; medians of {len(pairs)} rounds\n")
    names = ("whole_s", "without_start_s", "peak_mb")
    rows = [
        (f"{count:,} rows", *(shown([pair[side][name] for pair in pairs]) for name in names))
        for side, count in counts.items()
    ]
    print_table(("file", "whole s", "without start-up s", "RssAnon MiB"), rows)
    grown = {name: ratios(pairs, name, over="ten times", under="rows") for name in names}
    told = {name: shown(values, 2) for name, values in grown.items()}
    print(f"\n{TIMES} x the rows: {told['whole_s']} x the time, {told['without_start_s']} x without start-up,")
    print(f"{told['peak_mb']} x the memory\n")
    warn_of_neighbours(pairs)
    line = {
        "benchmark": "growth",
        "rows": counts,
        "grown": {name: spread(values) for name, values in grown.items()},
        "pairs": pairs,
    }
    keep(arguments.results, line)


if __name__ == "__main__":
    main()
