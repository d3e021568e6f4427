"""A trained model, ready to answer."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import RLock
from types import NoneType
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kitune.config import (
    Auto,
    DataOptions,
    Layout,
    Precision,
    RunOptions,
    TaskName,
    checked,
    load_yaml,
    with_values,
)
from kitune.data.batches import padding_id
from kitune.data.columns import guess_text, require_columns
from kitune.data.encode import Encoded, encode
from kitune.data.files import ending_of
from kitune.data.labels import label_array, read_by_place
from kitune.data.long_texts import LongTexts
from kitune.data.read import READERS, Source
from kitune.data.sources import read_part
from kitune.data.split import text_keys
from kitune.data.table import Table, is_missing, is_unicode
from kitune.errors import UserError, command, numbered
from kitune.evaluate.evaluation import Evaluation, dependence, judged
from kitune.evaluate.measures import Answered, Measure
from kitune.evaluate.own_metrics import MetricsFunction, loaded, own_measure
from kitune.evaluate.score import Predictions, outputs
from kitune.evaluate.slices import slices_of
from kitune.inference import load_to_answer
from kitune.known import KnownTexts, known_texts
from kitune.model.encoder import load_config, model_folder
from kitune.rivals import rivals
from kitune.run_folder import threshold_in
from kitune.tasks import task_of
from kitune.training.devices import Machine, connect

# The remedy where a single text was given, which looks like the name of a file or of a data set.
GIVE_A_LIST = "of texts, give a list"


class InFolder(Protocol):
    """A run."""

    @property
    def folder(self) -> Path: ...


@dataclass(frozen=True)
class Model:
    """A classification or regression model, ready to answer.

    Attributes:
        data: the columns, layout and label separator that it was trained with, but for the encoding, which each file shows
            anew; the defaults for a model from elsewhere.
        run: the options of the run that it is of; None for a model from elsewhere.
        folder: where it was loaded from.
        known: the texts that it was trained on, of a run that has ended.
        include_for_metrics: what the user's own metrics are given besides predictions and labels.
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
    folder: Path
    run: RunOptions | None = None
    usual_encoding: str = "auto"
    known: KnownTexts | None = None
    include_for_metrics: tuple[str, ...] = ()
    answering: RLock = field(default_factory=RLock, compare=False, repr=False)

    @property
    def text(self) -> tuple[str, ...] | None:
        """The text columns, as it was trained."""
        return self.data.text

    @property
    def group_of_run(self) -> str | None:
        """The column of groups, as it was trained."""
        return None if self.run is None else self.run.data.group

    def predict(self, data: Any) -> Predictions:
        """Answers for texts, pairs or a table: a row out for a row in, in the same order.

        What is guessed of a table is said: how it is read, and its text columns where the model does not know them.

        Args:
            data: a list, array or column of texts; a list of pairs (for a model of two text columns); or whatever
                `kitune.train` takes. A text that is missing (None, NaN) is an empty one.
        """
        table = self.table_of(data)
        for note in table.notes:
            self.machine.say(note)
        return self.reading(table).predict_table(table)

    def table_of(self, data: Any) -> Table:
        """`data` as a table with this model's text columns."""
        as_list = getattr(data, "tolist", None) or getattr(data, "to_list", None)  # of an array or a column
        items = as_list() if as_list else data
        if isinstance(items, Sequence) and not isinstance(items, str):
            if not items:
                raise UserError("there are no texts", fix="give one at least")
            if not isinstance(items[0], Mapping):
                return self.table_of_texts(items)
        try:
            return self.read(data)
        except UserError as error:
            if not may_be_text(data) or GIVE_A_LIST in error.fix:
                raise
            raise UserError(error.problem, fix=f"{error.fix}; {GIVE_A_LIST}") from None

    def table_of_texts(self, items: Sequence[Any]) -> Table:
        """Texts, or pairs of them, as a table with this model's text columns."""
        columns: tuple[str, ...] = ()
        pairs = list[Sequence[str | None]]()
        for i, item in enumerate(items):
            pair = item if isinstance(item, list | tuple) else (item,)
            columns = columns or self.text or ("text", "text_pair")[: len(pair)]
            if len(pair) != len(columns):
                raise UserError(
                    f"item {i} (from 0) has {numbered(len(pair), 'text')}, and the model reads {len(columns)}",
                    fix="give a list of texts, or of pairs of texts",
                )
            texts = [None if is_missing(text) else text for text in pair]
            for text in texts:
                if not isinstance(text, str | NoneType):
                    raise UserError(f"item {i} (from 0): {text!r} is no text", fix="give strings")
                if text and not is_unicode(text):
                    raise UserError(f"item {i} (from 0): {text!r} is no Unicode text", fix="mend that text")
            pairs.append(texts)
        rows = {name: pa.array([pair[place] for pair in pairs], pa.string()) for place, name in enumerate(columns)}
        return Table(pa.table(rows), "the texts")

    def read(self, source: Source, *, split: str | None = None) -> Table:
        """A table from a file or frame, or from a part of a folder or hub data set, laid out as the model's own data were."""
        table = read_part(source, split, layout=self.data, otherwise=self.usual_encoding)
        text = self.text or ()
        if table.columns == ["text"] and len(text) == 1 and text != ("text",):  # a text a line, say
            said = f"{table.source}: its only column, 'text', is read as {text[0]!r}"
            return replace(table, data=table.data.rename_columns(list(text)), notes=(*table.notes, said))
        return table

    def with_layout(self, changes: Mapping[str, Any]) -> "Model":
        """This model for files of another layout, or another reading of long texts: `{"data.encoding": "cp932"}`.

        `data.text` names the text columns, where they are called otherwise; `data.labels` says what its outputs are called, in
        their order; `data.group` whose rows chance draws together; `train.include_for_metrics` what the user's own metrics are
        given.

        Raises:
            UserError: another option than one of these.
        """
        known = [
            f"data.{name}" for name in (*Layout.model_fields, "text", "labels", "group", "long_texts", "most_windows")
        ]
        known.append("train.include_for_metrics")
        wrong = next((name for name in changes if name not in known), None)
        if wrong is not None:
            names = ", ".join(known)
            raise UserError(f"--set {wrong}: a trained model takes no such option", fix=f"there are {names}")
        told = with_values(RunOptions(data=self.data), changes)
        called = (told.data.labels or ()) if "data.labels" in changes else self.label_names
        fits = self.task != "regression" and len(called) == len(self.label_names)
        if "data.labels" in changes and not fits:
            outputs = "a number" if self.task == "regression" else ", ".join(self.label_names)
            raise UserError(
                f"--set data.labels: {numbered(len(called), 'name')}, and the model answers {outputs}",
                fix="give a different name for each of them, in their order",
            )
        if self.text and len(told.data.text or ()) != len(self.text):
            raise UserError(
                f"--text: {numbered(len(told.data.text or ()), 'column')}, and the model reads {' and '.join(self.text)}",
                fix="give as many",
            )
        wanted = told.train.include_for_metrics
        return replace(
            self,
            data=told.data,
            label_names=called,
            include_for_metrics=tuple(wanted) if "train.include_for_metrics" in changes else self.include_for_metrics,
        )

    def columns_in(self, table: Table) -> tuple[str, ...]:
        """The text columns of `table` for this model."""
        text = self.text or guess_text(table, {self.data.label})
        require_columns(table, text)
        return text

    def reading(self, table: Table, taken: Sequence[str] = ()) -> "Model":
        """This model with the text columns of `table`, which are guessed aloud where it does not know them.

        Args:
            taken: columns that hold something else.
        """
        if self.text is not None:
            return self
        text = guess_text(table, {self.data.label, *taken})
        if len(table.columns) > len(text):
            self.machine.say(f"text column{'s' if len(text) > 1 else ''}: {' and '.join(text)}")
        return replace(self, data=self.data.model_copy(update={"text": text}))

    def predict_table(self, table: Table) -> Predictions:
        """Answers for every row of `table`."""
        return self.answers(self.encode(table))

    def answers(self, encoded: Encoded) -> Predictions:
        """Answers for every row of token ids."""
        return Predictions(self.logits(encoded), self.label_names, self.task, self.threshold)

    def full_rows(self, encoded: Encoded) -> int:
        """How many rows have all the tokens that the model reads, so that what is longer was cut, unless in windows."""
        return int((encoded.lengths >= self.max_length).sum())

    def cut_note(self, full: int, rows: int) -> str | None:
        """A sentence about so many full rows."""
        if not full or self.data.long_texts == "windows":
            return None
        cut = "cut in the middle" if self.data.long_texts == "head-tail" else "cut"
        fill = "fills" if full == 1 else "fill"
        said = f"{full:,} of {numbered(rows, 'text')} {fill} the {self.max_length:,} tokens that the model reads, and what is"
        return f"{said} longer is {cut}; --set data.long_texts=windows reads all of it"

    def encode(self, table: Table) -> Encoded:
        """The token ids of every row of `table`."""
        with self.answering:
            return encode(
                table,
                self.columns_in(table),
                self.tokenizer,
                max_length=self.max_length,
                long_texts=LongTexts.asked(self.data),
                cache=False,
            )

    def logits(self, encoded: Encoded) -> NDArray[np.float32]:
        """What the network says of every row, (rows, outputs)."""
        with self.answering:  # the memory of a pass, and a tokenizer's settings, belong to one caller at a time
            pad_id = padding_id(self.tokenizer, self.network)
            return outputs(self.network, encoded, pad_id=pad_id, machine=self.machine)

    def evaluate(
        self,
        data: Source,
        *,
        label: str | None = None,
        split: str | None = None,
        by: str | Sequence[str] = (),
        baselines: bool = True,
        train: Source = None,
        compute_metrics: MetricsFunction | str | Path | None = None,
    ) -> Evaluation:
        """Every metric of the task on labelled rows, with intervals, and of what a trained model has to beat.

        Args:
            split: the part of a folder or hub data set that has several.
            by: columns whose values are scored apart.
            baselines: also learn the majority, TF-IDF and frozen-probe baselines from the rows that the run learned from.
            train: these rows, where they are in no file.
            compute_metrics: metrics of your own beside them, as in a training: a function, or `FILE.py:NAME`.

        Raises:
            UserError: a column is not there, a row has no label or an unknown one, or `compute_metrics` fails on a trial.
        """
        own = None
        if compute_metrics is not None:
            own = loaded(compute_metrics, frozenset(self.include_for_metrics))
            own.names(self.task, len(self.label_names))  # a broken one costs no time
        by = [by] if isinstance(by, str) else list(by)
        table = self.read(data, split=split)
        column = label or self.data.label
        if column is None:
            raise UserError("the model does not know which column holds the labels", fix="name it: --label COLUMN")
        asked_for = [self.data.group] if self.data.group not in (None, self.group_of_run) else []
        require_columns(table, [column, *by, *asked_for])
        if not len(table):
            raise UserError(f"{table.source}: it has no rows to score", fix="give labelled rows")
        for note in table.notes:
            self.machine.say(note)
        separator = self.data.label_separator
        labels = label_array(table, column, self.task, self.label_names, separator=separator, trained=True)
        model = self.reading(table, [column, *by])
        others: dict[str, Answered] = {}
        lacking: list[str] = []
        if baselines:  # first, for it may turn out that the rows to learn from are not there
            others, lacking = model.rivals(table, column, labels, train)
        encoded, keys = model.encode(table), text_keys(table, model.columns_in(table))
        groups = dependence(table, model.data.group)
        answered = Answered(model.task, model.logits(encoded), labels, model.label_names, model.threshold, groups)
        notes = list(model.notes(table, column, encoded, keys, told=own is not None))
        measure: Measure | None = None
        try:
            measure = None if own is None else own_measure(own, answered, encoded)
        except UserError as error:
            notes.append(f"{error.problem}: left out")
        notes += lacking
        slices = {name: slices_of(table, name) for name in by}
        return judged(
            answered,
            table.source,
            new=None if model.known is None else model.known.new(keys),
            groups={name: rows for name, (rows, _) in slices.items()},
            baselines=others,
            own=measure,
            notes=[*notes, *(note for _, note in slices.values() if note)],
        )

    def notes(
        self, table: Table, column: str, encoded: Encoded, keys: NDArray[np.uint64], *, told: bool
    ) -> Iterator[str]:
        """What a reader of the scores has to know of the rows.

        Args:
            column: of the labels.
            keys: of the rows' texts, (rows,).
            told: whether the user's own metrics are computed.
        """
        if self.known is not None:
            yield from self.known.notes(keys)
        elif self.run is not None:
            yield "which texts it was trained on is not known: scores on them say nothing about new ones"
        if (cut := self.cut_note(self.full_rows(encoded), len(encoded))) is not None:
            yield cut
        places = read_by_place(table.values(column), self.task, self.label_names, self.data.label_separator)
        if places is not None:
            yield f"column {column!r}: {places}"
        if self.group_of_run and self.data.group and self.data.group not in table.columns:
            yield f"without the column {self.data.group!r} of its groups, the intervals take rows for independent"
        if self.run is not None and self.run.train.compute_metrics and not told:
            yield f"metrics of your own: {command('--compute-metrics', self.run.train.compute_metrics)}"

    def rivals(
        self, table: Table, column: str, labels: NDArray[Any], train: Source
    ) -> tuple[dict[str, Answered], list[str]]:
        """What the baselines say of the same rows, and why one is missing."""
        names = None if self.task == "regression" else self.label_names
        told = {"text": self.columns_in(table), "label": column, "labels": names}
        told |= {"id": None, "weight": None, "group": None}  # which rows that are named to learn from may lack
        options = (self.run or RunOptions()).model_copy(
            update={"task": self.task, "data": self.data.model_copy(update=told)}
        )
        sources = {} if train is None else {"train": train}
        return rivals(
            options,
            self.run,
            self.folder.parent,
            table,
            labels,
            sources=sources,
            machine=self.machine,
            max_length=self.max_length,
            told=train is not None,
        )


