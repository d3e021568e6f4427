"""The folder of a run: made whole, never overwritten, its parts swapped in as wholes."""

import errno
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

import kitune
from kitune.config import RunOptions, dump_yaml
from kitune.errors import UserError, command
from kitune.metrics import Metrics, without_nan
from kitune.model.encoder import save_pretrained
from kitune.model.vocabulary import rows_in_use, tables_in_use
from kitune.training.checkpoint import (
    checkpoint_folder,
    drop_old,
    no_room,
    require_space,
    seal,
    stage,
    sweep,
    sync,
    write_folder,
)
from kitune.training.devices import Machine
from kitune.training.loop import State, Training
from kitune.training.weights import Piecewise, whole, write_weights

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Number of the layout of this folder; a run of a later one is refused.
FORMAT = 1
WEIGHTS, MOMENTS, STATE = "model.safetensors", "moments.safetensors", "state.json"


def choose_folder(out: str | Path | None) -> Path:
    """The folder of a new run: `out`, or the next free name under runs/.

    Raises:
        UserError: it exists, or cannot be made.
    """
    if out is None:
        return next(path for number in range(1, 1_000_000) if not (path := Path("runs") / f"run-{number:03d}").exists())
    folder = Path(out)
    if folder.exists():
        is_run = (folder / "run.yaml").exists()
        raise UserError(
            f"{folder}: it exists already{' and is a run' if is_run else ''}; nothing in it was touched",
            fix=f"go on with {command('kitune', 'train', '--resume', folder)}, or choose another --out"
            if is_run
            else "choose another --out, or leave it out and a new name is made",
        )
    return folder


def require_writable(folder: Path) -> None:
    """Refuse a place where the run cannot be written, before anything is computed."""
    parent = folder.parent
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        what = "not a folder" if not parent.is_dir() else "you may not write there"
        raise UserError(f"--out {folder}: {parent}: {what}", fix="choose another --out, such as runs/first")


def create(out: str | Path | None, options: RunOptions, record: Mapping[str, Any]) -> Path:
    """Make the run's folder with run.yaml and record.json in it, all at once; it never replaces one.

    Returns:
        The folder: `out`, or the first name under runs/ that nobody took meanwhile.

    Raises:
        UserError: `out` exists by now, or cannot be made.
    """
    while True:
        folder = choose_folder(out)
        staging = folder.with_name(f".{folder.name}-{os.getpid()}")
        try:
            (staging / "checkpoints").mkdir(parents=True)
            (staging / "run.yaml").write_text(dump_yaml(options), encoding="utf-8")
            (staging / "record.json").write_text(as_json(record), encoding="utf-8")
            staging.rename(folder)  # fails where somebody was faster: a folder with content is never replaced
            sync(folder.parent)
            return folder
        except OSError as error:
            shutil.rmtree(staging, ignore_errors=True)
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise UserError(f"--out {folder}: {error.strerror or error}", fix="choose another --out") from None


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Refuse a second process that would train in `folder`; the system lets go of it when the first one ends, however."""
    if fcntl is None:  # not on this system
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{folder}: another process is training in it", fix="wait for it, or end it, and then resume"
            ) from None
        yield
    finally:
        os.close(descriptor)


def as_json(value: Any) -> str:
    """Readable JSON with a line end."""
    return json.dumps(without_nan(value), indent=2, ensure_ascii=False) + "\n"


def facts(machine: Machine, path: str) -> dict[str, Any]:
    """What record.json says of the program and the machine, and of the path that the network takes on it."""
    import tokenizers
    import transformers

    return {
        "format": FORMAT,
        "command": command(*sys.argv) if sys.argv and sys.argv[0] else None,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "kitune": kitune.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
            "numpy": np.__version__,
        },
        "machine": {
            "system": platform.platform(),
            "cpu": cpu_name(),
            "device": machine.device.type,
            "threads": machine.threads,
            "processes": machine.world_size,
            "path": path,
        },
    }


def cpu_name() -> str:
    """The processor, as the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def read_record(folder: Path) -> dict[str, Any]:
    """record.json of a run.

    Raises:
        UserError: this is no run, or one of a later kitune.
    """
    try:
        record: dict[str, Any] = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        number = int(record["format"])
    except OSError:
        raise UserError(
            f"{folder}: not a run: it has no record.json", fix="give the folder that kitune train wrote"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{folder / 'record.json'}: damaged", fix="start anew with kitune train DATA --out NEW"
        ) from None
    if number > FORMAT:
        raise UserError(f"{folder}: written by a later kitune (format {number})", fix="pip install --upgrade kitune")
    return record


def replace_file(path: Path, content: str | bytes) -> None:
    """Put a text, or bytes, at `path`: the old or the new, never between."""
    staging = path.with_name("." + path.name)
    staging.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    sync(staging)
    staging.replace(path)


def mark_finished(folder: Path, state: State, metrics: Mapping[str, Metrics]) -> None:
    """Write metrics.json: the scores of best/, and the mark that the run came to its end."""
    replace_file(folder / "metrics.json", as_json({"step": state.step, "best_step": state.best_step, **metrics}))


def read_metrics(model: Path) -> dict[str, Any]:
    """metrics.json of best/ or last/; empty for a model from elsewhere.

    Raises:
        UserError: it is damaged.
    """
    path = model / "metrics.json"
    if not path.exists():
        return {}
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise damaged(path) from None
    return found


def threshold_in(model: Path) -> float:
    """The probability from which a label counts in the answers of best/ or last/; 0.5 for a model from elsewhere."""
    return float(read_metrics(model).get("threshold", 0.5))


