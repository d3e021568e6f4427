"""scikit-learn's way to the same training: `fit`, `predict`, `predict_proba`, in pipelines, searches and cross-validation."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from numbers import Integral
from pathlib import Path
from threading import Lock
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d

from kitune.config import TaskName, dump_yaml
from kitune.data.table import Rows, is_missing, is_unicode
from kitune.errors import UserError
from kitune.finetune import Run, train
from kitune.metrics import softmax
from kitune.predict import Model, load

# Texts, pairs of texts, a frame of one or two text columns, or an array of (rows,) or (rows, 1 or 2) texts.
Texts: TypeAlias = Any
LABEL, WEIGHT = "label", "weight"
# Options that are parameters by another name.
PARAMETERS = {"train.seed": "random_state"}
# Options that say what the rows are, which `fit` is given, or which estimator it is.
GIVEN = ("train", "valid", "test", "text", "label", "labels", "weight")
GIVEN_TO_FIT = frozenset({"task", *(f"data.{name}" for name in GIVEN)})


class TextEstimator(BaseEstimator):  # type: ignore[misc]
    """What both estimators share. A fitted one holds its model's files, so that it can be pickled and sent elsewhere.

    Args:
        model: `starter`, a folder, an earlier run, or a hub name.
        epochs, learning_rate, batch_rows, max_length: as `train.epochs` and so on of `kitune train --options`.
        valid_share: of the rows given to `fit`, held out to choose the best epoch; 0: none are, and the last epoch counts.
        random_state: the seed of all that is drawn.
        options: any other option by name, such as `{"train.class_weights": "auto"}`.
        verbose: whether the training says what it does.

    Attributes:
        files_: the fitted model's folder: its files by name.
        n_iter_: epochs that were trained.
    """

    _task: TaskName
    _defaults: Mapping[str, Any] = {}

    def __init__(
        self,
        model: str | Path | Run = "starter",
        *,
        epochs: int | Literal["auto"] = "auto",
        learning_rate: float | Literal["auto"] = "auto",
        batch_rows: int | Literal["auto"] = "auto",
        max_length: int | Literal["auto"] = "auto",
        valid_share: float = 0.1,
        random_state: int | np.random.RandomState | None = None,
        options: Mapping[str, Any] | None = None,
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_rows = batch_rows
        self.max_length = max_length
        self.valid_share = valid_share
        self.random_state = random_state
        self.options = options
        self.verbose = verbose

    def _told(self) -> dict[str, Any]:
        """The options of a training."""
        named: dict[str, Any] = {
            "train.epochs": self.epochs,
            "train.learning_rate": self.learning_rate,
            "train.batch_rows": self.batch_rows,
            "train.seed": seed_of(self.random_state),
            "data.max_length": self.max_length,
        }
        options = dict(self.options or {})
        for name in sorted(GIVEN_TO_FIT & options.keys()):
            raise ValueError(f"options: {name}: fit is given the rows, and the estimator is of one task; leave it out")
        for name in sorted({"model", "data.valid_share", *named} & options.keys()):
            parameter = PARAMETERS.get(name, name.rpartition(".")[2])
            raise ValueError(f"options: {name} is the parameter {parameter}, which a search would set in vain")
        named |= {"data.valid_share": self.valid_share} if self.valid_share else {}
        return {"engine.cache": False, **self._defaults, **named, **options}

    def _load(self, folder: str | Path) -> Model:
        """The model in a folder, where the options let it compute."""
        told = {name: value for name in ("device", "threads") if (value := (self.options or {}).get(f"engine.{name}"))}
        return load(folder, **told)

    def _fit(
        self,
        columns: list[list[str]],
        called: list[str],
        labels: Sequence[Any],
        names: Sequence[str],
        sample_weight: NDArray[np.float64] | None,
    ) -> None:
        """Train on the rows, and keep the files of the model.

        Args:
            columns: of texts, one or two.
            called: their names, where they have any.
            names: of the labels, in their order; none of a regression.
        """
        own = len(set(called)) == len(columns) and all(map(str.strip, called)) and not {LABEL, WEIGHT} & set(called)
        text = called if own else [f"text{number}" for number in range(1, len(columns) + 1)]
        rows = dict(zip(text, columns, strict=True))
        told = self._told() | ({"data.labels": list(names)} if names else {})
        table: dict[str, Any] = {**rows, LABEL: list(labels)}
        if sample_weight is not None:
            table[WEIGHT] = sample_weight
            told["data.weight"] = WEIGHT
        data = pa.table(table)
        with tempfile.TemporaryDirectory(prefix="kitune-fit-") as place, quiet(not self.verbose):
            run = train(
                data,
                valid=None if self.valid_share else data,
                model=self.model,
                out=Path(place) / "run",
                text=text,
                label=LABEL,
                task=self._task,
                options=told,
            )
            folder = run / ("best" if self.valid_share else "last")
            files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
            if not own and len(text) == 1:  # so that the column of another table is guessed, and said
                nameless = run.options.data.model_copy(update={"text": None})
                files["run.yaml"] = dump_yaml(run.options.model_copy(update={"data": nameless})).encode()
            epochs, loaded = len(json.loads((run / "log.json").read_text(encoding="utf-8"))), self._load(folder)
        # Only now: what was fitted before answers on where a new fit fails.
        self.files_, self.n_iter_, self.n_texts_in_, self._columns = files, epochs, len(columns), called
        self._loaded: Model | None = loaded

    def _logits(self, X: Texts) -> NDArray[np.float32]:
        """(rows, outputs)."""
        check_is_fitted(self, "files_")
        columns, names = text_columns(X), column_names(X)
        if len(columns) != self.n_texts_in_:
            raise ValueError(f"X has {len(columns)} text columns, and the model was fitted on {self.n_texts_in_}")
        if len(names) == 2 and getattr(self, "_columns", names) not in ([], names):
            raise ValueError(f"X has the columns {names}, and the model was fitted on {self._columns}, in this order")
        if self._loaded is None:
            with tempfile.TemporaryDirectory(prefix="kitune-model-") as place, quiet(True):
                for name, content in self.files_.items():
                    (Path(place) / name).write_bytes(content)
                self._loaded = self._load(place)
        return np.asarray(self._loaded.predict(list(zip(*columns, strict=True))).logits)

    def save(self, folder: str | Path) -> Path:
        """Write the fitted model as a folder that `from_pretrained` and `kitune.load` take; it must be a new one."""
        check_is_fitted(self, "files_")
        target = Path(folder)
        if not target.parent.is_dir():
            raise UserError(f"{target}: there is no folder {target.parent}", fix="make it first")
        if target.exists():
            raise UserError(f"{target}: it exists already; nothing in it was touched", fix="choose another folder")
        staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
        try:
            for name, content in self.files_.items():
                (staging / name).write_bytes(content)
            staging.chmod(0o755)
            return staging.rename(target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_loaded": None} if "files_" in vars(self) else super().__getstate__()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array = True, False
        tags.non_deterministic = False
        return tags


class TextClassifier(ClassifierMixin, TextEstimator):  # type: ignore[misc]
    """A text encoder fine-tuned to tell classes apart.

    Attributes:
        classes_: the labels as they were given, sorted: strings, numbers or booleans.
    """

    _task: TaskName = "single-label"

    def fit(self, X: Texts, y: Any, sample_weight: Any = None) -> "TextClassifier":
        """Train on texts and their labels; starts anew each time.

        Args:
            X: (rows,) texts, pairs, or a frame with one or two text columns.
            y: (rows,) labels.
            sample_weight: (rows,) weight of each row in the loss, or None.
        """
        target = target_of(y)
        columns, kept, weights = rows_that_weigh(X, target, sample_weight)
        if missing := [value for value in target[kept].tolist() if is_missing(value)]:
            raise ValueError(
                f"y has {missing[0]!r}, which is no label: leave those rows out, or give them the weight 0"
            )
        classes, positions = classes_of(target)  # also those whose rows all weigh nothing
        learned = positions[kept]
        if len(set(learned.tolist())) < 2:
            raise ValueError(f"y has one class, {classes.tolist()[learned[0]]!r}: there is nothing to tell apart")
        names = [str(value) for value in classes.tolist()]
        if len(set(names)) < len(names) or not all(name.strip() for name in names):  # 1 and "1", or an empty one
            names = [f"{number}: {name}" for number, name in enumerate(names)]
        self._fit(columns, column_names(X), [names[i] for i in learned], names, weights)
        self.classes_ = classes
        return self

    def decision_function(self, X: Texts) -> NDArray[np.float32]:
        """Logits, (rows, classes) in the order of `classes_`; of two classes the second's over the first's, (rows,)."""
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict_proba(self, X: Texts) -> NDArray[np.float64]:
        """Probabilities, (rows, classes), in the order of `classes_`."""
        return softmax(self._logits(X))

    def predict(self, X: Texts) -> NDArray[Any]:
        """The likeliest class of each text, (rows,)."""
        positions = self._logits(X).argmax(axis=1)
        return np.asarray(self.classes_[positions])


class TextRegressor(RegressorMixin, TextEstimator):  # type: ignore[misc]
    """A text encoder fine-tuned to give a number."""

    _task: TaskName = "regression"
    _defaults: Mapping[str, Any] = {"train.best_metric": "rmse"}  # scikit-learn judges regressors by squared errors

    def fit(self, X: Texts, y: Any, sample_weight: Any = None) -> "TextRegressor":
        """Train on texts and their numbers, (rows,); starts anew each time (see `TextClassifier.fit`)."""
        target = target_of(y)
        columns, kept, weights = rows_that_weigh(X, target, sample_weight)
        values = [np.nan if is_missing(value) else value for value in target[kept].tolist()]
        numbers = np.asarray(values, dtype=np.float64)
        if not np.isfinite(numbers).all():
            raise ValueError("Input y contains NaN or infinity.")
        self._fit(columns, column_names(X), numbers.tolist(), (), weights)
        return self

    def predict(self, X: Texts) -> NDArray[np.float64]:
        """A number for each text, (rows,)."""
        return np.asarray(self._logits(X)[:, 0], dtype=np.float64)


def seed_of(random_state: Any) -> int:
    """A training's seed from what scikit-learn calls a random state."""
    if random_state is None:
        return 1
    return (
        int(random_state)
        if isinstance(random_state, Integral)
        else int(check_random_state(random_state).randint(2**31))
    )


