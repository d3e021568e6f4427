"""How long a second training on the same data takes to its first step, beside importing and loading the same classes.

    python bench/start.py --pairs 7 --data ../shared/data

Both sides run in fresh processes, in turns; the clock starts before the interpreter and stops when the first update of
the weights is done, or when model and tokenizer are loaded. One training before the pairs fills the caches.
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

from machine import PROJECT
from pairs import RESULTS, Line, alternate, child, keep, print_table, shown, spread

from kitune.model.starter import starter_folder

UNWANTED = ("sklearn", "scipy", "datasets", "matplotlib")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--data", type=Path, default=PROJECT.parent / "shared" / "data", help="folder of all sets")
    parser.add_argument("--results", type=Path, default=RESULTS / "start.jsonl")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-start-") as folder:
        rows = write_rows(arguments.data, Path(folder) / "train.csv")
        model = str(starter_folder()) if arguments.model == "starter" else arguments.model
        told = {"folder": folder, "model": arguments.model, "model_folder": model}
        sides = {side: partial(child, "start.py", {"side": side, **told}) for side in ("kitune", "bare")}
        sides["kitune"]()
        pairs = alternate(sides, arguments.pairs)
    more = [pair["kitune"]["seconds"] - pair["bare"]["seconds"] for pair in pairs]
    print(f"{rows:,} rows of MRPC, {arguments.model}; {len(pairs)} pairs, medians\n")
    table = []
    for side in sides:
        figures = [pair[side] for pair in pairs]
        seconds, cpu = ([line[name] for line in figures] for name in ("seconds", "cpu_s"))
        table.append([side, shown(seconds, 2), shown(cpu, 2), ", ".join(figures[0]["unwanted"]) or "none"])
    print_table(("side", "s", "CPU s", "of sklearn, scipy, datasets, matplotlib"), table)
    print(f"\nkitune's first step comes {shown(more, 2)} s later\n")
    line: dict[str, Any] = {
        "benchmark": "start",
        "model": arguments.model,
        "rows": rows,
        "later_s": spread(more),
        "pairs": pairs,
    }
    keep(arguments.results, line)


def write_rows(data: Path, path: Path) -> int:
    """MRPC's train rows as a CSV."""
    import csv

    from sets import load_set  # late: its vectors and lists are no business of the sides

    bench = load_set("mrpc", data)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*bench.text, bench.label], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(bench.train)
    return len(bench.train)


def run_side(told: Line) -> None:
    """Print a side's figures as soon as it is where its clock stops."""

    def arrived() -> None:
        unwanted = [name for name in UNWANTED if name in sys.modules]
        figures = {"seconds": time.time() - told["started"], "cpu_s": time.process_time(), "unwanted": unwanted}
        print(json.dumps(figures), flush=True)
        os._exit(0)

    if told["side"] == "bare":
        import torch  # noqa: F401
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        AutoModelForSequenceClassification.from_pretrained(told["model_folder"])
        AutoTokenizer.from_pretrained(told["model_folder"])
        arrived()
    os.environ["HF_HOME"] = str(Path(told["folder"]) / "home")
    from kitune.cli import main as kitune
    from kitune.training.journal import Journal

    Journal.step = lambda *_, **__: arrived()  # type: ignore[method-assign]  # the first thing after the first update
    out = tempfile.mkdtemp(dir=told["folder"])
    kitune(["train", str(Path(told["folder"]) / "train.csv"), "--model", told["model"], "--out", f"{out}/run"])


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        run_side(json.loads(sys.argv[1]))
    else:
        main()
