"""With dropout off, accumulation, bucketing and the number of processes change nothing but rounding."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from kitune.data import batches
from kitune.training import loop
from tests.jsonl import write_rows
from tests.training.runs import in_child, together, train

Rows = Callable[..., list[dict[str, Any]]]

TASKS: dict[str, dict[str, Any]] = {
    "single-label": {"train.label_smoothing": 0.1, "train.class_weights": "auto", "data.weight": "weight"},
    "multi-label": {},
    "regression": {"data.weight": "weight"},
}
# With a large epsilon AdamW is smooth in gradients that are zero but for rounding (every key.bias): at 1e-8 it would
# divide rounding by rounding.
BASE: dict[str, Any] = {
    "data.text": ["text"],
    "data.label": "label",
    "data.max_length": 32,
    "train.dropout": 0.0,
    "train.epochs": 2,
    "train.learning_rate": 1e-3,
    "train.epsilon": 1e-4,
    "train.batch_rows": 10,
    "train.sampler": "random",
    "engine.precision": "fp32",
    "engine.threads": 1,
}
RELATIVE = 1e-6


def weighted(rows: Rows, task: str) -> list[dict[str, Any]]:
    """60 rows with uneven weights; 48 of them are learned from, in updates of 10, 10, 10, 10 and 8."""
    return [row | {"weight": 0.5 + number % 3} for number, row in enumerate(rows(task, 60))]


def result(folder: Path) -> tuple[NDArray[np.float64], dict[str, torch.Tensor]]:
    """Loss of every step, and the weights at the end."""
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return np.asarray([event["loss"] for event in events]), load_file(folder / "last" / "model.safetensors")


def assert_same_but_for_rounding(one: Path, other: Path) -> None:
    (losses, weights), (other_losses, other_weights) = result(one), result(other)
    assert len(losses) == 10
    np.testing.assert_allclose(other_losses, losses, rtol=RELATIVE)
    difference = sum(float((other_weights[name] - weights[name]).double().square().sum()) for name in weights) ** 0.5
    norm = sum(float(weight.double().square().sum()) for weight in weights.values()) ** 0.5
    assert difference <= RELATIVE * norm


@pytest.fixture(scope="module")
def plain(rows: Rows, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The run of a task with one micro-batch an update, one process and no bucketing."""
    made: dict[str, Path] = {}

    def run(task: str) -> Path:
        if task not in made:
            folder = tmp_path_factory.mktemp("plain")
            made[task] = folder / "run"
            work = train(made[task], weighted(rows, task), tiny_model, options_of(task))
            assert in_child(work, log=folder / "log") == 0, (folder / "log").read_text()
        return made[task]

    return run


def options_of(task: str, **more: Any) -> Mapping[str, Any]:
    return BASE | TASKS[task] | {"task": task} | {name.replace("__", "."): value for name, value in more.items()}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("accumulation", [2, 4])
def test_accumulation_changes_nothing(
    plain: Callable[[str], Path], rows: Rows, tiny_model: Path, tmp_path: Path, task: str, accumulation: int
) -> None:
    work = train(tmp_path / "run", weighted(rows, task), tiny_model, options_of(task, train__accumulation=accumulation))
    assert in_child(work, log=tmp_path / "log") == 0, (tmp_path / "log").read_text()
    assert_same_but_for_rounding(plain(task), tmp_path / "run")


@pytest.mark.parametrize("task", TASKS)
def test_bucketing_changes_nothing(
    plain: Callable[[str], Path], rows: Rows, tiny_model: Path, tmp_path: Path, task: str
) -> None:
    """Micro-batches of rows of like length, which kitune always makes, against micro-batches in any order."""

    def unsorted() -> None:
        vars(loop)["micro_batches"] = lambda rows, encoded, *, count: list(np.array_split(rows, count))
        train(tmp_path / "run", weighted(rows, task), tiny_model, options_of(task, train__accumulation=3))()

    assert in_child(unsorted, log=tmp_path / "log") == 0, (tmp_path / "log").read_text()
    assert_same_but_for_rounding(plain(task), tmp_path / "run")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("ranks", [2, 3])
def test_the_number_of_processes_changes_nothing(
    plain: Callable[[str], Path],
    rows: Rows,
    tiny_model: Path,
    tmp_path: Path,
    free_port: int,
    task: str,
    ranks: int,
) -> None:
    data = weighted(rows, task)

    def ranked() -> None:
        train(tmp_path / "run", data, tiny_model, options_of(task))()
        assert torch.distributed.get_world_size() == ranks
        (tmp_path / f"rank-{torch.distributed.get_rank()}").write_text(str(os.getpid()))

    assert together(ranks, free_port, ranked, log=tmp_path / "log") == [0] * ranks, (tmp_path / "log").read_text()
    assert len({path.read_text() for path in tmp_path.glob("rank-*")}) == ranks
    assert_same_but_for_rounding(plain(task), tmp_path / "run")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_process_that_an_update_leaves_without_rows_makes_the_same_update(
    rows: Rows, tiny_model: Path, tmp_path: Path, free_port: int, precision: str
) -> None:
    """41 rows in updates of 10: the last one has a single row, and so the second process none."""
    made = rows("single-label", 53)
    changes = {"data__valid": str(write_rows(tmp_path / "valid.jsonl", made[41:])), "engine__precision": precision}
    options = BASE | {name.replace("__", "."): value for name, value in changes.items()}
    assert in_child(train(tmp_path / "alone", made[:41], tiny_model, options), log=tmp_path / "log") == 0
    work = train(tmp_path / "two", made[:41], tiny_model, options)
    assert together(2, free_port, work, log=tmp_path / "log") == [0, 0], (tmp_path / "log").read_text()
    (losses, weights), (other_losses, other_weights) = result(tmp_path / "alone"), result(tmp_path / "two")
    # In bf16 two processes round two gradients where one rounds their sum.
    relative = RELATIVE if precision == "fp32" else 0.02
    np.testing.assert_allclose(other_losses, losses, rtol=relative)
    norms = [
        [json.loads(line)["grad_norm"] for line in (tmp_path / name / "events.jsonl").read_text().splitlines()]
        for name in ("alone", "two")
    ]
    np.testing.assert_allclose(norms[1], norms[0], rtol=1e-4 if precision == "fp32" else 0.05)
    assert in_child(train(tmp_path / "begun", made[:41], tiny_model, options | {"train.epochs": 0})) == 0
    began = load_file(tmp_path / "begun" / "best" / "model.safetensors")
    for name, weight in weights.items():
        moved = float((weight - began[name]).norm())
        assert float((other_weights[name] - weight).norm()) <= (1e-3 if precision == "fp32" else 0.2) * moved + 1e-6, (
            name
        )


def test_windows_in_more_micro_batches_change_nothing(rows: Rows, tiny_model: Path, tmp_path: Path) -> None:
    """Rows that are read in windows: in one forward pass, and in as many as a small bound on their tokens makes."""
    options = options_of("single-label", data__max_length=12, data__long_texts="windows")
    data = weighted(rows, "single-label")

    def bounded() -> None:
        batches.WINDOWED_TOKENS = 48
        train(tmp_path / "parts", data, tiny_model, options)()

    assert in_child(train(tmp_path / "whole", data, tiny_model, options), log=tmp_path / "log") == 0
    assert in_child(bounded, log=tmp_path / "log") == 0, (tmp_path / "log").read_text()
    assert_same_but_for_rounding(tmp_path / "whole", tmp_path / "parts")
