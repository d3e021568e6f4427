"""Answers of a trained model: in Python, and streamed to a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kitune.config import (
    Auto,
    DataOptions,
    EngineOptions,
    Layout,
    Precision,
    RunOptions,
    TaskName,
    checked,
    load_yaml,
    with_values,
)
from kitune.data.columns import guess_text, require_columns
from kitune.data.encode import Encoded, encode
from kitune.data.labels import label_array
from kitune.data.long_texts import LongTexts
from kitune.data.read import Source
from kitune.data.sources import read_part
from kitune.data.split import text_keys
from kitune.data.table import Table
from kitune.data.write import require_new_file, row_writer
from kitune.errors import UserError, numbered
from kitune.evaluate.score import WINDOW_ROWS, Predictions, outputs, score
from kitune.metrics import Metrics
from kitune.model.encoder import Pretrained, load_config, load_pretrained, model_folder
from kitune.model.engine import kernels_for, speed_up
from kitune.model.families import OwnWeights
from kitune.run_folder import KNOWN_TEXTS, read_metrics
from kitune.tasks import task_of
from kitune.training.devices import DTYPES, Machine, connect


@dataclass(frozen=True)
class Model:
    """A classification or regression model, ready to answer.

    Attributes:
        data: the columns, layout and label separator that it was trained with, but for the encoding, which each file shows
            anew; the defaults for a model from elsewhere.
        known_texts: keys of the texts that it was trained on (see `text_keys`), of a run.
        usual_encoding: of its own files; read in it are those that are not UTF-8.
    """

    network: Any
    tokenizer: Any
    task: TaskName
    label_names: tuple[str, ...]
    threshold: float
    max_length: int
    data: DataOptions
    machine: Machine
    usual_encoding: str = "auto"
    known_texts: NDArray[np.uint64] | None = None

    @property
    def text(self) -> tuple[str, ...] | None:
        """The text columns, as it was trained."""
        return self.data.text

    def predict(self, data: Any) -> Predictions:
        """Answers for texts, pairs or a table: a row out for a row in, in the same order.

        Args:
            data: a list, array or column of texts; a list of pairs (for a model of two text columns); or whatever
                `kitune.train` takes.
        """
        return self.predict_table(self.table_of(data))

    def table_of(self, data: Any) -> Table:
        """`data` as a table with this model's text columns."""
        as_list = getattr(data, "tolist", None) or getattr(data, "to_list", None)  # of an array or a column
        items = as_list() if as_list else data
        if isinstance(items, Sequence) and not isinstance(items, str) and items and not isinstance(items[0], Mapping):
            pairs = [tuple(item) if isinstance(item, list | tuple) else (item,) for item in items]
            columns = self.text or ("text", "text_pair")[: len(pairs[0])]
            wrong = next((i for i, pair in enumerate(pairs) if len(pair) != len(columns)), None)
            if wrong is not None:
                raise UserError(
                    f"item {wrong} (from 0) has {numbered(len(pairs[wrong]), 'text')}, and the model reads {len(columns)}",
                    fix="give a list of texts, or of pairs of texts",
                )
            strange = [
                (i, text) for i, pair in enumerate(pairs) for text in pair if not isinstance(text, str | NoneType)
            ]
            if strange:
                raise UserError(f"item {strange[0][0]} (from 0): {strange[0][1]!r} is no text", fix="give strings")
            rows = {name: pa.array([pair[i] for pair in pairs], pa.string()) for i, name in enumerate(columns)}
            return Table(pa.table(rows), "the texts")
        return self.read(data)

    def read(self, source: Source, *, split: str | None = None) -> Table:
        """A table from a file or frame, or from a part of a folder or hub data set, laid out as the model's own data were."""
        return read_part(source, split, layout=self.data, otherwise=self.usual_encoding)

    def with_layout(self, changes: Mapping[str, Any]) -> "Model":
        """This model for files of another layout, or another reading of long texts: `{"data.encoding": "cp932"}`.

        Raises:
            UserError: another option than one of these.
        """
        known = [f"data.{name}" for name in (*Layout.model_fields, "long_texts", "most_windows")]
        wrong = next((name for name in changes if name not in known), None)
        if wrong is not None:
            names = ", ".join(known)
            raise UserError(f"--set {wrong}: a trained model takes no such option", fix=f"there are {names}")
        return replace(self, data=with_values(RunOptions(data=self.data), changes).data)

    def columns_in(self, table: Table) -> tuple[str, ...]:
        """The text columns of `table` for this model."""
        text = self.text or guess_text(table, {None})
        require_columns(table, text)
        return text

    def predict_table(self, table: Table) -> Predictions:
        """Answers for every row of `table`."""
        _, logits = self.forward(table)
        return Predictions(logits, self.label_names, self.task, self.threshold)

    def forward(self, table: Table) -> tuple[Encoded, NDArray[np.float32]]:
        """The token ids and the logits, (rows, outputs), of every row of `table`."""
        encoded = encode(
            table,
            self.columns_in(table),
            self.tokenizer,
            max_length=self.max_length,
            long_texts=LongTexts.asked(self.data),
            cache=False,
        )
        return encoded, outputs(self.network, encoded, pad_id=self.tokenizer.pad_token_id or 0, machine=self.machine)

    def evaluate(self, data: Source, *, label: str | None = None, split: str | None = None) -> Metrics:
        """The loss and the task's metrics on labelled rows (see `evaluate_apart`)."""
        return self.evaluate_apart(data, label=label, split=split)["all"]

    def evaluate_apart(self, data: Source, *, label: str | None = None, split: str | None = None) -> dict[str, Metrics]:
        """The loss and the task's metrics on `all` labelled rows, and on the `new` ones where the run has seen others' texts.

        Args:
            split: the part of a folder or hub data set that has several.

        Raises:
            UserError: the label column is not there, or a row has no label or an unknown one.
        """
        table = self.read(data, split=split)
        column = label or self.data.label
        if column is None:
            raise UserError("the model does not know which column holds the labels", fix="name it: --label COLUMN")
        require_columns(table, [column])
        labels = label_array(table, column, self.task, self.label_names, separator=self.data.label_separator)
        _, logits = self.forward(table)
        metrics = {"all": score(self.task, logits, labels, threshold=self.threshold)}
        if self.known_texts is not None:
            new = np.flatnonzero(~np.isin(text_keys(table, self.columns_in(table)), self.known_texts))
            if 0 < len(new) < len(labels):
                metrics["new"] = score(self.task, logits[new], labels[new], threshold=self.threshold)
        return metrics


