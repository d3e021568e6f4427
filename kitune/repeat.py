"""Several trainings of one thing: over folds, so that every row is answered by a model that never saw it, or over seeds."""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from operator import index
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kitune.answers import answer_rows, beside, write_predictions
from kitune.config import FREE_OF_REPEATS, RunOptions, TaskName, dump_yaml, load_yaml, with_values
from kitune.data.parts import Parts, read_parts
from kitune.data.read import Source
from kitune.data.split import strata, units
from kitune.data.table import Rows, Table
from kitune.data.write import row_writer
from kitune.errors import UserError, command, numbered
from kitune.evaluate.evaluation import Evaluation, dependence, judged
from kitune.evaluate.measures import Answered
from kitune.evaluate.score import Predictions
from kitune.finetune import Run, finetune, go_on, texts_of
from kitune.metrics import Metrics
from kitune.notebook import Block, Grid, Shown, say
from kitune.prepare import asked, with_whole_paths
from kitune.resume import refuse_changed_options
from kitune.rivals import rivals
from kitune.run_folder import as_json, choose_folder, replace_file, require_writable, threshold_in
from kitune.training.devices import connect

PLAN, OPTIONS, POOLED, MEAN = "repeats.json", "options.yaml", "out-of-fold.parquet", "mean-answers.parquet"
# A probability of 0 or 1 as a logit would be infinite.
LEAST_PROBABILITY = 1e-12
DEFAULTS: dict[str, int | list[int]] = {"folds": 5, "seeds": [1, 2, 3]}


@dataclass(frozen=True)
class Repeats(Shown):
    """Finished trainings of one thing.

    Attributes:
        folder: where they are, each in a folder of its own.
        names: of the folders: `fold-1`, `seed-3`.
        part: that was scored: of folds the one that was held out; else test, or valid where there is none.
        metrics: of each training on that part.
        together: all folds' answers as one, a row for each row of the data; or the mean answer of all seeds on the part,
            None where each seed held out other rows.
        notes: what there is to say, where `together` does not say it.
    """

    folder: Path
    names: tuple[str, ...]
    part: str
    metrics: tuple[Metrics, ...]
    together: Evaluation | None
    notes: tuple[str, ...] = ()

    @property
    def mean(self) -> Metrics:
        """Of each metric, over the trainings."""
        return {name: fmean(one[name] for one in self.metrics) for name in self.common}

    @property
    def sd(self) -> Metrics:
        """The standard deviation of each metric over the trainings; empty where there is one."""
        if len(self.metrics) < 2:
            return {}
        return {name: stdev(one[name] for one in self.metrics) for name in self.common}

    @property
    def common(self) -> list[str]:
        """The metrics that each training has a value of; one of the user's own may be missing, or NaN, here and there."""
        values = {name: [one.get(name) for one in self.metrics] for name in self.metrics[0]}
        return [name for name, each in values.items() if all(value is not None and isfinite(value) for value in each)]

    def as_json(self) -> dict[str, Any]:
        """For metrics.json."""
        each = dict(zip(self.names, self.metrics, strict=True))
        together = None if self.together is None else self.together.as_json()
        told = {"part": self.part, "each": each, "mean": self.mean, "sd": self.sd, "together": together}
        return told | {"notes": list(self.notes)}

    def blocks(self) -> list[Block]:
        """A line a training, mean and standard deviation, and what they say together."""
        names = self.common
        lines = [*zip(self.names, self.metrics, strict=True), ("mean", self.mean), ("sd", self.sd)]
        grid = Grid((f"on {self.part}", *names), [(name, *(one.get(key) for key in names)) for name, one in lines], 4)
        blocks: list[Block] = [f"{numbered(len(self.names), 'training')} in {self.folder}", "", grid]
        blocks += ["", *self.notes] if self.notes else []
        return blocks if self.together is None else [*blocks, "", "together:", *self.together.blocks()]


