"""The time that kitune announces before a training, beside what the training then takes.

    python bench/estimate.py --data ../shared/data --rows 1500

Each set is trained in a process of its own with an empty cache, at kitune's defaults but for the epochs (told, so that
patience does not end it). The training's own time runs from the first update to the end of the last epoch, evaluations
and checkpoints included.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from machine import PROJECT
from pairs import RESULTS, Line, alternate, child, keep, print_table, refuse_smoke, warn_of_neighbours

SETS = ("mrpc", "sst2", "stsb", "banking77", "goemotions")
SMOKE_ROWS = 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_500, help="of train, at most")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--data", type=Path, default=PROJECT.parent / "shared" / "data", help="folder of all sets")
    parser.add_argument("--results", type=Path, default=RESULTS / "estimate.jsonl")
    arguments = parser.parse_args()
    refuse_smoke(arguments.results, smoke=arguments.rows < SMOKE_ROWS)
    told = {"rows": arguments.rows, "epochs": arguments.epochs, "data": str(arguments.data)}
    sides = {name: partial(child, "estimate.py", {"set": name, **told}) for name in SETS}
    pairs = alternate(sides, 1)
    warn_of_neighbours(pairs)
    figures = pairs[0]
    rows = [
        [name, f"{line['announced']:.0f}", f"{line['taken']:.1f}", f"{line['ratio']:.2f}"]
        for name, line in figures.items()
    ]
    print_table(("set", "announced s", "taken s", "ratio"), rows)
    found = [line["ratio"] for line in figures.values()]
    kept: dict[str, Any] = {"benchmark": "estimate", "rows": arguments.rows, "sets": figures}
    keep(arguments.results, {**kept, "median": median(found), "least": min(found), "most": max(found)})


def run_set(told: Line) -> Line:
    """Announced and taken seconds of one set."""
    with tempfile.TemporaryDirectory(prefix="bench-estimate-") as folder:
        os.environ["HF_HOME"] = folder
        from sets import hold_out, load_set

        import kitune

        bench = load_set(told["set"], Path(told["data"]), limit=told["rows"])
        train_rows, valid_rows = hold_out(bench, seed=1)
        run = kitune.train(
            train_rows,
            valid=valid_rows,
            model="starter",
            out=Path(folder) / "run",
            task=bench.task,
            text=list(bench.text),
            label=bench.label,
            options={"train.epochs": told["epochs"], "train.patience": None},
        )
        ended = time.time()
        findings = json.loads((run.folder / "findings.json").read_text())
        says = next(finding["says"] for finding in findings if finding["code"] == "estimate")
        minutes, seconds = re.match(r"about (?:(\d+) min )?(\d+) s", says).groups()  # type: ignore[union-attr]
        events = [json.loads(line) for line in (run.folder / "events.jsonl").read_text().splitlines()]
        announced = 60 * int(minutes or 0) + int(seconds)
        # The first line of events.jsonl is written after the first update.
        taken = (
            ended - events[0]["time"] if "time" in events[0] else ended - (run.folder / "findings.json").stat().st_mtime
        )
        return {"announced": float(announced), "taken": taken, "ratio": announced / taken, "says": says}


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        print(json.dumps(run_set(json.loads(sys.argv[1]))))
    else:
        main()
