"""How fast a file becomes cached token ids, beside the tokenizer's own `encode_batch_fast` on texts in memory.

    python bench/encode.py --rows 1000000 --data ../shared/data

The texts are halves of the sentences of QNLI and SST-2, joined by chance. Each side runs in a process of its own, in
turns. kitune reads a CSV, fingerprints it, tokenizes, writes and maps the ids, with an empty cache; the peer has the
texts in memory, in slices of a size that it is fast with, and throws away what it gets. The ids of the first rows
are compared. Loading the tokenizer counts on neither side.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from machine import PROJECT
from memory import PeakMemory
from pairs import RESULTS, Line, alternate, child, keep, print_table, ratios, refuse_smoke, shown, spread

MAX_LENGTH = 128
SMOKE_ROWS = 100_000
# 300 to 2,000 rows at once are equally fast; 100 and 10,000 are slower.
PEER_SLICE = 1_000
COMPARED_ROWS = 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--data", type=Path, default=PROJECT.parent / "shared" / "data", help="folder of all sets")
    parser.add_argument("--results", type=Path, default=RESULTS / "encode.jsonl")
    arguments = parser.parse_args()
    refuse_smoke(arguments.results, smoke=arguments.rows < SMOKE_ROWS)
    with tempfile.TemporaryDirectory(prefix="bench-encode-") as folder:
        path = Path(folder) / "rows.csv"
        write_rows(path, sentences(arguments.data), arguments.rows)
        size_mb = path.stat().st_size / 2**20
        sides = {
            side: partial(child, "encode.py", {"side": side, "path": str(path), "folder": folder})
            for side in ("kitune", "encode_batch_fast")
        }
        pairs = alternate(sides, arguments.pairs)
    for pair in pairs:
        if pair["kitune"]["first_ids"] != pair["encode_batch_fast"]["first_ids"]:
            raise SystemExit("the two sides have different ids")
    report(pairs, arguments, size_mb)


def sentences(data: Path) -> list[list[str]]:
    """The words of every sentence of QNLI and SST-2."""
    files = (("qnli/dev.tsv", (1, 2)), ("qnli/test.tsv", (1, 2)), ("sst2/dev.tsv", (0,)))
    found = []
    for name, columns in files:
        for line in (data / name).read_text(encoding="utf-8").splitlines()[1:]:
            cells = line.split("\t")
            found += [cells[column].split() for column in columns if column < len(cells)]
    return found


def write_rows(path: Path, pool: Sequence[list[str]], rows: int) -> None:
    """A CSV of `rows` seeded texts: the first half of one sentence and the second of another."""
    chance = random.Random(1)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "label"])
        for row in range(rows):
            one, other = chance.choice(pool), chance.choice(pool)
            text = " ".join(one[: len(one) // 2 + 1] + other[len(other) // 2 :])
            writer.writerow([row, text, chance.choice(("no", "yes"))])


def run_side(told: Line) -> Line:
    """One side's figures; the clock runs while it works on the rows."""
    with tempfile.TemporaryDirectory(dir=told["folder"]) as home:
        os.environ["HF_HOME"] = home  # an empty cache
        # Late: kitune's caches follow HF_HOME.
        from kitune.data.encode import encode
        from kitune.data.read import read_table
        from kitune.model.encoder import load_tokenizer, model_folder

        tokenizer = load_tokenizer(model_folder("starter"))
        path = Path(told["path"])
        if told["side"] == "kitune":
            memory, clock = PeakMemory(os.getpid()), Clock()
            encoded = encode(read_table(path), ["text"], tokenizer, max_length=MAX_LENGTH)
            figures = clock.figures(len(encoded))
            first = encoded.input_ids[: encoded.starts[COMPARED_ROWS]].tolist()
        else:
            with path.open(encoding="utf-8", newline="") as file:
                texts = [row[1] for row in csv.reader(file)][1:]
            backend = tokenizer.backend_tokenizer
            backend.no_padding()
            backend.enable_truncation(MAX_LENGTH)
            first = [i for row in backend.encode_batch_fast(texts[:COMPARED_ROWS]) for i in row.ids]
            memory, clock = PeakMemory(os.getpid()), Clock()
            for begin in range(0, len(texts), PEER_SLICE):
                backend.encode_batch_fast(texts[begin : begin + PEER_SLICE])
            figures = clock.figures(len(texts))
        return {**figures, "peak_mb": memory.stop(), "first_ids": hashlib.sha256(repr(first).encode()).hexdigest()}


class Clock:
    """Seconds of the wall and of the process since it was made."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def figures(self, rows: int) -> Line:
        seconds, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        return {"rows_per_s": rows / seconds, "seconds": seconds, "cpu_us_per_row": cpu / rows * 1e6}


def report(pairs: Sequence[dict[str, Line]], arguments: argparse.Namespace, size_mb: float) -> None:
    """The table, the ratios, and the JSON line."""
    print(
        f"{arguments.rows:,} rows, {size_mb:,.0f} MiB of CSV, at most {MAX_LENGTH} tokens; {len(pairs)} pairs, medians\n"
    )
    rows = []
    for side in pairs[0]:
        figures = [pair[side] for pair in pairs]
        names = (("rows_per_s", 0), ("seconds", 1), ("cpu_us_per_row", 1), ("peak_mb", 0))
        rows.append([side, *(shown([line[name] for line in figures], digits) for name, digits in names)])
    print_table(("side", "rows/s", "s", "CPU us/row", "RssAnon MiB"), rows)
    ratio = ratios(pairs, "rows_per_s", over="kitune", under="encode_batch_fast")
    print(f"\nkitune has {shown(ratio, 2)} of encode_batch_fast's rows/s\n")
    line: dict[str, Any] = {
        "benchmark": "encode",
        "rows": arguments.rows,
        "csv_mb": round(size_mb),
        "max_length": MAX_LENGTH,
        "ratio": spread(ratio),
        "peak_mb": spread([pair["kitune"]["peak_mb"] for pair in pairs]),
        "pairs": [
            {side: {n: v for n, v in f.items() if n != "first_ids"} for side, f in pair.items()} for pair in pairs
        ],
    }
    keep(arguments.results, line)


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        print(json.dumps(run_side(json.loads(sys.argv[1]))))
    else:
        main()