def load(
    name: str | Path, *, which: str = "best", precision: Precision | Auto = "auto", revision: str | None = None
) -> Model:
    """A model to predict with: a run, any Hugging Face classification folder, or a hub name.

    Args:
        which: `best` or `last`, of a run.
        precision: of the forward pass; auto: fp32 for a run that was trained in it, else what the machine is fast at.

    Raises:
        UserError: there is no such model, or it has no head for classification or regression.
    """
    folder = model_folder(str(name), revision, which=which)
    config = load_config(folder)
    if not any("SequenceClassification" in kind for kind in config.architectures or []):
        raise UserError(
            f"{name}: an encoder without a trained head answers nothing",
            fix=f"train it first: kitune train DATA --model {name}",
        )
    options = load_yaml(folder / "run.yaml") if (folder / "run.yaml").exists() else None
    if precision == "auto" and options is not None and options.engine.precision == "fp32":
        precision = "fp32"
    plain = options is not None and options.engine.plain
    engine = checked({"engine": {"precision": precision, "plain": plain}}, "load").engine
    machine = connect(engine, alone=True)
    task = task_of(config.problem_type, config.num_labels)
    names = tuple(str(label) for _, label in sorted(config.id2label.items()))
    pretrained = load_to_answer(folder, task, names, engine, machine)
    return Model(
        pretrained.network,
        pretrained.tokenizer,
        task,
        names,
        float(read_metrics(folder).get("threshold", 0.5)),
        min(pretrained.most_tokens, int(pretrained.tokenizer.model_max_length)),
        options.data.model_copy(update={"encoding": "auto"}) if options else DataOptions(),
        machine,
        options.data.encoding if options else "auto",
        known_texts(folder),
    )


def known_texts(folder: Path) -> NDArray[np.uint64] | None:
    """Keys of the texts that a run has learned from; None where it did not note them, or not to the end."""
    try:
        keys: NDArray[np.uint64] = np.load(folder.parent / KNOWN_TEXTS, allow_pickle=False)
    except (OSError, ValueError):
        return None
    return keys


def load_to_answer(
    folder: Path, task: TaskName, names: Sequence[str], engine: EngineOptions, machine: Machine
) -> Pretrained:
    """The network of a folder where it computes, in the machine's precision and on the fast path where there is one."""
    pretrained = load_pretrained(folder, task, names)
    network, dtype = pretrained.network.eval().requires_grad_(False), DTYPES[machine.precision]
    fast = kernels_for(engine, dtype=dtype, device=machine.device, threads=machine.threads)
    if fast is None:
        network.to(machine.device, dtype)
    if speed_up(network, engine, kernels=fast, dtype=dtype, store=OwnWeights()) is not None:
        network.to(machine.device, dtype)
    return pretrained


def predict_file(
    model: Model,
    table: Table,
    out: Path | None,
    *,
    columns: Sequence[str] = (),
    probabilities: bool = False,
    excel: bool = False,
) -> int:
    """Write an answer for each row of `table` to `out`, window by window, in input order.

    Args:
        out: a .csv, .tsv, .jsonl or .parquet file that does not exist yet; None: CSV on standard output.
        columns: of the table, to keep beside the answers, such as ids.
        probabilities: add a column with each label's probability.
        excel: write CSV and TSV with a byte order mark, without which Excel takes them for the system's old encoding.

    Returns:
        Number of rows.
    """
    if out is not None:
        require_new_file(out)
    if excel and (out is None or out.suffix.lower() not in (".csv", ".tsv")):
        raise UserError("--excel is for a .csv or .tsv file", fix="leave it out, or choose --out FILE.csv")
    require_columns(table, columns)
    model.columns_in(table)  # refused before anything is written
    with row_writer(out, "utf-8-sig" if excel else "utf-8") as write:
        for begin in range(0, len(table), WINDOW_ROWS):
            rows = np.arange(begin, min(begin + WINDOW_ROWS, len(table)))
            window = table.take(rows)
            write(answer_rows(model.predict_table(window), window, columns, probabilities))
    return len(table)


def write_predictions(
    answers: Predictions, table: Table, out: Path, *, columns: Sequence[str], probabilities: bool
) -> None:
    """Write finished answers beside the chosen columns of their rows; replaces a file of an earlier try."""
    out.parent.mkdir(exist_ok=True)
    with row_writer(out) as write:
        write(answer_rows(answers, table, columns, probabilities))


def answer_rows(answers: Predictions, table: Table, columns: Sequence[str], probabilities: bool) -> pa.Table:
    """The chosen columns, `prediction`, and on request the probability of each label as `p(name)`."""
    result = {name: table.data.column(name) for name in columns}
    result["prediction"] = pa.array(answers.labels)
    if probabilities and answers.probabilities is not None:
        for i, name in enumerate(answers.label_names):
            result[f"p({name})"] = pa.array(answers.probabilities[:, i])
    return pa.table(result)