def cross_validate(
    data: Source = None,
    *,
    folds: int | None = None,
    valid: Source = None,
    model: str | Path | Run | None = None,
    out: str | Path | None = None,
    text: str | Sequence[str] | None = None,
    label: str | None = None,
    task: TaskName | None = None,
    config: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    resume: str | Path | None = None,
) -> Repeats:
    """Train once without each fold of the rows, and answer it: an answer for every row from a model that never saw it.

    Folds are stratified; equal texts and groups (`data.group`) stand together. Of the other folds' rows a part is held out
    to choose the best weights, as in `train`; the fold itself chooses nothing.

    Args:
        folds: how many, 2 or more; 5 where it is not told.
        valid: rows that choose the best weights of every fold.
        resume: the folder of a cross-validation that was cut off.

    Returns:
        The scores of each fold, and of all answers together; the answers are in `out-of-fold.parquet`, a row for each row.
    """
    told = {"model": model, "text": text, "label": label, "task": task, "options": options}
    try:
        wanted = None if folds is None else index(folds)
    except TypeError:
        raise UserError(f"folds={folds!r}: it is a whole number", fix="folds=5") from None
    return repeated("folds", wanted, (data, valid, None), out, config, resume, told)


def train_seeds(
    data: Source = None,
    *,
    seeds: Sequence[int] | None = None,
    valid: Source = None,
    test: Source = None,
    model: str | Path | Run | None = None,
    out: str | Path | None = None,
    text: str | Sequence[str] | None = None,
    label: str | None = None,
    task: TaskName | None = None,
    config: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    resume: str | Path | None = None,
) -> Repeats:
    """Train with each seed: how much of a score is luck, and what the mean of all answers scores.

    The mean answers are in `mean-answers.parquet`, where the seeds answered the same rows: test, or a valid of its own.

    Args:
        seeds: each decides the split, the new head, the order of rows and dropout of one training; 1, 2, 3 where they are
            not told.
        resume: the folder of trainings that were cut off.
    """
    told = {"model": model, "text": text, "label": label, "task": task, "options": options}
    try:
        wanted = None if seeds is None else list(dict.fromkeys(map(index, seeds)))
    except TypeError:
        raise UserError(f"seeds={seeds!r}: they are a list of whole numbers", fix="seeds=[1, 2, 3]") from None
    return repeated("seeds", wanted, (data, valid, test), out, config, resume, told)


