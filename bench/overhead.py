"""What evaluation and checkpoints cost a training of kitune: seconds inside the loop, and a loop without them beside it.

    python bench/overhead.py --of evaluation --data ../shared/data
    python bench/overhead.py --of checkpoints

Evaluation: after each epoch, on a tenth of the train rows. Checkpoints: after each epoch and every 200 steps, best/ and
last/ included. `inside` is the time that the loop waits for them, as a share of the rest of the loop; `beside` is how
much longer the loop is than one without them, which also counts what goes on in the background, and all noise.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median

from machine import PROJECT
from pairs import RESULTS, Line, alternate, child, keep, print_table, refuse_smoke, shown, spread, warn_of_neighbours
from shapes import SHAPES, work_of
from train import EVERY_ROW, MAX_LENGTH, told

INSIDE = {"evaluation": "evaluate_s", "checkpoints": "save_s"}
EVERY_STEPS = 200


def main() -> None:
    arguments = read_arguments()
    refuse_smoke(arguments.results, smoke=arguments.rows is not None)
    with tempfile.TemporaryDirectory(prefix="bench-overhead-") as folder:
        rows = arguments.rows or EVERY_ROW
        work = work_of(arguments.shape, arguments.data, Path(folder), rows=rows, max_length=MAX_LENGTH)
        sides = {}
        for name, keeps in (("with", [arguments.of]), ("without", [])):
            line = told("kitune", work, arguments.epochs, shape=arguments.shape, keeps=keeps, options=arguments.set)
            line["options"] |= {"train.checkpoint_every": EVERY_STEPS}
            sides[name] = partial(child, "training.py", line)
        pairs = alternate(sides, arguments.pairs)
    for pair in pairs:
        spent = pair["with"][INSIDE[arguments.of]]
        pair["with"]["inside"] = spent / (pair["with"]["loop_s"] - spent)
        pair["with"]["beside"] = pair["with"]["loop_s"] / pair["without"]["loop_s"] - 1
    report(pairs, arguments, work.num_rows)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--of", choices=list(INSIDE), required=True)
    parser.add_argument("--shape", choices=SHAPES, default="starter")
    parser.add_argument("--data", type=Path, default=PROJECT.parent / "shared" / "data", help="folder of all sets")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rows", type=int, help="smoke run: train rows; default: all of the set")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="an option of kitune")
    parser.add_argument("--results", type=Path, default=RESULTS / "overhead.jsonl")
    return parser.parse_args()


def report(pairs: Sequence[dict[str, Line]], arguments: argparse.Namespace, num_rows: int) -> None:
    """The table, both shares, and the JSON line."""
    print(f"{arguments.of}: {arguments.shape}, {num_rows:,} rows x {arguments.epochs}; medians of {len(pairs)} pairs\n")
    spent = [pair["with"][INSIDE[arguments.of]] for pair in pairs]
    rows = [
        (side, shown([pair[side]["loop_s"] for pair in pairs]), f"{median(spent) if side == 'with' else 0:.2f}")
        for side in ("with", "without")
    ]
    print_table(("loop", "seconds", f"of it {arguments.of}"), rows)
    shares = {name: [pair["with"][name] for pair in pairs] for name in ("inside", "beside")}
    percent = {name: shown([100 * share for share in values]) for name, values in shares.items()}
    print(f"\n{arguments.of}: {percent['inside']} % of the training's time inside, {percent['beside']} % beside\n")
    warn_of_neighbours(pairs)
    line = {
        "benchmark": "overhead",
        "of": arguments.of,
        "shape": arguments.shape,
        "rows": num_rows,
        "epochs": arguments.epochs,
        "steps": pairs[0]["with"]["steps"],
        **{name: spread(values) for name, values in shares.items()},
        "pairs": pairs,
    }
    keep(arguments.results, line)


if __name__ == "__main__":
    main()
