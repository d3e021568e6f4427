"""Answers of a trained model: in Python, and streamed to a file."""

import csv
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kitune.config import Auto, DataOptions, EngineOptions, Precision, TaskName, checked, load_yaml
from kitune.data.columns import guess_text, require_columns
from kitune.data.encode import Encoded, encode
from kitune.data.labels import label_array
from kitune.data.read import Source, layout_of, read_table
from kitune.data.table import Table
from kitune.errors import UserError, numbered
from kitune.evaluate.score import WINDOW_ROWS, Predictions, outputs, score
from kitune.metrics import Metrics
from kitune.model.encoder import Pretrained, load_config, load_pretrained, model_folder
from kitune.model.engine import kernels_for, speed_up
from kitune.model.families import OwnWeights
from kitune.run_folder import read_metrics
from kitune.tasks import task_of
from kitune.training.devices import DTYPES, Machine, connect


@dataclass(frozen=True)
class Model:
    """A classification or regression model, ready to answer.

    Attributes:
        data: the columns, encoding and label separator that it was trained with; the defaults for a model from elsewhere.
    """

    network: Any
    tokenizer: Any
    task: TaskName
    label_names: tuple[str, ...]
    threshold: float
    max_length: int
    data: DataOptions
    machine: Machine

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

    def read(self, source: Source) -> Table:
        """A table from a file or frame, in the encoding that the model's own data had."""
        return read_table(source, layout=layout_of(self.data))

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
        encoded = encode(table, self.columns_in(table), self.tokenizer, max_length=self.max_length, cache=False)
        return encoded, outputs(self.network, encoded, pad_id=self.tokenizer.pad_token_id or 0, machine=self.machine)

    def evaluate(self, data: Source, *, label: str | None = None) -> Metrics:
        """The loss and the task's metrics on labelled rows.

        Raises:
            UserError: the label column is not there, or a row has no label or an unknown one.
        """
        table = self.read(data)
        column = label or self.data.label
        if column is None:
            raise UserError("the model does not know which column holds the labels", fix="name it: --label COLUMN")
        require_columns(table, [column])
        labels = label_array(table, column, self.task, self.label_names, separator=self.data.label_separator)
        encoded, logits = self.forward(table)
        return score(self.task, logits, encoded.with_labels(labels), threshold=self.threshold)


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
        options.data if options else DataOptions(),
        machine,
    )


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
    model: Model, table: Table, out: Path | None, *, columns: Sequence[str] = (), probabilities: bool = False
) -> int:
    """Write an answer for each row of `table` to `out`, window by window, in input order.

    Args:
        out: a .csv, .tsv, .jsonl or .parquet file that does not exist yet; None: CSV on standard output.
        columns: of the table, to keep beside the answers, such as ids.
        probabilities: add a column with each label's probability.

    Returns:
        Number of rows.
    """
    if out is not None:
        require_new_file(out)
    require_columns(table, columns)
    model.columns_in(table)  # refused before anything is written
    with row_writer(out) as write:
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


def require_new_file(out: Path) -> None:
    """Refuse a file that exists, has an unknown ending, or lies where nothing can be written."""
    if out.exists():
        raise UserError(f"{out}: it exists already; nothing in it was touched", fix="choose another --out")
    if out.suffix.lower() not in WRITERS:
        ending = out.suffix or "(none)"
        raise UserError(f"{out}: the ending {ending} is not one that kitune writes", fix=f"use {', '.join(WRITERS)}")
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        missing = "there is no such folder" if not out.parent.is_dir() else "you may not write there"
        raise UserError(f"--out {out}: {out.parent}: {missing}", fix="choose another --out")


@contextmanager
def row_writer(out: Path | None) -> Iterator[Callable[[pa.Table], None]]:
    """A function that appends rows to `out`; the file appears when all are written, and not at all after an error.

    Without `out` they go to standard output as CSV.
    """
    if out is None:
        yield delimited_rows_to(sys.stdout, ",")
        return
    staging = out.with_name(f".{out.name}.part")
    try:
        with WRITERS[out.suffix.lower()](staging) as write:
            yield write
        staging.replace(out)
    finally:
        staging.unlink(missing_ok=True)


@contextmanager
def delimited_writer(path: Path, delimiter: str) -> Iterator[Callable[[pa.Table], None]]:
    """CSV or TSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        yield delimited_rows_to(file, delimiter)


def delimited_rows_to(file: TextIO, delimiter: str) -> Callable[[pa.Table], None]:
    """A function that appends rows under one header; several labels are joined by `|`."""
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    quoting = csv.writer(file, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
    begun = False

    def write(rows: pa.Table) -> None:
        nonlocal begun
        if not begun:
            writer.writerow(rows.column_names)
            begun = True
        for row in zip(*(column.to_pylist() for column in rows.columns), strict=True):
            cells = ["|".join(value) if isinstance(value, list) else value for value in row]
            # Python before 3.13 leaves a bare \r unquoted, and every reader takes it for the end of the row.
            bare = any(isinstance(cell, str) and "\r" in cell for cell in cells)
            (quoting if bare else writer).writerow(cells)

    return write


@contextmanager
def json_lines_writer(path: Path) -> Iterator[Callable[[pa.Table], None]]:
    """One JSON object a row."""
    with path.open("w", encoding="utf-8") as file:

        def write(rows: pa.Table) -> None:
            for row in rows.to_pylist():
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

        yield write


@contextmanager
def parquet_writer(path: Path) -> Iterator[Callable[[pa.Table], None]]:
    """Parquet, a row group a window."""
    writer: pq.ParquetWriter | None = None

    def write(rows: pa.Table) -> None:
        nonlocal writer
        writer = writer or pq.ParquetWriter(path, rows.schema)
        writer.write_table(rows)

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()


WRITERS: dict[str, Callable[[Path], Any]] = {
    ".csv": lambda path: delimited_writer(path, ","),
    ".tsv": lambda path: delimited_writer(path, "\t"),
    ".jsonl": json_lines_writer,
    ".parquet": parquet_writer,
}
