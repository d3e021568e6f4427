"""Answers as rows: beside chosen columns of what was asked, streamed to a file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from kitune.config import TaskName
from kitune.data.columns import require_columns
from kitune.data.doctor import empty_rows
from kitune.data.table import Table
from kitune.data.write import require_new_file, row_writer
from kitune.errors import UserError, numbered
from kitune.evaluate.score import WINDOW_ROWS, Predictions
from kitune.glue import GlueTask, glue_index, glue_rows, require_words
from kitune.predict import Model

ANSWER_TYPES: dict[TaskName, pa.DataType] = {
    "single-label": pa.string(),
    "multi-label": pa.list_(pa.string()),
    "regression": pa.float64(),
}


def predict_file(
    model: Model,
    table: Table,
    out: Path | None,
    *,
    columns: Sequence[str] = (),
    probabilities: bool = False,
    top: int = 0,
    excel: bool = False,
    glue: GlueTask | None = None,
) -> int:
    """Write an answer for each row of `table` to `out`, window by window, in input order.

    Args:
        out: a .csv, .tsv, .jsonl or .parquet file that does not exist yet; None: CSV on standard output.
        columns: of the table, to keep beside the answers, such as ids.
        probabilities: add a column with each label's probability.
        top: add so many of the likeliest labels with their probabilities.
        excel: write CSV and TSV with a byte order mark, without which Excel takes them for the system's old encoding.
        glue: write the submission of this task instead.

    Returns:
        Number of rows.
    """
    if out is not None:
        require_new_file(out)
    if excel and (out is None or out.suffix.lower() not in (".csv", ".tsv")):
        raise UserError("--excel is for a .csv or .tsv file", fix="leave it out, or choose --out FILE.csv")
    require_columns(table, columns)
    if glue is not None:
        if columns or probabilities or top or excel:
            raise UserError("a GLUE submission has an index and a prediction, nothing else", fix="leave the others out")
        require_words(glue, model.label_names, model.task)
    if model.task == "regression" and (top or probabilities):
        option = "--top" if top else "--probabilities"
        raise UserError(f"{option}: a regression answers with one number", fix="leave it out")
    model = model.reading(table)
    text, full, empty = model.columns_in(table), 0, 0
    index = np.arange(0) if glue is None else glue_index(table)
    with row_writer(out, "utf-8-sig" if excel else "utf-8") as write:
        for begin in range(0, len(table), WINDOW_ROWS):
            rows = np.arange(begin, min(begin + WINDOW_ROWS, len(table)))
            window = table.take(rows)
            encoded = model.encode(window)
            full, empty = full + model.full_rows(encoded), empty + int(empty_rows(window, text).sum())
            answers = model.answers(encoded)
            if glue is not None:
                write(glue_rows(glue, answers, index[rows]))
            else:
                write(answer_rows(answers, window, columns, probabilities=probabilities, top=top))
    if empty:
        model.machine.say(f"{numbered(empty, 'row')} without a text, answered all the same")
    if (said := model.cut_note(full, len(table))) is not None:
        model.machine.say(said)
    return len(table)


def write_predictions(
    answers: Predictions, table: Table, out: Path, *, columns: Sequence[str], probabilities: bool
) -> None:
    """Write finished answers beside the chosen columns of their rows; replaces a file of an earlier try."""
    out.parent.mkdir(exist_ok=True)
    with row_writer(out) as write:
        write(answer_rows(answers, table, columns, probabilities=probabilities))


def answer_rows(
    answers: Predictions, table: Table, columns: Sequence[str], *, probabilities: bool, top: int = 0
) -> pa.Table:
    """The chosen columns and `prediction`; on request the likeliest labels, `top1` with `p1` and so on, and every `p(name)`."""
    # Told, because a window of rows without any label would have another type than the rest.
    said = {"prediction": pa.array(answers.labels, ANSWER_TYPES[answers.task])}
    shares, names = answers.probabilities, answers.label_names
    if shares is not None:
        likeliest = np.argsort(-shares, axis=1, kind="stable")[:, :top]
        for place, chosen in enumerate(likeliest.T, start=1):
            said[f"top{place}"] = pa.array([names[i] for i in chosen], pa.string())
            said[f"p{place}"] = pa.array(np.take_along_axis(shares, chosen[:, None], axis=1)[:, 0])
        if probabilities:
            said |= {f"p({name})": pa.array(shares[:, i]) for i, name in enumerate(names)}
    return beside(table, columns, said)


def beside(table: pa.Table | Table, columns: Sequence[str], said: Mapping[str, pa.Array]) -> pa.Table:
    """Columns of the data beside columns of ours; one of the data that has a name of ours is called `name (data)`."""
    data = table.data if isinstance(table, Table) else table
    return pa.table({f"{name} (data)" if name in said else name: data.column(name) for name in columns} | dict(said))
