"""Several processes: a killed run ends where an unbroken one does, and launches that do not add up are refused."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.runs import SHORT, Work, content, killed_after_step, killed_in_save, resume, together, train

Rows = Callable[..., list[dict[str, Any]]]

OPTIONS = SHORT | {"train.accumulation": 2, "train.checkpoint_every": 3}
ROWS = 40


def noted(folder: Path, ranks: int, work: Work) -> Work:
    """`work`, after which each process has written its id; fails unless all of them are connected."""

    def checked() -> None:
        work()
        assert torch.distributed.get_world_size() == ranks
        (folder / f"pid-{torch.distributed.get_rank()}").write_text(str(os.getpid()))

    return checked


def run_together(folder: Path, ranks: int, port: int, work: Work) -> None:
    """Let `ranks` processes do `work` to its end, connected and distinct."""
    log = folder / "log"
    assert together(ranks, port, noted(folder, ranks, work), log=log) == [0] * ranks, log.read_text()
    assert len({path.read_text() for path in folder.glob("pid-*")}) == ranks


def on_rank(rank: int, breaking: Callable[[Work], Work], work: Work) -> Work:
    """`work`, broken on one process only."""
    return lambda: (breaking(work) if os.environ["RANK"] == str(rank) else work)()


@pytest.mark.parametrize(
    ("ranks", "task", "broken_rank", "breaking"),
    [
        (2, "single-label", 1, partial(killed_after_step, 6)),
        (2, "multi-label", 0, partial(killed_in_save, 9)),
        pytest.param(3, "regression", 2, partial(killed_after_step, 7), marks=pytest.mark.slow),
        pytest.param(3, "single-label", 0, partial(killed_in_save, 12), marks=pytest.mark.slow),
        pytest.param(2, "regression", 0, partial(killed_after_step, 3), marks=pytest.mark.slow),
        pytest.param(2, "single-label", 0, partial(killed_after_step, 1), marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_of_several_processes_ends_where_an_unbroken_one_does(
    rows: Rows,
    tiny_model: Path,
    tmp_path: Path,
    free_port: int,
    ranks: int,
    task: str,
    broken_rank: int,
    breaking: Callable[[Work], Work],
) -> None:
    data, options = rows(task, ROWS), OPTIONS | {"task": task}
    run_together(tmp_path, ranks, free_port, train(tmp_path / "whole", data, tiny_model, options))
    work = train(tmp_path / "broken", data, tiny_model, options)
    codes = together(ranks, free_port + 1, on_rank(broken_rank, breaking, work), log=tmp_path / "log")
    assert codes[broken_rank] == -signal.SIGKILL, (tmp_path / "log").read_text()
    run_together(tmp_path, ranks, free_port + 2, resume(tmp_path / "broken", data))
    assert content(tmp_path / "broken") == content(tmp_path / "whole")


def test_torchrun_trains_with_every_process_it_starts(rows: Rows, tiny_model: Path, tmp_path: Path) -> None:
    import json

    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows("single-label", ROWS)))
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "kitune"]
    words = ["train", str(data), "--model", str(tiny_model), "--out", str(tmp_path / "run")]
    settings = [word for name in ("train.epochs=1", "engine.threads=1") for word in ("--set", name)]
    done = subprocess.run([*launch, *words, *settings], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "process 0 of 2" in done.stderr
    assert (tmp_path / "run" / "best" / "model.safetensors").exists()
