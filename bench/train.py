"""How fast kitune fine-tunes beside the Trainer: equal rows, batches, schedule, rate and epochs, in turns.

    python bench/train.py --peer trainer-best --data ../shared/data
    python bench/train.py --peer trainer-default --shape multilingual --pairs 3
    python bench/train.py --peer trainer-default --whole
    python bench/train.py --peer trainer-default --keeps evaluation,checkpoints   (for the memory)

Peers: `trainer-default` (fp32, random order, dynamic padding), `trainer-best` (bf16, length grouping, fused AdamW; see
training.py), `plain-kitune` (every fast piece off). Evaluation and checkpoints are off on both sides unless --keeps
names them; each side is evaluated once at the end, to show that both have learned the same.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from machine import PROJECT
from pairs import (
    RESULTS,
    Line,
    alternate,
    child,
    keep,
    print_table,
    ratios,
    refuse_smoke,
    shown,
    spread,
    warn_of_neighbours,
)
from shapes import SHAPES, Work, work_of
from training import BATCH_ROWS, TRAINERS, TWEAKS

from kitune.config import parse_set
from kitune.training.defaults import default_epochs

# The starter wants a small step, weights drawn by chance a larger one; speed does not depend on it.
LEARNING_RATES = {"starter": 6e-5, "tiny": 3e-4, "multilingual": 1e-4}
MAX_LENGTH = 128
EVERY_ROW = 10**9


def main() -> None:
    arguments = read_arguments()
    refuse_smoke(arguments.results, smoke=arguments.rows is not None)
    with tempfile.TemporaryDirectory(prefix="bench-train-") as folder:
        rows = EVERY_ROW if arguments.whole else arguments.rows
        work = work_of(arguments.shape, arguments.data, Path(folder), rows=rows, max_length=MAX_LENGTH)
        epochs = arguments.epochs or 1
        if arguments.whole and arguments.epochs is None:
            epochs = default_epochs(work.num_rows, BATCH_ROWS, 2, "single-label")
        chosen: dict[str, Any] = {"shape": arguments.shape, "keeps": arguments.keeps, "options": arguments.set}
        sides = {
            side: partial(child, "training.py", told(side, work, epochs, **chosen))
            for side in (arguments.side, arguments.peer)
        }
        pairs = alternate(sides, arguments.pairs or (1 if arguments.whole else 5))
    for pair in pairs:
        for figures in pair.values():
            finish(figures, work, epochs)
    report(pairs, arguments, work, epochs)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ", ".join(["kitune", "plain-kitune", *TRAINERS])
    parser.add_argument("--peer", default="trainer-best", help=f"{names}; with + any of {', '.join(TWEAKS)}")
    parser.add_argument("--side", default="kitune", help="who is held against the peer; peers can be, too")
    parser.add_argument("--shape", choices=SHAPES, default="starter")
    parser.add_argument("--data", type=Path, default=PROJECT.parent / "shared" / "data", help="folder of all sets")
    parser.add_argument("--pairs", type=int, help="default: 5, of --whole 1")
    parser.add_argument("--rows", type=int, help="smoke run: train rows")
    parser.add_argument("--epochs", type=int, help="default: 1, of --whole what kitune takes by default")
    parser.add_argument("--whole", action="store_true", help="every train row of the set")
    parser.add_argument("--keeps", type=lambda text: text.split(","), default=[], help="evaluation,checkpoints")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="an option of kitune")
    parser.add_argument("--results", type=Path, default=RESULTS / "train.jsonl")
    arguments = parser.parse_args()
    for side in (arguments.side, arguments.peer):
        name, *tweaks = side.split("+")
        if name not in ("kitune", "plain-kitune", *TRAINERS) or not set(tweaks) <= set(TWEAKS):
            parser.error(f"nobody is called {side!r}; there are {names}")
    if arguments.side == arguments.peer:
        parser.error("the peer is somebody else")
    return arguments


def told(side: str, work: Work, epochs: int, *, shape: str, keeps: Sequence[str], options: Sequence[str]) -> Line:
    """What a side's process is told; see `training.Told`."""
    return {
        "side": side,
        "model": str(work.model),
        "train": str(work.train),
        "valid": str(work.valid),
        "text": list(work.text),
        "label": work.label,
        "epochs": epochs,
        "learning_rate": LEARNING_RATES[shape],
        "max_length": MAX_LENGTH,
        "keeps": list(keeps),
        "options": parse_set(options),
    }