def damaged(path: Path) -> UserError:
    """The error for a file of best/ that cannot be read."""
    return UserError(
        f"{path}: damaged or missing",
        fix="use last/ (--which last), copy the file back, or train again with another --out",
    )


def restore(checkpoint: Path, training: Training) -> State:
    """Take over weights, moments and state of a checkpoint that its manifest has proved whole."""
    saved = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    weights = rows_in_use(training.network, load_file(checkpoint / WEIGHTS))
    if (scale := training.label_scale) is not None:
        if "output_bias" not in saved:
            problem = f"{checkpoint}: of a kitune that learned numbers as they are, without a scale of their own"
            raise UserError(problem, fix="start anew with another --out")
        weights = {name: scale.read(name, weight) for name, weight in weights.items()}
        if saved["output_bias"] is not None:
            weights[scale.bias] = torch.tensor(saved["output_bias"])
    training.optimizer.restore(weights, load_file(checkpoint / MOMENTS), saved["step_count"])
    return State(**saved["state"])


class Keeper:
    """Writes a run's checkpoints, best/ and last/; the weights of one step are one file on the disk, linked."""

    def __init__(self, folder: Path, options: RunOptions, training: Training, tokenizer: Any) -> None:
        self.folder, self.options = folder, options
        self.network, self.tokenizer, self.optimizer = training.network, tokenizer, training.optimizer
        self.scale = training.label_scale
        self._thread = ThreadPoolExecutor(1, "sealing")
        self._sealing: Future[None] | None = None
        sweep(folder)

    def save(self, state: State, scores: Mapping[str, Any], *, best: bool, last: bool) -> None:
        """Write a checkpoint, and before it best/ and last/, where the weights are these, so that a crash between them leaves
        a checkpoint that will write both again.

        Args:
            scores: of the latest evaluation, with the threshold that was tuned there.

        When this returns all bytes are written, so that the training may go on; that they are on the disk, and moved in, is
        seen to beside it, and known after `wait`.

        Raises:
            UserError: the disk is full or read-only, now or at the save before; what was whole before still is.
        """
        self.wait()
        checkpoints = self.folder / "checkpoints"
        elements = self.optimizer.master.numel()
        unlisted = sum(table.original.numel() for table in tables_in_use(self.network).values())
        try:
            require_space(self.folder, 4 * (elements * 3 + unlisted) + 2**20)
            target = checkpoint_folder(checkpoints, state.step)
            staging = stage(target, lambda folder: self.write_state(state, folder))
        except OSError as error:
            raise self.failed(error) from None
        self._sealing = self._thread.submit(self.seal, staging, target, dict(scores), best, last)

    def write_state(self, state: State, folder: Path) -> None:
        """Weights, moments and state, as they are now."""
        write_weights(folder / WEIGHTS, self.weights(state.unused_decay))
        exp_avg, exp_avg_sq = self.optimizer.moments
        write_weights(folder / MOMENTS, {"exp_avg": whole(exp_avg), "exp_avg_sq": whole(exp_avg_sq)})
        saved: dict[str, Any] = {"state": state.as_json(), "step_count": self.optimizer.step_count}
        if self.scale is not None:
            bias = dict(self.optimizer.weights()).get(self.scale.bias)
            saved["output_bias"] = None if bias is None else bias.tolist()
        (folder / STATE).write_text(json.dumps(saved), encoding="utf-8")

    def seal(self, staging: Path, target: Path, scores: Mapping[str, Any], best: bool, last: bool) -> None:
        """best/ and last/, then the checkpoint: on the disk and in their places."""
        for name in [name for name, due in (("best", best), ("last", last)) if due]:
            self.write_model(name, staging / WEIGHTS, scores)
        seal(staging, target, sealed=True)
        drop_old(target.parent, self.options.engine.keep_checkpoints)

    def wait(self) -> None:
        """Until what was saved last is on the disk.

        Raises:
            UserError: the disk is full or read-only; what was whole before still is.
        """
        sealing, self._sealing = self._sealing, None
        try:
            if sealing is not None:
                sealing.result()
        except OSError as error:
            raise self.failed(error) from None

    def failed(self, error: OSError) -> UserError:
        """The error for a save that did not succeed; what it left is removed."""
        sweep(self.folder)
        return no_room(self.folder, error.strerror or str(error))

    def weights(self, unused_decay: float) -> dict[str, Piecewise]:
        """Every tensor of the network's state by name: trained ones as fp32 master weights, tables with all their rows."""
        # By every name of a weight that layers share.
        learned = {
            name: self.optimizer.master_of(weight)
            for name, weight in self.network.named_parameters(remove_duplicate=False)
            if weight.requires_grad
        }
        state: dict[str, Tensor] = dict(self.network.state_dict()) | self.optimizer.frozen | learned
        if self.scale is not None:
            state = {name: self.scale.written(name, tensor) for name, tensor in state.items()}
        pieces = {name: whole(tensor) for name, tensor in state.items()}
        for name, table in tables_in_use(self.network).items():
            pieces[name] = Piecewise(table.original.shape, torch.float32, table.whole(state[name], unused_decay))
        return pieces

    def write_model(self, name: str, weights: Path, metrics: Mapping[str, Any]) -> None:
        """Swap in best/ or last/: a folder that from_pretrained loads, with run.yaml and metrics.json beside."""

        def write(staging: Path) -> None:
            save_pretrained(self.network, self.tokenizer, weights, staging)
            (staging / "run.yaml").write_text(dump_yaml(self.options), encoding="utf-8")
            (staging / "metrics.json").write_text(as_json(metrics), encoding="utf-8")

        write_folder(self.folder / name, write, sealed=False)