def repeated(
    kind: Literal["folds", "seeds"],
    wanted: int | list[int] | None,
    given: tuple[Source, Source, Source],
    out: str | Path | None,
    config: str | Path | None,
    resume: str | Path | None,
    told: Mapping[str, Any],
) -> Repeats:
    """New trainings, or the rest of those in a folder.

    Args:
        given: train, valid and test.
        told: the other arguments of `asked`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(f"--{kind} runs in one process", fix="start it without torchrun")
    if resume is not None:
        if config is not None or out is not None:
            raise UserError(
                "folds and seeds go on in their own folder with their own options", fix="leave the rest out"
            )
        folder, before = Path(resume), planned(Path(resume))
        if wanted not in (None, before.wanted):
            raise UserError(f"{folder}: it was begun with {before.kind} {before.wanted}", fix="leave that out to go on")
        base, kind, wanted = before.options, before.kind, before.wanted
    else:
        wanted = DEFAULTS[kind] if wanted is None else wanted
        if (wanted if isinstance(wanted, int) else len(wanted)) < 2:
            asked_for = wanted if isinstance(wanted, int) else ",".join(map(str, wanted))
            fix = "--folds 5, or --seeds 1,2,3; --set train.seed=1 trains once"
            raise UserError(f"--{kind} {asked_for}: there is nothing to compare", fix=fix)
        base = RunOptions() if config is None else load_yaml(Path(config))
    sources, changes = asked(given, **told)
    if kind == "seeds" and "train.seed" in changes:
        raise UserError("train.seed: --seeds tells the seed of each training", fix="leave one of them out")
    options = with_whole_paths(with_values(base, changes, where="--set"))
    if resume is not None:
        refuse_changed_options(folder, with_whole_paths(base), options, free=FREE_OF_REPEATS)
    if kind == "folds" and (options.data.test is not None or "test" in sources):
        raise UserError("--folds scores every row of train; a test part has no place in it", fix="leave --test out")
    if not isinstance(wanted, int):
        for seed in wanted:
            with_values(options, {"train.seed": seed})  # one that is none is refused before the others are trained
    parts, said = read_parts(options, sources)
    for sentence in said:
        say(sentence)
    fingerprints = {part: table.fingerprint(parts.columns_in(part)) for part, table in parts.given.items()}
    fold_of = folds(parts, wanted) if isinstance(wanted, int) else None  # refused before there is a folder
    if resume is None:
        folder = begin(out, {kind: wanted, "data": fingerprints}, options)
    else:
        for part in sorted(fingerprints.keys() | before.data.keys()):
            if before.data.get(part) != fingerprints.get(part):
                what = "are not those that it was begun with" if part in fingerprints else "are not given"
                raise UserError(
                    f"{folder}: the {part} rows {what}",
                    fix="give the old data to go on, or start anew with another --out",
                )
    try:
        if fold_of is not None:
            return over_folds(folder, parts, fold_of)
        return over_seeds(folder, list(wanted), options, sources, parts)  # type: ignore[arg-type]
    except UserError:
        if resume is None and {path.name for path in folder.iterdir()} == {PLAN, OPTIONS}:
            shutil.rmtree(folder)  # refused before there was anything to keep
        raise


@dataclass(frozen=True)
class Plan:
    """What a folder of trainings is to hold."""

    kind: Literal["folds", "seeds"]
    wanted: int | list[int]
    data: Mapping[str, str]
    options: RunOptions


def begin(out: str | Path | None, plan: Mapping[str, Any], options: RunOptions) -> Path:
    """The folder of new trainings, with their plan in it."""
    folder = choose_folder(out)
    require_writable(folder)
    folder.mkdir(parents=True)
    (folder / OPTIONS).write_text(dump_yaml(options), encoding="utf-8")
    (folder / PLAN).write_text(as_json(dict(plan)), encoding="utf-8")
    return folder


def planned(folder: Path) -> Plan:
    """What a folder of trainings was to hold."""
    try:
        plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        kind: Literal["folds", "seeds"] = "folds" if "folds" in plan else "seeds"
        return Plan(kind, plan[kind], plan["data"], load_yaml(folder / OPTIONS))
    except (OSError, ValueError, KeyError):
        raise UserError(
            f"{folder}: no folds or seeds are under way there", fix="start anew with another --out"
        ) from None


def over_folds(folder: Path, parts: Parts, fold_of: Rows) -> Repeats:
    """Cross-validation in `folder`; folds that are there are not trained again."""
    table, options = parts.given["train"], parts.options
    update = {"train": None, "valid": None, "limit": None, "text": parts.columns.text, "label": parts.columns.label}
    update["labels"] = None if parts.task == "regression" else parts.names
    data = options.data.model_copy(update=update)
    of_fold = options.model_copy(update={"task": parts.task, "data": data})
    runs, count = [], int(fold_of.max()) + 1
    logits = np.empty((len(table), len(parts.names)), dtype=np.float32)
    threshold = np.full((len(table), 1), 0.5)
    for number in range(count):
        inside = np.flatnonzero(fold_of == number)
        given = without_fold(parts, fold_of, number) | {"test": table.take(inside).data}
        others = len(table) - len(inside)
        say(f"fold {number + 1} of {count}: {len(inside):,} rows are answered by a model of the other {others:,}")
        run = one(folder / f"fold-{number + 1}", of_fold, given)
        logits[inside], threshold[inside] = logits_in(run.folder, "test", parts), threshold_in(run / "best")
        runs.append(run)
    answers = Predictions(logits, parts.names, parts.task, threshold)
    columns = [name for name in parts.columns.used if name in table.columns]
    rows = answer_rows(answers, table, columns, probabilities=True)
    with row_writer(folder / POOLED) as write:
        write(beside(rows, rows.column_names, {"fold": pa.array(fold_of + 1)}))
    groups = dependence(table, parts.columns.group)
    answered = Answered(parts.task, logits, parts.labels_in(table), parts.names, threshold, groups)
    names = tuple(run.folder.name for run in runs)
    metrics = tuple(run.metrics["test"] for run in runs)
    beside_it: list[tuple[Rows, dict[str, Answered]]] = []
    notes: list[str] = []
    for number, run in enumerate(runs):
        inside = np.flatnonzero(fold_of == number)
        found, said = rivals_of(run, table.take(inside), parts, without_fold(parts, fold_of, number))
        beside_it.append((inside, found))
        notes += [f"fold {number + 1}: {note}" for note in said]
    source = f"{table.source}, out of fold"
    together = judged(answered, source, baselines=as_one(answered, beside_it), notes=notes)
    return kept(Repeats(folder, names, "its fold", metrics, together))


def without_fold(parts: Parts, fold_of: Rows, number: int) -> dict[str, Source]:
    """What the training without a fold learns from, and what chooses its weights, where that was given."""
    given: dict[str, Source] = {"train": parts.given["train"].take(np.flatnonzero(fold_of != number)).data}
    return given if parts.cut is not None else given | {"valid": parts.tables["valid"].data}


def over_seeds(
    folder: Path, seeds: list[int], options: RunOptions, sources: Mapping[str, Source], parts: Parts
) -> Repeats:
    """A training for each seed in `folder`; those that are there are not made again."""
    runs = []
    for seed in seeds:
        say(f"seed {seed}:")
        runs.append(one(folder / f"seed-{seed}", with_values(options, {"train.seed": seed}), sources))
    names = tuple(run.folder.name for run in runs)
    part = "test" if "test" in runs[0].metrics else "valid"
    together, notes = None, list[str]()
    if part == "valid":
        notes.append("these rows chose the weights, which flatters them; a test part (--test) chooses nothing")
    if part in parts.given:
        table = parts.tables[part]
        logits = mean_answer([logits_in(run.folder, part, parts) for run in runs], parts.task)
        threshold = fmean(threshold_in(run / "best") for run in runs)
        answers = Predictions(logits, parts.names, parts.task, threshold)
        columns = parts.columns_in(part)
        write_predictions(answers, table, folder / MEAN, columns=columns, probabilities=True)
        groups = dependence(table, parts.columns.group)
        answered = Answered(parts.task, logits, parts.labels(part), parts.names, threshold, groups)
        learn_from: dict[str, Source] = {
            name: given.data for name, given in parts.given.items() if name in ("train", "valid")
        }
        found, said = rivals_of(runs[0], table, parts, learn_from)
        new = None
        if part == "test":
            known, keys = texts_of(parts), parts.keys(part)
            new, notes = known.new(keys), [*notes, *known.notes(keys)]
        source = f"{table.source}, the mean answer of {len(runs)} seeds"
        together = judged(answered, source, new=new, baselines=found, notes=[*said, *notes])
    metrics = tuple(run.metrics[part] for run in runs)
    return kept(Repeats(folder, names, part, metrics, together, () if together else tuple(notes)))


def one(folder: Path, options: RunOptions, sources: Mapping[str, Source]) -> Run:
    """A training in `folder`: made, gone on with, or read where it is finished."""
    if (folder / "metrics.json").exists():
        scores = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        metrics = {part: found for part, found in scores.items() if isinstance(found, dict)}
        return Run(folder, load_yaml(folder / "run.yaml"), metrics)
    try:
        return go_on(folder, {}, sources) if folder.exists() else finetune(options, sources, folder)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(command("kitune", "train", "--resume", folder.parent)) from None
    except UserError as error:  # what it says of going on is true of all of them
        alone, all_of_them = (command("kitune", "train", "--resume", path) for path in (folder, folder.parent))
        raise UserError(error.problem, fix=error.fix.replace(alone, all_of_them)) from None


def folds(parts: Parts, count: int) -> Rows:
    """The fold of each row of train, (rows,) from 0: stratified and seeded, equal texts and groups in one."""
    from sklearn.model_selection import StratifiedGroupKFold

    table = parts.given["train"]
    unit = units(table, parts.columns)
    if unit.max() + 1 < count:
        raise UserError(f"{table.source}: fewer different texts or groups than {count} folds", fix="--folds with less")
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=parts.options.train.seed)
    stratum = strata(parts.labels_in(table))
    rare = np.bincount(stratum)[stratum] < count  # scikit-learn wants a row of each class in every fold
    stratum = np.where(rare, stratum.max() + 1, stratum)
    result = np.empty(len(table), dtype=np.int64)
    for number, (_, inside) in enumerate(splitter.split(np.zeros(len(table)), stratum, unit)):
        result[inside] = number
    return result


def rivals_of(
    run: Run, table: Table, parts: Parts, sources: Mapping[str, Source]
) -> tuple[dict[str, Answered], list[str]]:
    """What the baselines say of a table's rows, learned as one of the trainings has learned, and why one is missing."""
    options = run.options
    machine, max_length = connect(options.engine, alone=True), int(options.data.max_length)
    labels = parts.labels_in(table)
    return rivals(options, options, run.folder, table, labels, sources=sources, machine=machine, max_length=max_length)


