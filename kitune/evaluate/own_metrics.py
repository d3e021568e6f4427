"""The user's own metrics: a function that takes an `EvalPrediction`, as transformers' Trainer has it."""

import ast
import hashlib
import importlib.util
import io
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from kitune.config import TaskName, TrainOptions
from kitune.data.encode import Encoded
from kitune.data.table import Rows
from kitune.errors import UserError
from kitune.evaluate.measures import Answered, Floats, Measure, Weights
from kitune.metrics import Metrics
from kitune.notebook import say
from kitune.tasks import TASKS

# From an `EvalPrediction` to numbers by name.
MetricsFunction: TypeAlias = Callable[[Any], Mapping[str, Any]]
# transformers' Trainer fills the input ids of shorter rows with this.
FILL = -100
FUNCTION = "compute_metrics"
# What a module of the user's is registered under, so that none of that name is hidden.
MODULE = "kitune_own_metrics"
LEAST_DUMMY_ROWS = 8
# What a call is taken to cost, in microseconds, at least and for each row: it decides how many resamples an interval has.
CALL, CALL_ROW = 1_000, 2
# A function that takes longer, in seconds, is called for its value alone.
SLOW_CALL = 0.2


@dataclass(frozen=True)
class OwnMetrics:
    """A function of the user.

    Attributes:
        function: takes an `EvalPrediction` and gives a dict of numbers.
        place: where it is, for messages.
        digest: sha256 of its file, the files beside it that it uses, and its name; empty where it came from Python.
        wanted: what it asked for besides predictions and labels: `inputs`, `loss`.
        folder: of its file.
    """

    function: MetricsFunction
    place: str
    digest: str
    wanted: frozenset[str]
    folder: Path | None = None

    def __call__(
        self,
        task: TaskName,
        logits: NDArray[np.float32],
        labels: NDArray[Any],
        input_ids: Callable[[], NDArray[Any]],
        *,
        heard: bool = True,
    ) -> Metrics:
        """The user's metrics by name.

        Args:
            logits: (rows, outputs); (rows, 1) for a regression.
            labels: as `label_array` gives them; the function gets (rows,) positions, (rows, labels) floats of 0 and 1, or
                (rows,) numbers.
            input_ids: gives (rows, tokens), where the function wants inputs.
            heard: what the function prints is said, beside the answers; else it is lost.

        Raises:
            UserError: the function fails, or gives something else than numbers by name.
        """
        from transformers import EvalPrediction

        told = EvalPrediction(
            predictions=np.array(logits, dtype=np.float32),
            label_ids=labels[:, 0].copy() if task == "regression" else labels.copy(),
            inputs=input_ids() if "inputs" in self.wanted else None,
            losses=row_losses(task, logits, labels) if "loss" in self.wanted else None,
        )
        try:
            with importable(self.folder), printed(heard=heard):
                found = self.function(told)
        except Exception as error:  # whatever the user's code raises
            raise UserError(
                f"{self.place}: {where(error)}{type(error).__name__}: {' '.join(str(error).split())}",
                fix="correct the function; it is given an EvalPrediction with .predictions and .label_ids",
            ) from error
        if isinstance(found, Mapping):
            numbers = {name: single_number(value) for name, value in found.items() if isinstance(name, str)}
            metrics = {name: number for name, number in numbers.items() if number is not None}
            if len(metrics) == len(found):
                return metrics
        raise UserError(f"{self.place}: it gave {str(found)[:80]!r}", fix='return numbers by name: {"f2": 0.5}')

    def names(self, task: TaskName, num_outputs: int) -> list[str]:
        """The names of the metrics, from a call on made-up rows, so that a broken function costs no epoch."""
        generator, rows = np.random.default_rng(0), max(LEAST_DUMMY_ROWS, 2 * num_outputs)
        logits = generator.normal(size=(rows, num_outputs)).astype(np.float32)
        positions = np.arange(rows) % num_outputs
        labels: dict[TaskName, NDArray[Any]] = {
            "single-label": positions,
            "multi-label": np.eye(num_outputs, dtype=np.float32)[positions],
            "regression": generator.normal(size=(rows, 1)).astype(np.float32),
        }
        return list(self(task, logits, labels[task], lambda: np.full((rows, 4), 100, dtype=np.int64), heard=False))


def own_metrics(options: TrainOptions, given: MetricsFunction | None) -> OwnMetrics | None:
    """The function that the options name, or that came from Python; None where there is none.

    Raises:
        UserError: the file does not load, or has no such function.
    """
    asked = options.compute_metrics if given is None else given
    return None if asked is None else loaded(asked, frozenset(options.include_for_metrics))