def finish(figures: Line, work: Work, epochs: int) -> None:
    """Add rates and the share of the peak, which follow from the seconds."""
    if figures["tokens"] != work.tokens * epochs:
        raise SystemExit(f"a side has trained on {figures['tokens']} tokens instead of {work.tokens * epochs}")
    flop = 6 * work.encoder_parameters * figures["tokens"]
    figures["rows_per_s"] = work.num_rows * epochs / figures["loop_s"]
    figures["tokens_per_s"] = figures["tokens"] / figures["loop_s"]
    figures["peak_share"] = flop / figures["loop_s"] / (figures["peak_gflops"] * 1e9)


def report(pairs: Sequence[dict[str, Line]], arguments: argparse.Namespace, work: Work, epochs: int) -> None:
    """The table, the ratios, and the JSON line."""
    ours, theirs = arguments.side, arguments.peer
    between = " and ".join(arguments.keeps) or "nothing"
    print(
        f"{arguments.shape}: {work.num_rows:,} rows, {work.tokens:,} tokens, {work.distinct_tokens:,} different ones;"
    )
    print(f"{BATCH_ROWS} rows a step, {epochs} epochs, between the steps {between}; medians of {len(pairs)} pairs\n")
    heads = ("side", "loop s", "rows/s", "tokens/s", "of peak", "RssAnon MiB", "whole s", "losses, accuracy")
    print_table(heads, [row_of(side, [pair[side] for pair in pairs]) for side in (ours, theirs)])
    faster = ratios(pairs, "loop_s", over=theirs, under=ours)
    whole = ratios(pairs, "whole_s", over=theirs, under=ours)
    memory = ratios(pairs, "peak_mb", over=ours, under=theirs)
    print(f"\n{ours} against {theirs}: loop {shown(faster, 2)} x as fast, whole process {shown(whole, 2)} x,")
    print(f"memory {shown(memory, 2)} x\n")
    warn_of_neighbours(pairs)
    names = ("loop_s", "whole_s", "peak_mb", "rows_per_s", "tokens_per_s", "peak_share", "peak_gflops")
    line: dict[str, Any] = {
        "benchmark": "train",
        "shape": arguments.shape,
        "sides": [ours, theirs],
        "rows": work.num_rows,
        "epochs": epochs,
        "tokens": work.tokens,
        "distinct_tokens": work.distinct_tokens,
        "encoder_parameters": work.encoder_parameters,
        "keeps": arguments.keeps,
        "faster": spread(faster),
        "faster_whole": spread(whole),
        "memory": spread(memory),
        "medians": {side: {name: spread([pair[side][name] for pair in pairs]) for name in names} for side in pairs[0]},
        "pairs": pairs,
    }
    keep(arguments.results, line)


def row_of(side: str, figures: Sequence[Line]) -> tuple[str, ...]:
    """A side's line of the table."""

    def middle(name: str) -> float:
        return float(median(line[name] for line in figures))

    return (
        side,
        shown([line["loop_s"] for line in figures]),
        f"{middle('rows_per_s'):.1f}",
        f"{middle('tokens_per_s'):,.0f}",
        f"{middle('peak_share'):.1%}",
        f"{middle('peak_mb'):,.0f}",
        f"{middle('whole_s'):.1f}",
        f"{middle('train_loss'):.3f} {middle('valid_loss'):.3f} {middle('accuracy'):.3f}",
    )


if __name__ == "__main__":
    main()
