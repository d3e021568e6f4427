"""How fast kitune answers beside what others predict and embed with: the starter over real sentences, in turns.

    python bench/predict.py --peer sentence-transformers --data ../shared/data
    python bench/predict.py --peer pipeline
    python bench/predict.py --peer onnx-int8
    python bench/predict.py --peer openvino

Peers need the extra `bench`. The model is the starter with a head of LABELS labels drawn by chance (`--work classify`) or
the starter itself, its vectors averaged (`--work embed`); sentence-transformers always embeds and pipeline always
classifies. The least cosine of a row to the fp32 outputs of plain torch is told for each side.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from machine import PROJECT, version
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
from predicting import MAX_LENGTH, SIDES
from quality import starter_folder
from sets import PAIR, load_set, tab_rows
from transformers import AutoModelForSequenceClassification, AutoTokenizer

LABELS = 32  # enough for a cosine of two rows of logits to mean something
ROWS = 20_000
ONE_BY_ONE_ROWS = 2_000  # of pipeline, whose rate does not depend on their number; kitune gets them all
PACKAGES = ("sentence-transformers", "onnxruntime", "openvino")
ONLY = {"sentence-transformers": "embed", "pipeline": "classify"}


def main() -> None:
    arguments = read_arguments()
    refuse_smoke(arguments.results, smoke=arguments.rows != ROWS)
    with tempfile.TemporaryDirectory(prefix="bench-predict-") as name:
        folder = Path(name)
        texts = sentences(arguments.data, arguments.rows)
        work = {side: ONLY.get(side, arguments.work) for side in ("kitune", arguments.peer)}
        models = {"embed": starter_folder(), "classify": classifier(folder / "classifier")}
        sides = {}
        for side in work:
            few = texts[: ONE_BY_ONE_ROWS if side == "pipeline" else None]
            (folder / f"{side}.json").write_text(json.dumps(few), encoding="utf-8")
            told = {
                "side": side,
                "work": work[side],
                "model": str(models[work[side]]),
                "texts": str(folder / f"{side}.json"),
                "out": str(folder / f"{side}.npy"),
                "folder": str(folder),
                "precision": arguments.precision if side == "kitune" else None,
            }
            sides[side] = partial(child, "predicting.py", told)
        pairs = alternate(sides, arguments.pairs)
        cosines: dict[str, float] = {}
        for kind in dict.fromkeys(work.values()):
            told = {"work": kind, "model": str(models[kind]), "texts": str(folder / "kitune.json")}
            out = folder / f"{kind}.npy"
            plain = {**told, "side": "plain", "out": str(out), "folder": str(folder), "precision": None}
            child("predicting.py", plain)
            cosines |= {
                side: least_cosine(folder / f"{side}.npy", out)
                for side in work
                if work[side] == kind and (folder / f"{side}.npy").exists()
            }
    report(pairs, arguments, work, cosines)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    peers = [side for side in SIDES if side != "kitune"]
    parser.add_argument("--peer", choices=peers, required=True)
    parser.add_argument("--data", type=Path, default=PROJECT.parent / "shared" / "data", help="folder of all sets")
    parser.add_argument("--work", choices=["classify", "embed"], default="classify")
    parser.add_argument("--precision", help="of kitune; default: its own")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=ROWS, help="fewer: a smoke run")
    parser.add_argument("--results", type=Path, default=RESULTS / "predict.jsonl")
    return parser.parse_args()


def sentences(data: Path, rows: int) -> list[str]:
    """Different sentences and questions of MRPC and QNLI, in an order drawn by chance."""
    mrpc = load_set("mrpc", data)
    found = {row[column] for row in mrpc.train + mrpc.test for column in PAIR}
    qnli = [row for part in ("dev", "test") for row in tab_rows(data / "qnli" / f"{part}.tsv")]
    found |= {row[column] for row in qnli for column in ("question", "sentence")}
    drawn = random.Random(1).sample(sorted(found), len(found))
    if len(drawn) < rows:
        raise SystemExit(f"{data} has {len(drawn):,} sentences\n  fix: --rows {len(drawn)}")
    return drawn[:rows]


def classifier(folder: Path) -> Path:
    """The starter with a new head, the same at every call."""
    torch.manual_seed(1)
    network = AutoModelForSequenceClassification.from_pretrained(starter_folder(), num_labels=LABELS)
    network.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(starter_folder())
    tokenizer.model_max_length = MAX_LENGTH  # where sentence-transformers and all peers cut
    tokenizer.save_pretrained(folder)
    return folder


def least_cosine(outputs: Path, exact: Path) -> float:
    """Over all rows that both files have."""
    ours = np.load(outputs).astype(np.float64)
    theirs = np.load(exact).astype(np.float64)[: len(ours)]
    dots = (ours * theirs).sum(axis=1)
    return float((dots / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)).min())


def report(
    pairs: Sequence[dict[str, Line]], arguments: argparse.Namespace, work: dict[str, str], cosines: dict[str, float]
) -> None:
    """The table, the ratio, and the JSON line."""
    peer = arguments.peer
    rates = {side: [pair[side]["rows_per_s"] for pair in pairs] for side in work}
    print(f"starter over {arguments.rows:,} sentences; medians of {len(pairs)} pairs\n")
    rows = [
        (
            side,
            work[side],
            shown(rates[side], 0),
            f"{median(pair[side]['whole_s'] for pair in pairs):.1f}",
            f"{cosines[side]:.5f}" if side in cosines else "-",
        )
        for side in work
    ]
    print_table(("side", "work", "sentences/s", "whole s", "least cosine to fp32"), rows)
    faster = ratios(pairs, "rows_per_s", over="kitune", under=peer)
    print(f"\nkitune against {peer}: {shown(faster, 2)} x as fast\n")
    warn_of_neighbours(pairs)
    line = {
        "benchmark": "predict",
        "sides": work,
        "rows": arguments.rows,
        "faster": spread(faster),
        "sentences_per_s": {side: spread(values) for side, values in rates.items()},
        "least_cosine": cosines,
        "peer_versions": {name: version(name) for name in PACKAGES},
        "pairs": pairs,
    }
    keep(arguments.results, line)


if __name__ == "__main__":
    main()
