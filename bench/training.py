"""One training in this process, by kitune or by transformers' Trainer; its figures as a JSON line.

train.py, overhead.py and growth.py start it. Only what the side itself needs is imported, so that time and memory are
its own. The clock of `loop_s` runs from before the first step to after the last, warm-up of kernels included, when model,
rows and optimizer stand; `whole_s` is the whole process, from its start to the last evaluation.

`trainer-best` is bf16, length grouping and fused AdamW. TWEAKS are to be tried against it (`python bench/train.py --side
trainer-best+eager --peer trainer-best`); none has been measured on a quiet machine yet, so none is taken or ruled out.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from memory import PeakMemory

Line = dict[str, Any]
BATCH_ROWS, WARMUP_SHARE, WEIGHT_DECAY, SEED = 16, 0.06, 0.01, 1


@dataclass(frozen=True)
class Told:
    """What to train.

    Attributes:
        side: `kitune`, `plain-kitune`, or a Trainer of TRAINERS, with TWEAKS behind it: `trainer-best+eager`.
        train, valid: .jsonl files.
        keeps: what happens between the steps: `evaluation`, `checkpoints`, both or nothing.
        options: more of kitune's.
        started: when this process was, by `time.time`.
    """

    side: str
    model: str
    train: str
    valid: str
    text: list[str]
    label: str
    epochs: int
    learning_rate: float
    max_length: int
    keeps: list[str]
    options: dict[str, Any]
    started: float


@dataclass(frozen=True)
class Stack:
    """A way to use the Trainer.

    Attributes:
        arguments: of TrainingArguments.
        attention: `attn_implementation` of the model; None: what transformers takes.
        pad_to: pad to a multiple of so many tokens.
    """

    arguments: dict[str, Any]
    attention: str | None = None
    pad_to: int | None = None


DEFAULT = Stack({})
BEST = Stack({"bf16": True, "train_sampling_strategy": "group_by_length", "optim": "adamw_torch_fused"})
TRAINERS = {"trainer-default": DEFAULT, "trainer-best": BEST}
TWEAKS: dict[str, Callable[[Stack], Stack]] = {
    "sdpa": lambda stack: replace(stack, attention="sdpa"),
    "eager": lambda stack: replace(stack, attention="eager"),
    "pad8": lambda stack: replace(stack, pad_to=8),
    "compile": lambda stack: replace(stack, arguments=stack.arguments | {"torch_compile": True}),
    "worker": lambda stack: replace(stack, arguments=stack.arguments | {"dataloader_num_workers": 1}),
    "fp32": lambda stack: replace(stack, arguments=stack.arguments | {"bf16": False}),
    "random": lambda stack: replace(stack, arguments=stack.arguments | {"train_sampling_strategy": "random"}),
    "foreach": lambda stack: replace(stack, arguments=stack.arguments | {"optim": "adamw_torch"}),
}


def stack_of(side: str) -> Stack:
    """`trainer-best+eager` as a Stack; bf16 only where the machine computes it."""
    from machine import fast_bf16

    name, *tweaks = side.split("+")
    stack = TRAINERS[name]
    for tweak in tweaks:
        stack = TWEAKS[tweak](stack)
    return stack if fast_bf16() else TWEAKS["fp32"](stack)


class Clock:
    """Seconds by name, added up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, its seconds counted under `name`."""
        self.seconds.setdefault(name, 0.0)

        def timed(*words: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*words, **named)
            finally:
                self.seconds[name] += time.perf_counter() - began

        return timed


def with_kitune(told: Told, folder: Path) -> Line:
    """kitune's `train`; its loop is timed, and relieved of what `told.keeps` does not name."""
    kitune: Any = importlib.import_module("kitune")
    recipe: Any = importlib.import_module("kitune.finetune")
    real_fit, clock, seen = recipe.fit, Clock(), {}

    def fit(training: Any, state: Any, journal: Any, *, evaluate: Any, save: Any) -> None:
        seen["tokens"] = int(training.train.lengths.sum()) * told.epochs
        seen["precision"] = training.machine.precision
        unscored = {"loss": math.nan, str(training.options.best_metric): math.nan}
        between = {
            "evaluate": evaluate if "evaluation" in told.keeps else lambda epoch: unscored,
            "save": save if "checkpoints" in told.keeps else lambda state, improved: None,
        }
        between = {name: clock.around(f"{name}_s", call) for name, call in between.items()}
        clock.around("loop_s", real_fit)(training, state, journal, **between)
        if state.best_step is not None and "checkpoints" not in told.keeps:
            save(state, True)  # the weights that are scored at the end
        seen["steps"] = state.step

    recipe.fit = fit
    plain = {"engine.plain": True} if told.side == "plain-kitune" else {}
    run = kitune.train(
        told.train,
        valid=told.valid,
        model=told.model,
        out=folder / "run",
        task="single-label",
        text=told.text,
        label=told.label,
        options={
            "data.max_length": told.max_length,
            "train.seed": SEED,
            "train.epochs": told.epochs,
            "train.patience": None,  # both sides make all steps
            "train.learning_rate": told.learning_rate,
            "train.batch_rows": BATCH_ROWS,
            "train.schedule": "linear",
            "train.warmup_share": WARMUP_SHARE,
            "train.weight_decay": WEIGHT_DECAY,
            "engine.cache": False,  # the Trainer encodes anew, too
            **plain,
            **told.options,
        },
    )
    log = json.loads((run / "log.json").read_text(encoding="utf-8"))
    valid = run.metrics["valid"]
    return {
        **seen,
        **clock.seconds,
        "train_loss": fmean(entry["train_log"]["loss"] for entry in log.values()),
        "valid_loss": valid["loss"],
        "accuracy": valid["accuracy"],
    }