def target_of(y: Any) -> NDArray[Any]:
    """What is to be learned, (rows,); what is missing stays as it is."""
    if y is None:
        raise ValueError("This estimator requires y to be passed, but the target y is None.")
    if isinstance(y, list | tuple) and any(map(is_missing, y)):
        y = np.asarray(y, dtype=object)  # else numpy would make words of what is missing
    return np.asarray(column_or_1d(y, warn=True))


def classes_of(target: NDArray[Any]) -> tuple[NDArray[Any], Rows]:
    """The labels in their order, and the position of each row's, (rows,); -1 where it is missing.

    Raises:
        ValueError: some are words and some numbers, which have no order, or they are no classes.
    """
    there = np.asarray([not is_missing(value) for value in target.tolist()], dtype=bool)
    labels = target[there]
    if labels.dtype == object:
        if len({isinstance(value, str) for value in labels.tolist()}) > 1:
            raise ValueError("y has words and numbers: give labels of one kind")
        labels = np.asarray(labels.tolist())  # of all of them: numpy cuts a word to the longest that it has seen
    check_classification_targets(labels)
    positions = np.full(len(target), -1, dtype=np.int64)
    classes, positions[there] = np.unique(labels, return_inverse=True)
    return classes, positions


def rows_that_weigh(
    X: Texts, target: NDArray[Any], sample_weight: Any
) -> tuple[list[list[str]], Rows, NDArray[np.float64] | None]:
    """The text columns of the rows that weigh something, where these stand among all, and what they weigh.

    A row of weight 0 is no row: held out, it would choose the best weights.
    """
    columns = text_columns(X)
    check_consistent_length(columns[0], target)
    if sample_weight is None:
        return columns, np.arange(len(target)), None
    weights = weights_of(sample_weight, len(target))
    kept = np.flatnonzero(weights)
    if not len(kept):
        raise ValueError("sample_weight is 0 for every row")
    return [[column[i] for i in kept] for column in columns], kept, weights[kept]


