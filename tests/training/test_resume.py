"""A run stopped by SIGKILL at any instant, and resumed in another process, ends bit for bit where an unbroken one does."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from kitune.model.memory import ALIGNMENT_BYTES, zeros
from kitune.training import optimizer
from tests.training.runs import content, in_child, killed_after_step, killed_in_save, resume, train

Rows = Callable[..., list[dict[str, Any]]]

SAMPLERS: dict[str, dict[str, Any]] = {
    "bucketed rows": {"train.sampler": "bucketed", "train.batch_rows": 8},
    "random rows": {"train.sampler": "random", "train.batch_rows": 8},
    "bucketed tokens": {"train.sampler": "bucketed", "train.batch_tokens": 128},
    "random tokens": {"train.sampler": "random", "train.batch_tokens": 128},
}
TASKS: dict[str, dict[str, Any]] = {
    "single-label": {"train.label_smoothing": 0.1, "train.class_weights": "auto", "engine.precision": "bf16"},
    "multi-label": {
        "train.schedule": "cosine",
        "engine.precision": "fp32",
        "data.max_length": 20,
        "data.long_texts": "windows",
    },
    "regression": {"train.evaluate_every": 3, "train.patience": 4, "engine.precision": "fp32"},
}
BASE: dict[str, Any] = {
    "data.max_length": 32,
    "train.epochs": 3,
    "train.learning_rate": 2e-3,
    "train.checkpoint_every": 4,
    "engine.threads": 1,
}
ROWS = 50  # of which 40 to learn from
NEEDS_TWO_CORES = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
# Enough for every file-system event of the first two saves.
INSTANTS = 100


class Case:
    """One task with one sampler: its rows, its options, and what an unbroken run leaves."""

    def __init__(self, task: str, sampler: str, rows: Rows, model: Path, folder: Path) -> None:
        self.data = rows(task, ROWS, pair=task == "multi-label")
        text = ["text", "other"] if task == "multi-label" else ["text"]
        named = {"data.text": text, "data.label": "label", "task": task}
        self.options = BASE | TASKS[task] | SAMPLERS[sampler] | named
        self.model, self.folder = model, folder
        assert in_child(train(folder / "whole", self.data, model, self.options), log=folder / "whole.log") == 0
        self.whole = content(folder / "whole")
        self.steps = self.whole["events"][-1]["step"]

    def broken(
        self, name: str, breaking: Callable[[Callable[[], object]], Callable[[], object]]
    ) -> dict[str, Any] | None:
        """What a run leaves that was killed by `breaking` and then resumed; None where the kill did not happen."""
        run, log = self.folder / name, self.folder / f"{name}.log"
        code = in_child(breaking(train(run, self.data, self.model, self.options)), log=log)
        if code == 0:
            return None
        assert code == -signal.SIGKILL, log.read_text()
        again = resume(run, self.data) if run.exists() else train(run, self.data, self.model, self.options)
        assert in_child(again, log=log) == 0, log.read_text()
        return content(run)


@pytest.fixture(scope="module", autouse=True)
def warmed(rows: Rows, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let this process have imported and done everything once: its children then start in milliseconds."""
    torch.set_num_threads(1)
    for task in TASKS:
        options = BASE | {"task": task, "train.epochs": 1}
        train(tmp_path_factory.mktemp("warm") / "run", rows(task, 30), tiny_model, options)()


@pytest.fixture(scope="module")
def case_of(rows: Rows, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Case]:
    """Each case once, whole, for all the kills of it."""
    made: dict[tuple[str, str], Case] = {}

    def case(task: str, sampler: str) -> Case:
        if (task, sampler) not in made:
            made[task, sampler] = Case(task, sampler, rows, tiny_model, tmp_path_factory.mktemp("case"))
        return made[task, sampler]

    return case


CaseOf = Callable[[str, str], Case]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_run_killed_after_a_step_ends_where_an_unbroken_one_does(case_of: CaseOf, task: str, sampler: str) -> None:
    case = case_of(task, sampler)
    # A step of the first epoch, before any checkpoint, and one in the second epoch: another pair for each case.
    offset = list(itertools.product(TASKS, SAMPLERS)).index((task, sampler))
    for step in (1 + offset % 4, 6 + offset % 4):
        assert case.broken(f"step-{step}", partial(killed_after_step, step)) == case.whole


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_run_killed_after_any_step_ends_where_an_unbroken_one_does(case_of: CaseOf, task: str, sampler: str) -> None:
    case = case_of(task, sampler)
    for step in range(1, case.steps + 1):
        assert case.broken(f"any-{step}", partial(killed_after_step, step)) == case.whole, step