def may_be_text(source: Any) -> bool:
    """Whether a name that leads nowhere may have been meant as a text: it has no ending of a file, and no owner of a hub's."""
    return (
        isinstance(source, str)
        and ending_of(source) not in READERS
        and ("/" not in source or bool(re.search(r"\s", source)))
        and not os.path.exists(source)
    )


def load(
    name: str | Path | InFolder,
    *,
    which: str = "best",
    precision: Precision | Auto = "auto",
    revision: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    threads: int | Auto = "auto",
) -> Model:
    """A model to predict with: a run, any Hugging Face classification folder, or a hub name.

    Args:
        which: `best` or `last`, of a run.
        precision: of the forward pass; auto: fp32 for a run that was trained in it, else what the machine is fast at.
        device, threads: where it computes; auto: on a GPU where there is one, on all cores that the process may use.

    Raises:
        UserError: there is no such model, or it has no head for classification or regression, or one whose outputs have no
            names of their own.
    """
    name = name if isinstance(name, str | Path) else name.folder
    if which not in ("best", "last"):
        raise UserError(f"which={which!r}: a run has best and last", fix="which='best'")
    folder = model_folder(str(name), revision, which=which)
    config = load_config(folder)
    if not any("SequenceClassification" in kind for kind in config.architectures or []):
        raise UserError(
            f"{name}: an encoder without a trained head answers nothing",
            fix=f"train it first: {command('kitune', 'train', 'DATA', '--model', name)}",
        )
    options = load_yaml(folder / "run.yaml") if (folder / "run.yaml").exists() else None
    if precision == "auto" and options is not None and options.engine.precision == "fp32":
        precision = "fp32"
    plain = options is not None and options.engine.plain
    told = {"precision": precision, "plain": plain, "device": device, "threads": threads}
    engine = checked({"engine": told}, "--set").engine
    machine = connect(engine, alone=True)
    task = task_of(config.problem_type, config.num_labels)
    names = tuple(str(label) for _, label in sorted(config.id2label.items()))
    if task == "regression" and len(names) > 1:
        raise UserError(
            f"{name}: it gives {len(names)} numbers a row, and kitune knows regressions of one",
            fix="take a model with one output",
        )
    if doubled := [label for label, count in Counter(names).items() if count > 1]:
        raise UserError(
            f"{name}: two of its labels are called {doubled[0]!r}",
            fix=f"give each a name of its own in id2label of {folder / 'config.json'}",
        )
    pretrained = load_to_answer(folder, task, names, engine, machine)
    if pretrained.head_is_new:
        raise UserError(
            f"{name}: its file has no weights of a head for {numbered(len(names), 'output')}",
            fix=f"download the model again, or train it: {command('kitune', 'train', 'DATA', '--model', name)}",
        )
    for sentence in pretrained.said:
        machine.say(sentence)
    return Model(
        network=pretrained.network,
        tokenizer=pretrained.tokenizer,
        task=task,
        label_names=names,
        threshold=threshold_in(folder),
        max_length=min(pretrained.most_tokens, int(pretrained.tokenizer.model_max_length)),
        data=options.data.model_copy(update={"encoding": "auto"}) if options else DataOptions(),
        machine=machine,
        folder=folder,
        run=options,
        usual_encoding=options.data.encoding if options else "auto",
        known=known_texts(folder.parent),
        include_for_metrics=tuple(options.train.include_for_metrics) if options else (),
    )