def as_one(answered: Answered, of_folds: Sequence[tuple[Rows, Mapping[str, Answered]]]) -> dict[str, Answered]:
    """The baselines' answers to all folds, each row's from its own; of those that every fold has."""
    found: dict[str, Answered] = {}
    for name in of_folds[0][1]:
        if not all(name in one for _, one in of_folds):
            continue
        logits, threshold = np.empty(answered.logits.shape), np.full((len(answered), 1), 0.5)
        for inside, one in of_folds:
            logits[inside], threshold[inside] = one[name].logits, one[name].threshold
        found[name] = replace(answered, logits=logits, threshold=threshold)
    return found


def logits_in(run: Path, part: str, parts: Parts) -> NDArray[np.float32]:
    """Outputs as a run's answers to a part say them, (rows, outputs): logarithms of the probabilities, or the numbers."""
    table = pq.read_table(run / "predictions" / f"{part}.parquet")
    if parts.task == "regression":
        return np.asarray(table.column("prediction").to_numpy(), dtype=np.float32)[:, None]
    shares = np.stack([table.column(f"p({name})").to_numpy() for name in parts.names], axis=1)
    shares = np.clip(shares, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    return as_logits(shares, parts.task)


def as_logits(shares: NDArray[np.float64], task: TaskName) -> NDArray[np.float32]:
    """Outputs whose probabilities are these."""
    odds: Callable[..., Any] = np.log if task == "single-label" else lambda p: np.log(p / (1 - p))
    return np.asarray(odds(shares), dtype=np.float32)


def mean_answer(logits: Sequence[NDArray[np.float32]], task: TaskName) -> NDArray[np.float32]:
    """The mean probability of several models, as logits; of a regression the mean number."""
    if task == "regression":
        return np.asarray(np.mean(logits, axis=0), dtype=np.float32)
    answers = [Predictions(one, (), task).probabilities for one in logits]
    return as_logits(np.mean([one for one in answers if one is not None], axis=0), task)


def kept(repeats: Repeats) -> Repeats:
    """The same, when its scores are in the folder's metrics.json."""
    replace_file(repeats.folder / "metrics.json", as_json(repeats.as_json()))
    say(f"scores are in {repeats.folder / 'metrics.json'}")
    return repeats