@pytest.mark.parametrize("instant", [1, 4, 9, 17, 26, 38, 51, 67, 82, 97])
def test_a_run_killed_inside_a_save_ends_where_an_unbroken_one_does(case_of: CaseOf, instant: int) -> None:
    case = case_of("single-label", "bucketed rows")
    assert case.broken(f"instant-{instant}", partial(killed_in_save, instant)) == case.whole


@pytest.mark.slow
@pytest.mark.parametrize(("task", "sampler"), list(zip(TASKS, SAMPLERS, strict=False)))
def test_a_run_killed_at_any_instant_of_its_saves_ends_where_an_unbroken_one_does(
    case_of: CaseOf, task: str, sampler: str
) -> None:
    case = case_of(task, sampler)
    for instant in range(1, INSTANTS):
        assert case.broken(f"any-instant-{instant}", partial(killed_in_save, instant)) == case.whole, instant


@pytest.mark.parametrize(("threads", "precision"), [(1, "fp32"), pytest.param(2, "bf16", marks=NEEDS_TWO_CORES)])
def test_the_command_line_goes_on_after_a_real_kill(
    rows: Rows, tiny_model: Path, tmp_path: Path, threads: int, precision: str
) -> None:
    """Two real processes on a file: one killed from outside while it trains, one with --resume; against an unbroken third."""
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows("single-label", 400)))
    kitune_train = [sys.executable, "-m", "kitune", "train"]
    changes = {"train.epochs": 8, "engine.threads": threads, "engine.precision": precision}
    settings = [f"--set={name}={value}" for name, value in (BASE | changes).items()]
    new = [
        *kitune_train,
        str(data),
        "--model",
        str(tiny_model),
        "--label",
        "label",
        "--text",
        "text",
        *settings,
        "--out",
    ]
    subprocess.run([*new, str(tmp_path / "whole")], check=True, capture_output=True)
    with subprocess.Popen([*new, str(tmp_path / "run")], stderr=subprocess.DEVNULL) as running:
        events = tmp_path / "run" / "events.jsonl"
        while running.poll() is None and not (events.exists() and events.read_text().count("\n") >= 30):
            time.sleep(0.005)
        running.kill()
    assert running.returncode == -signal.SIGKILL
    resumed = subprocess.run([*kitune_train, "--resume", str(tmp_path / "run")], capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert "on from step-" in resumed.stderr
    assert content(tmp_path / "run") == content(tmp_path / "whole")


def test_a_run_killed_again_and_again_ends_where_an_unbroken_one_does(case_of: CaseOf) -> None:
    case = case_of("regression", "random tokens")
    run, log = case.folder / "often", case.folder / "often.log"
    work = train(run, case.data, case.model, case.options)
    kills = 0
    # Two steps further each time than the last checkpoint needs, so that every resumption gets on.
    for step in range(2, case.steps, 5):
        assert in_child(killed_after_step(step, work), log=log) == -signal.SIGKILL, log.read_text()
        work, kills = resume(run, case.data), kills + 1
    assert kills >= 3
    assert in_child(work, log=log) == 0, log.read_text()
    assert content(run) == case.whole


def test_a_resumed_run_is_equal_even_where_memory_is_laid_out_otherwise(case_of: CaseOf) -> None:
    case = case_of("single-label", "bucketed rows")
    run, log = case.folder / "shifted", case.folder / "shifted.log"
    work = train(run, case.data, case.model, case.options)
    assert in_child(killed_after_step(7, work), log=log) == -signal.SIGKILL

    def resume_shifted() -> None:
        def shifted(size: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
            """Memory that begins one vector behind a page."""
            return zeros(size + ALIGNMENT_BYTES, dtype, device)[ALIGNMENT_BYTES // dtype.itemsize :][:size]

        assert shifted(8, torch.float32, torch.device("cpu")).data_ptr() % 4096 == ALIGNMENT_BYTES
        vars(optimizer)["zeros"] = shifted
        resume(run, case.data)()

    assert in_child(resume_shifted, log=log) == 0, log.read_text()
    assert content(run) == case.whole
