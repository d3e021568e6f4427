"""Which weights a training should leave: the best epoch's, the last one's, or the mean of several epochs' weights.

    python bench/choosing.py --data ../shared/data --sets trec,sst5 --seeds 1,2,3,4,5

On sets that stand in no table of results. Every epoch's weights are kept; each way is scored on valid and test; a JSON
line a training is appended to the results file.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from machine import PROJECT, circumstances
from measure import measure
from sets import SETS, gold, hold_out, load_set

import kitune


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=PROJECT.parent / "shared" / "data")
    parser.add_argument("--sets", default="trec,sst5")
    parser.add_argument("--seeds", default="1,2,3,4,5")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--results", type=Path, default=PROJECT / "bench" / "results" / "choosing.jsonl")
    told = parser.parse_args()
    for seed in map(int, told.seeds.split(",")):
        for name in told.sets.split(","):
            line = {
                "set": name,
                "seed": seed,
                "limit": told.limit,
                "scores": trained(name, seed, told),
                **circumstances(),
            }
            print(json.dumps(line), flush=True)
            with told.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def trained(name: str, seed: int, told: argparse.Namespace) -> dict[str, Any]:
    """Valid and test scores of each way, from one training."""
    from safetensors.numpy import load_file

    bench = load_set(name, told.data, limit=told.limit)
    train, valid = hold_out(bench, seed=seed)
    headline = SETS[name].headline
    with tempfile.TemporaryDirectory() as place:
        run = kitune.train(
            train, valid=valid, model="starter", out=Path(place) / "run", task=bench.task, text=list(bench.text),
            label=bench.label, options={"train.seed": seed, "train.patience": None, "engine.keep_checkpoints": 99},
        )  # fmt: skip
        steps = sorted((run / "checkpoints").iterdir())
        weights = [load_file(step / "model.safetensors") for step in steps]
        model = kitune.load(run / "last")

        def scores(mean: dict[str, Any]) -> list[float]:
            said = []
            for rows in (valid, bench.test):
                answers = fresh(model, mean, run, Path(place)).predict(rows)
                logits = answers.logits
                if bench.label_names:
                    logits = logits[:, [answers.label_names.index(label) for label in bench.label_names]]
                said.append(100 * measure(logits, gold(bench, rows), task=bench.task)[headline])
            return said

        found = {f"epoch {number}": scores(one) for number, one in enumerate(weights)}
        for last in (2, 3, 4):
            if last < len(weights):
                found[f"mean of last {last}"] = scores(
                    {key: np.mean([one[key] for one in weights[-last:]], axis=0) for key in weights[0]}
                )
        log = json.loads((run / "log.json").read_text())
        best = max(range(len(steps)), key=lambda number: list(log.values())[number]["valid_log"][headline])
        losses = [entry["valid_log"]["loss"] for entry in log.values()]
        return {**found, "best": found[f"epoch {best}"], "best by loss": found[f"epoch {int(np.argmin(losses))}"],
                "last": found[f"epoch {len(steps) - 1}"]}  # fmt: skip


def fresh(model: Any, mean: dict[str, Any], run: Any, place: Path) -> Any:
    """A model with these weights, as `kitune.load` gives it."""
    import shutil

    from safetensors.numpy import save_file

    folder = place / "mean"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run / "last", folder)
    (folder / "model.safetensors").unlink()
    save_file(
        {key: np.ascontiguousarray(value) for key, value in mean.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    return kitune.load(folder)


if __name__ == "__main__":
    main()
