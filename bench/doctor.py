"""Time and memory of reading, encoding and examining a data set as it grows.

    python bench/doctor.py --rows 10000,100000,1000000 --data ../shared/data

The texts are those of `bench/encode.py`. Each size runs in a process of its own with an empty cache: everything that
`kitune doctor` does but for loading torch and the tokenizer. Memory is RssAnon, which mapped files are no part of.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from encode import sentences, write_rows
from machine import PROJECT
from memory import PeakMemory
from pairs import RESULTS, Line, alternate, child, keep, print_table, refuse_smoke, shown, spread, warn_of_neighbours

SMOKE_ROWS = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = lambda text: [int(word) for word in text.split(",")]  # noqa: E731
    parser.add_argument("--rows", type=sizes, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--data", type=Path, default=PROJECT.parent / "shared" / "data", help="folder of all sets")
    parser.add_argument("--results", type=Path, default=RESULTS / "doctor.jsonl")
    arguments = parser.parse_args()
    refuse_smoke(arguments.results, smoke=max(arguments.rows) < SMOKE_ROWS)
    with tempfile.TemporaryDirectory(prefix="bench-doctor-") as folder:
        pool, sides = sentences(arguments.data), {}
        for rows in arguments.rows:
            path = Path(folder) / f"rows-{rows}.csv"
            write_rows(path, pool, rows)
            sides[f"{rows:,}"] = partial(child, "doctor.py", {"path": str(path), "folder": folder})
        pairs = alternate(sides, arguments.pairs)
    warn_of_neighbours(pairs)
    lines = []
    for side in pairs[0]:
        figures = [pair[side] for pair in pairs]
        names = (("seconds", 1), ("us_per_row", 1), ("peak_mb", 0))
        lines.append([side, *(shown([line[name] for line in figures], digits) for name, digits in names)])
    print_table(("rows", "s", "us a row", "RssAnon MiB"), lines)
    kept: dict[str, Any] = {"benchmark": "doctor", "rows": arguments.rows, "pairs": pairs}
    for name in ("us_per_row", "peak_mb"):
        kept[name] = {side: spread([pair[side][name] for pair in pairs]) for side in pairs[0]}
    keep(arguments.results, kept)


def run_size(told: Line) -> Line:
    """One size's figures; the clock runs from the file to the findings."""
    with tempfile.TemporaryDirectory(dir=told["folder"]) as home:
        os.environ["HF_HOME"] = home  # an empty cache
        from kitune.config import DoctorOptions, RunOptions
        from kitune.diagnosis import diagnose
        from kitune.model.encoder import load_pretrained, model_folder

        load_pretrained(model_folder("starter"), "single-label", ("no", "yes"))  # imports what a training imports
        memory, began = PeakMemory(os.getpid()), time.perf_counter()
        findings = diagnose(RunOptions(doctor=DoctorOptions(allow=("estimate",))), {"train": told["path"]})
        seconds = time.perf_counter() - began
        with Path(told["path"]).open(encoding="utf-8") as file:
            rows = sum(1 for _ in file) - 1
        return {
            "seconds": seconds,
            "us_per_row": seconds / rows * 1e6,
            "peak_mb": memory.stop(),
            "findings": [finding.code for finding in findings],
        }


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        print(json.dumps(run_size(json.loads(sys.argv[1]))))
    else:
        main()