def weights_of(sample_weight: Any, rows: int) -> NDArray[np.float64]:
    """The weight of each row, (rows,), of as many numbers, a column of them, or one for all."""
    try:
        weights = np.asarray(sample_weight, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError("sample_weight: something in it is no number") from None
    if weights.shape not in ((), (rows,), (rows, 1)):
        raise ValueError(f"sample_weight has the shape {weights.shape}: give a number for each of the {rows} rows")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError("sample_weight: negative values, NaN and infinity weigh nothing")
    return np.broadcast_to(weights.reshape(-1), rows)


def text_columns(X: Texts) -> list[list[str]]:
    """The one or two text columns of what scikit-learn hands over.

    Raises:
        ValueError: it holds something else than texts.
    """
    if isinstance(X, str | bytes):
        raise ValueError(f"X is one text, {X!r}: give a list of texts")
    if hasattr(X, "columns") and hasattr(X, "shape"):  # a pandas or polars frame
        columns = [list(X[name]) for name in X.columns]
    else:
        as_list = getattr(X, "tolist", None) or getattr(X, "to_list", None)
        items = as_list() if as_list else list(X)
        pairs = bool(items) and all(isinstance(item, list | tuple) for item in items)
        columns = [list(column) for column in zip(*items, strict=True)] if pairs else [items]
    if not 1 <= len(columns) <= 2:
        raise ValueError(f"X has {len(columns)} columns; texts come in one column, pairs of texts in two")
    if not columns[0]:
        raise ValueError("X has 0 sample(s) while a minimum of 1 is required.")
    for column in columns:
        wrong = next((row for row, text in enumerate(column) if not isinstance(text, str)), None)
        if wrong is not None:
            raise ValueError(f"X, row {wrong}: {column[wrong]!r} is no text")
        wrong = next((row for row, text in enumerate(column) if not is_unicode(text)), None)
        if wrong is not None:
            raise ValueError(f"X, row {wrong}: {column[wrong]!r} is no Unicode text")
    return columns


def column_names(X: Texts) -> list[str]:
    """The names of a frame's columns, or of a single one; none of anything else."""
    if hasattr(X, "columns") and hasattr(X, "shape"):
        return [str(name) for name in X.columns]
    name = getattr(X, "name", None)
    return [name] if isinstance(name, str) else []


class Quiet:
    """What a training says goes nowhere, as long as one of several threads wants it so."""

    def __init__(self) -> None:
        self._lock, self._count, self._redirected = Lock(), 0, ExitStack()

    @contextmanager
    def __call__(self, silent: bool) -> Iterator[None]:
        if not silent:
            yield
            return
        with self._lock:
            if not self._count:
                nowhere = StringIO()
                self._redirected.enter_context(redirect_stdout(nowhere))
                self._redirected.enter_context(redirect_stderr(nowhere))
            self._count += 1
        try:
            yield
        finally:
            with self._lock:
                self._count -= 1
                if not self._count:
                    self._redirected.close()


# The streams are the process's, and two threads that put them back one after the other would put back each other's.
quiet = Quiet()
