"""How kitune's default learning rates and epochs were chosen: on sets that stand in no table of results.

    python bench/defaults.py --data ../shared/data --sets trec,sst5 --rates 5e-5,1e-4,2e-4 --epochs 4

Every run's scores on valid and test are appended to the results file as a JSON line.
"""

import argparse
import json
import tempfile
from pathlib import Path

from machine import circumstances
from measure import measure
from sets import gold, hold_out, load_set

import kitune


def main() -> None:
    """Train once for each set, rate and number of epochs; print and append a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", default="trec,sst5")
    parser.add_argument("--rates", default="5e-5,1e-4,2e-4")
    parser.add_argument("--epochs", default="4")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--options", default="{}", help="JSON: any other options of kitune")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=Path("bench/results/defaults.jsonl"))
    told = parser.parse_args()
    for name in told.sets.split(","):
        bench = load_set(name, told.data, limit=told.limit)
        train, valid = hold_out(bench, seed=1)
        for rate in told.rates.split(","):
            for epochs in told.epochs.split(","):
                with tempfile.TemporaryDirectory() as folder:
                    run = kitune.train(
                        train,
                        valid=valid,
                        task=bench.task,
                        text=list(bench.text),
                        label=bench.label,
                        out=Path(folder) / "run",
                        options={
                            "train.learning_rate": float(rate),
                            "train.epochs": int(epochs),
                            "train.patience": int(epochs),
                            "engine.threads": told.threads,
                            **json.loads(told.options),
                        },
                    )
                    log = json.loads((run / "log.json").read_text())
                    test = run.predict(bench.test)
                    order = [test.label_names.index(label) for label in bench.label_names]
                line = {
                    "set": name,
                    "learning_rate": float(rate),
                    "epochs": int(epochs),
                    "options": json.loads(told.options),
                    "rows": len(train),
                    "valid": [entry["valid_log"] for entry in log.values()],
                    "test": measure(test.logits[:, order], gold(bench, bench.test), task=bench.task),
                    **circumstances(),
                }
                print(json.dumps(line))
                with told.results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
