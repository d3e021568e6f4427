"""Runs in children of one warmed process: begun, killed at a chosen instant, resumed, and compared byte by byte."""

import hashlib
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import kitune
from kitune import run_folder
from kitune.training import checkpoint, direct, optimizer

Work = Callable[[], object]

# A short training of the tiny model on rows of `rows("single-label", ...)`.
SHORT: dict[str, Any] = {
    "data.text": ["text"],
    "data.label": "label",
    "data.max_length": 32,
    "train.epochs": 2,
    "train.learning_rate": 2e-3,
    "train.batch_rows": 8,
    "engine.threads": 1,
    "engine.precision": "fp32",  # "auto" would be another one on another machine
}


def in_child(work: Work, *, environment: Mapping[str, str] | None = None, log: Path | None = None) -> int:
    """Do `work` in a forked child; its exit code, or the negative number of the signal that ended it."""
    return ended(start(work, environment=environment, log=log))


def start(work: Work, *, environment: Mapping[str, str] | None = None, log: Path | None = None) -> int:
    """Fork a child that does `work`; its process id."""
    # A forked child may not enter an OpenMP region: with one thread there is none.
    torch.set_num_threads(1)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.environ.update(environment or {})
        if log is not None:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            sys.stderr = os.fdopen(2, "w")
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    """Wait for a child; its exit code, or minus its signal."""
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def together(ranks: int, port: int, work: Work, *, log: Path | None = None) -> list[int]:
    """Do `work` as `ranks` processes that find each other as torchrun's do; their exit codes. Killing one ends all."""
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
    }
    pids = [
        start(work, environment={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}, log=log)
        for rank in range(ranks)
    ]
    codes: dict[int, int] = {}
    while len(codes) < ranks:
        pid, status = os.waitpid(-1, 0)
        if pid in pids:
            codes[pid] = os.waitstatus_to_exitcode(status)
            if codes[pid] < 0:  # as torchrun does when a worker dies
                for other in set(pids) - set(codes):
                    os.kill(other, signal.SIGKILL)
    return [codes[pid] for pid in pids]


def train(folder: Path, data: Sequence[Mapping[str, Any]], model: Path, options: Mapping[str, Any]) -> Work:
    """The work of a new run."""
    return lambda: kitune.train(
        list(data[: len(data) * 4 // 5]),
        valid=list(data[len(data) * 4 // 5 :]),
        model=str(model),
        out=folder,
        options=options,
    )


def resume(folder: Path, data: Sequence[Mapping[str, Any]], options: Mapping[str, Any] | None = None) -> Work:
    """The work of going on with a run."""
    cut = len(data) * 4 // 5
    return lambda: kitune.train(list(data[:cut]), valid=list(data[cut:]), resume=folder, options=options)


def die() -> None:
    """End this process as the kernel's out-of-memory killer does."""
    os.kill(os.getpid(), signal.SIGKILL)


def killed_after_step(step: int, work: Work) -> Work:
    """`work`, killed right after optimizer step `step`."""

    def patched() -> None:
        original = optimizer.FlatAdamW.step

        def step_and_die(self: optimizer.FlatAdamW, learning_rate: float, *, scale: float = 1.0) -> None:
            original(self, learning_rate, scale=scale)
            if self.step_count == step:
                die()

        optimizer.FlatAdamW.step = step_and_die  # type: ignore[method-assign]
        work()

    return patched


def killed_in_save(instant: int, work: Work) -> Work:
    """`work`, killed at the `instant`-th thing that is done to the disk from its first save on: in the midst of a file, before
    a sync, before or after folders change places, a rename or a removal."""

    def patched() -> None:
        left, begun = instant, False

        def passed() -> None:
            nonlocal left
            left -= begun
            if left == 0:
                die()

        def around(original: Callable[..., Any]) -> Callable[..., Any]:
            def counted(*told: Any, **named: Any) -> Any:
                passed()
                result = original(*told, **named)
                passed()
                return result

            return counted

        stage = checkpoint.stage

        def first_save(*told: Any, **named: Any) -> Any:
            nonlocal begun
            begun = True
            return stage(*told, **named)

        places: list[tuple[Any, str]] = [(checkpoint, "sync"), (checkpoint, "exchange"), (direct.NewFile, "_flush")]
        places += [(Path, "rename"), (Path, "replace"), (shutil, "rmtree")]
        for owner, name in places:
            setattr(owner, name, around(getattr(owner, name)))
        setattr(run_folder, "stage", first_save)  # noqa: B010
        work()

    return patched


def without_times(events: Path) -> list[dict[str, Any]]:
    """The events, but for what a clock or the memory says."""
    timed = {"tokens_per_s", "memory_mb"}
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in timed} for line in lines]


def content(folder: Path) -> dict[str, Any]:
    """All that must be equal between an unbroken run and a resumed one: every byte of it, times apart."""
    newest = checkpoint.newest_whole(folder / "checkpoints")
    assert newest.folder is not None
    assert not newest.passed_over
    files = [folder / "log.json", folder / "metrics.json", *newest.folder.iterdir()]
    for part in ("best", "last", "predictions"):
        files += (folder / part).iterdir()
    found: dict[str, Any] = {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(files)
    }
    assert not [path for path in folder.rglob("*") if path.name.startswith(".")], "an interrupted save left something"
    return found | {"events": without_times(folder / "events.jsonl")}