def loaded(asked: MetricsFunction | str | Path, wanted: frozenset[str]) -> OwnMetrics:
    """A function, or the one in a file, `FILE.py` or `FILE.py:NAME`.

    Raises:
        UserError: the file does not load, or has no such function.
    """
    if not isinstance(asked, str | Path):
        return OwnMetrics(asked, f"compute_metrics ({getattr(asked, '__name__', 'a function')})", "", wanted)
    path, function = file_and_function(str(asked))
    if not path.is_file():
        raise UserError(f"compute_metrics: {path}: there is no such file", fix="give a .py file, or FILE.py:NAME")
    spec = importlib.util.spec_from_file_location(f"{MODULE}.{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"compute_metrics: {path}: not a Python file", fix="give a .py file, or FILE.py:NAME")
    module = importlib.util.module_from_spec(spec)
    try:
        sys.modules[spec.name] = module  # where dataclasses look for it
        with importable(path.parent), printed(heard=True):
            spec.loader.exec_module(module)
    except Exception as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"compute_metrics: {path}: {where(error)}{said}", fix="correct that file") from error
    if not callable(getattr(module, function, None)):
        raise UserError(f"compute_metrics: {path} has no function {function!r}", fix="name it: FILE.py:NAME")
    digest = hashlib.sha256(path.read_bytes() + function.encode())
    for helper in beside(path):
        digest.update(helper.read_bytes())
    return OwnMetrics(getattr(module, function), f"{path}:{function}", digest.hexdigest(), wanted, path.parent)


@contextmanager
def printed(*, heard: bool) -> Iterator[None]:
    """What the user's code prints, said instead of written among the answers on standard output; or lost."""
    with redirect_stdout(io.StringIO()) as output:
        try:
            yield
        finally:
            if heard and output.getvalue():
                say(output.getvalue().removesuffix("\n"))


def file_and_function(told: str) -> tuple[Path, str]:
    """The parts of `FILE.py:NAME`; the name may be missing, and Windows has drives with a colon."""
    name, colon, function = told.rpartition(":")
    return (Path(name), function or FUNCTION) if colon and Path(name).suffix else (Path(told), FUNCTION)


def beside(path: Path) -> list[Path]:
    """The Python files of the same folder that a file imports, directly or by way of others.

    As the texts say it, not as the process has it: a script that calls for the metrics is none of them.
    """
    found, waiting = [path], [path]
    while waiting:
        try:
            tree = ast.parse(waiting.pop().read_bytes())
        except (SyntaxError, ValueError):  # compiled, or never imported in earnest
            continue
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            files = [path.with_name(f"{name.partition('.')[0]}.py") for name in names]
            new = [file for file in dict.fromkeys(files) if file not in found and file.is_file()]
            found, waiting = found + new, waiting + new
    return sorted(found[1:])


def own_measure(own: OwnMetrics, answered: Answered, encoded: Encoded) -> Measure:
    """The user's metrics of these answers, a call for the rows and one for each resample of them.

    A metric that has no value on a resample (the function fails, or leaves it out) is not counted there.

    Raises:
        UserError: the function fails on the rows as they are.
    """

    def call(rows: Rows, heard: bool) -> Metrics:
        logits, labels = answered.logits[rows], answered.labels[rows]
        return own(answered.task, logits, labels, lambda: filled_ids(encoded, rows), heard=heard)

    all_rows, began = np.arange(len(answered)), time.perf_counter()
    first = call(all_rows, True)
    slow = time.perf_counter() - began > SLOW_CALL

    def found(weights: Weights) -> Metrics:
        if (weights == 1).all():
            return first
        try:
            return call(np.repeat(all_rows, weights.astype(np.int64)), False)
        except UserError:
            return {}

    def values(weights: Weights) -> Floats:
        return np.asarray([[got.get(name, np.nan) for name in first] for got in map(found, weights)])

    return Measure(tuple(first), all_rows, values, CALL + CALL_ROW * len(answered), resampled=not slow)


def single_number(value: Any) -> float | None:
    """A number, or an array or tensor of one; None of anything else."""
    is_one = value.numel() == 1 if isinstance(value, torch.Tensor) else getattr(value, "size", None) == 1
    item = value.item() if is_one else value
    return float(item) if isinstance(item, Real | np.number | np.bool_) else None


@contextmanager
def importable(folder: Path | None) -> Iterator[None]:
    """Let a file of the user's find those beside it."""
    if folder is None:
        yield
        return
    sys.path.insert(0, str(folder.resolve()))
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(str(folder.resolve()))


def where(error: BaseException) -> str:
    """`line 7: `, the innermost line of the user's own file that the error came through."""
    ours = {__file__, "<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>"}
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename not in ours]
    lines = [frame.lineno for frame in frames if frames and frame.filename == frames[0].filename]
    return f"line {lines[-1]}: " if lines else ""


def row_losses(task: TaskName, logits: NDArray[np.float32], labels: NDArray[Any]) -> NDArray[np.float32]:
    """The loss of each row, (rows,): what the sum grows by with the row's weight."""
    weights = torch.ones(len(logits), requires_grad=True)
    with torch.enable_grad():
        loss = TASKS[task].loss(torch.from_numpy(np.asarray(logits)), torch.from_numpy(labels), weights)
    return np.asarray(torch.autograd.grad(loss, weights)[0].numpy())


def filled_ids(encoded: Encoded, rows: Rows | None = None) -> NDArray[np.int64]:
    """Token ids of each row's first sequence, (rows, tokens), shorter ones filled up as Trainer does."""
    first = np.arange(len(encoded)) if encoded.first is None else np.asarray(encoded.first[:-1])
    first = first if rows is None else first[rows]
    starts, ends = encoded.starts[first], encoded.starts[first + 1]
    result = np.full((len(first), int((ends - starts).max(initial=0))), FILL, dtype=np.int64)
    for row, (begin, end) in enumerate(zip(starts, ends, strict=True)):
        result[row, : end - begin] = encoded.input_ids[begin:end]
    return result
