"""Submissions to GLUE: a file a task, with the name, header and words that the site asks for.

Source: Wang et al. 2018, arXiv:1804.07461; the sample submission and the FAQ of gluebenchmark.com.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kitune.config import TaskName
from kitune.data.labels import yaml_list
from kitune.data.table import Table
from kitune.errors import UserError, command, numbered
from kitune.evaluate.score import Predictions

LEAST_SCORE, MOST_SCORE = 0.0, 5.0
INDEX_COLUMNS = ("index", "idx", "id", "pairID")


@dataclass(frozen=True)
class GlueTask:
    """What a file of the submission holds.

    Attributes:
        rows: of the official test set.
        words: from a model's label name to the word of the file; empty where the file holds scores.
    """

    rows: int
    words: Mapping[str, str]


def digits(no: str, yes: str) -> dict[str, str]:
    """0 and 1, also by the names that the hub's data sets have for them."""
    return {"0": "0", "1": "1", no: "0", yes: "1"}


TWO = {name: name for name in ("entailment", "not_entailment")}
THREE = {name: name for name in ("entailment", "neutral", "contradiction")}
GLUE = {
    "CoLA": GlueTask(1_063, digits("unacceptable", "acceptable")),
    "SST-2": GlueTask(1_821, digits("negative", "positive")),
    "MRPC": GlueTask(1_725, digits("not_equivalent", "equivalent")),
    "QQP": GlueTask(390_965, digits("not_duplicate", "duplicate")),
    "STS-B": GlueTask(1_379, {}),
    "MNLI-m": GlueTask(9_796, THREE),
    "MNLI-mm": GlueTask(9_847, THREE),
    "QNLI": GlueTask(5_463, TWO),
    "RTE": GlueTask(3_000, TWO),
    "WNLI": GlueTask(146, digits("not_entailment", "entailment")),
    "AX": GlueTask(1_104, THREE),
}


def glue_task(out: Path | None) -> GlueTask:
    """The task whose file `out` is.

    Raises:
        UserError: no file of the submission has that name.
    """
    names = ", ".join(f"{name}.tsv" for name in GLUE)
    if out is None:
        raise UserError("--format glue writes a file with its official name", fix=f"--out with one of {names}")
    if out.suffix != ".tsv" or out.stem not in GLUE:
        raise UserError(f"--out {out}: a GLUE submission has no file of that name", fix=f"name it as one of {names}")
    return GLUE[out.stem]


def require_words(task: GlueTask, names: Sequence[str], of: TaskName) -> None:
    """Refuse a model whose answers the file cannot hold."""
    if not task.words and of != "regression":
        raise UserError(f"STS-B.tsv holds scores, and this is a {of} model", fix="take a model of a regression")
    if task.words and of != "single-label":
        raise UserError(f"the file holds labels, and this is a {of} model", fix="take a model of the task's labels")
    unknown = [name for name in names if task.words and name not in task.words]
    if unknown:
        raise UserError(
            f"the model answers {unknown[0]!r}, and the file holds {', '.join(dict.fromkeys(task.words.values()))}",
            fix="if these are its labels, tell them in its order: "
            + command("--set", f"data.labels={yaml_list({word: name for name, word in task.words.items()}.values())}"),
        )


def glue_index(table: Table) -> NDArray[Any]:
    """The number of each row, (rows,): of the file's own index, or as they stand, from 0."""
    for name in INDEX_COLUMNS:
        if name in table.columns and counts(values := table.values(name)):
            return np.asarray([int(value) for value in values], dtype=np.int64)
    return np.arange(len(table))


def glue_rows(task: GlueTask, answers: Predictions, index: NDArray[Any]) -> pa.Table:
    """`index` and `prediction` of some rows, whose numbers are `index`, (rows,)."""
    if task.words:
        said = [task.words[name] for name in answers.labels]
    else:
        said = [f"{value:.3f}" for value in np.clip(answers.logits[:, 0], LEAST_SCORE, MOST_SCORE)]
    return pa.table({"index": pa.array(index), "prediction": pa.array(said)})


def counts(values: Sequence[Any]) -> bool:
    """Whether a column numbers its rows: an id that is no number, or comes twice, has no place in a submission."""
    return all(str(value).isdecimal() for value in values) and len(set(values)) == len(values)


def count_note(task: GlueTask, out: Path | None, rows: int) -> str | None:
    """A sentence where the site would refuse the file for its number of rows."""
    if out is None or rows == task.rows:
        return None
    return f"{out.name} has {numbered(rows, 'row')}; the site takes the {task.rows:,} of the official test file alone"