def with_trainer(told: Told, folder: Path) -> Line:
    """transformers' Trainer at kitune's batch, schedule and rate."""
    # What its examples import, and no more; `machine` here and below is a few lines over torch.
    from machine import device
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainerCallback,
        TrainingArguments,
        set_seed,
    )

    stack, moments = stack_of(told.side), {}

    class Stopwatch(TrainerCallback):  # type: ignore[misc]
        """The Trainer makes optimizer, sampler and schedule before `on_train_begin`."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            moments["begin"] = time.perf_counter()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            moments["end"] = time.perf_counter()

    set_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(told.model)
    network = AutoModelForSequenceClassification.from_pretrained(
        told.model, num_labels=2, **({} if stack.attention is None else {"attn_implementation": stack.attention})
    )
    train, valid = (encoded_rows(tokenizer, told, Path(path)) for path in (told.train, told.valid))
    arguments = {
        "output_dir": str(folder),
        "seed": SEED,
        "learning_rate": told.learning_rate,
        "num_train_epochs": told.epochs,
        "per_device_train_batch_size": BATCH_ROWS,
        "per_device_eval_batch_size": 64,
        "weight_decay": WEIGHT_DECAY,
        "lr_scheduler_type": "linear",
        "warmup_steps": WARMUP_SHARE,  # below 1 it is a share of all steps
        "use_cpu": device().type == "cpu",
        "eval_strategy": "epoch" if "evaluation" in told.keeps else "no",
        "save_strategy": "epoch" if "checkpoints" in told.keeps else "no",
        "save_total_limit": 2,  # kitune's default
        "report_to": "none",
        "disable_tqdm": True,
        **stack.arguments,
    }
    trainer = Trainer(
        model=network,
        args=TrainingArguments(**arguments),
        train_dataset=train,
        eval_dataset=valid,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=stack.pad_to),
        compute_metrics=accuracy,
        callbacks=[Stopwatch()],
    )
    done = trainer.train()
    scores = trainer.evaluate()
    return {
        "tokens": sum(len(row["input_ids"]) for row in train) * told.epochs,
        "precision": "bf16" if trainer.args.bf16 else "fp32",
        "attention": network.config._attn_implementation,
        "steps": done.global_step,
        "loop_s": moments["end"] - moments["begin"],
        "train_loss": done.training_loss,
        "valid_loss": scores["eval_loss"],
        "accuracy": scores["eval_accuracy"],
    }


def encoded_rows(tokenizer: Any, told: Told, path: Path) -> list[Line]:
    """Token ids and labels, row by row, as the Trainer takes them."""
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    names = sorted({row[told.label] for row in rows})
    table = tokenizer(
        *([row[column] for row in rows] for column in told.text), truncation=True, max_length=told.max_length
    )
    return [
        {**{name: table[name][number] for name in table}, "labels": names.index(row[told.label])}
        for number, row in enumerate(rows)
    ]


def accuracy(prediction: Any) -> dict[str, float]:
    """Share of right answers."""
    return {"accuracy": float((prediction.predictions.argmax(axis=1) == prediction.label_ids).mean())}


def main() -> None:
    told = Told(**json.loads(sys.argv[1]))
    memory = PeakMemory(os.getpid())
    with tempfile.TemporaryDirectory(prefix="bench-training-") as folder:
        train = with_trainer if told.side.startswith("trainer") else with_kitune
        figures = train(told, Path(folder))
    figures |= {"whole_s": time.time() - told.started, "peak_mb": memory.stop()}
    from peak import gemm_peak  # in this process, and after all that is measured

    print(json.dumps(figures | gemm_peak()))


if __name__ == "__main__":
    main()
