"""The main job, readable from top to bottom: from data to a run."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kitune.answers import write_predictions
from kitune.config import RunOptions, TaskName, load_yaml, with_values
from kitune.data.batches import padding_id
from kitune.data.encode import Encoded
from kitune.data.parts import Parts, named_sources, read_parts
from kitune.data.read import Source
from kitune.data.table import Rows
from kitune.diagnosis import examined
from kitune.errors import REFUSALS, UserError, command, numbered
from kitune.evaluate.evaluation import Evaluation, chance_line, dependence
from kitune.evaluate.measures import Answered
from kitune.evaluate.own_metrics import MetricsFunction, OwnMetrics, filled_ids, own_metrics
from kitune.evaluate.score import Predictions, outputs, plan_prediction, score, threshold_of
from kitune.inference import load_to_answer
from kitune.known import KnownTexts, known_texts
from kitune.metrics import Metrics, table_line
from kitune.model.engine import slow_down
from kitune.notebook import Block, Grid, Shown
from kitune.predict import Model, load
from kitune.prepare import asked, encode_parts, expected, lengths_in, network_for, settle, training_for
from kitune.resume import (
    not_finite,
    note_resumption,
    refuse_changed_data,
    refuse_changed_metrics,
    refuse_changed_model,
    refuse_changed_options,
    restored,
)
from kitune.run_folder import (
    Keeper,
    as_json,
    choose_folder,
    create,
    facts,
    mark_finished,
    only_one,
    read_record,
    require_writable,
    threshold_in,
)
from kitune.training.checkpoint import no_room
from kitune.training.devices import Machine, connect, memory_told
from kitune.training.journal import Journal
from kitune.training.loop import Interrupted, NotFinite, State, Training, fit

LESS_MEMORY = "--set train.accumulation=2, a shorter data.max_length, or --set engine.gradient_checkpointing=true"


@dataclass(frozen=True)
class Job:
    """What every stage of one training looks at.

    Attributes:
        folder: of the run.
        encoded: token ids, labels and weights of each part.
        options: as resolved.
        own: the user's metrics.
    """

    folder: Path
    parts: Parts
    encoded: Mapping[str, Encoded]
    options: RunOptions
    machine: Machine
    own: OwnMetrics | None


@dataclass(frozen=True)
class Run(Shown):
    """A finished training.

    Attributes:
        folder: where everything is; `run / "best"` is a path that `from_pretrained` loads.
        options: every option, as resolved.
        metrics: of `best/`: `{"valid": {...}, "test": {...}}`; test only where there was a test part.
    """

    folder: Path
    options: RunOptions
    metrics: Mapping[str, Metrics]

    def __truediv__(self, part: str) -> Path:
        return self.folder / part

    def __getstate__(self) -> dict[str, Any]:
        """Copied and pickled without the loaded model, which comes from the folder again."""
        return {name: value for name, value in vars(self).items() if name != "model"}

    @cached_property
    def model(self) -> Model:
        """The best model, loaded when it is first used."""
        return load(self.folder)

    def blocks(self) -> list[Block]:
        """Where it is, and its scores."""
        names = list(dict.fromkeys(name for scores in self.metrics.values() for name in scores))
        rows = [(part, *(scores.get(name) for name in names)) for part, scores in self.metrics.items()]
        return [f"run in {self.folder}", Grid(("best/ on", *names), rows)]

    def predict(self, data: Any) -> Predictions:
        """Answers for texts, pairs or a table, a row out for a row in, in the same order (see `Model.predict`)."""
        return self.model.predict(data)

    def evaluate(self, data: Source, **told: Any) -> Evaluation:
        """Every metric on labelled rows, with intervals and baselines (see `Model.evaluate`)."""
        return self.model.evaluate(data, **told)


def train(
    data: Source = None,
    *,
    model: "str | Path | Run | None" = None,
    out: str | Path | None = None,
    valid: Source = None,
    test: Source = None,
    text: str | Sequence[str] | None = None,
    label: str | None = None,
    task: TaskName | None = None,
    config: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    compute_metrics: MetricsFunction | None = None,
    resume: "str | Path | Run | None" = None,
) -> Run:
    """Fine-tune a pretrained text encoder on `data`.

    Args:
        data: a file, folder, address or hub name (docs/data.md has them all); a pandas, polars or Arrow frame; a
            `datasets.Dataset`; a `DatasetDict` or dict of parts (`train`, `validation` or `valid`, `test`); or a list of dicts.
        model: `starter` (the default), a folder, an earlier run, or a hub name.
        out: the new run's folder; without it a new name under runs/ is made, so that a notebook cell may run again.
        valid, test: as `data`; without `valid` a part of train is split off.
        text: the text column, or two for a pair; guessed where not given, and so are label and task.
        config: a YAML file with options.
        options: any others by name: `{"train.epochs": 3}`; `kitune train --options` lists them.
        compute_metrics: your own metrics, from a transformers `EvalPrediction` to numbers by name; as a file's path it is
            the option `train.compute_metrics`.
        resume: a run to go on with, after a crash or for more epochs; data that came as a file is read again.

    Returns:
        The finished run.

    Raises:
        UserError: a mistake that can be mended; it says what, where, and how.
    """
    base = load_yaml(Path(config)) if config is not None else RunOptions()
    sources, changes = asked((data, valid, test), model=model, text=text, label=label, task=task, options=options)
    if resume is not None:
        if config is not None or out is not None:
            raise UserError(
                "a run goes on in its own folder with its own options; config and out are for a new one",
                fix="leave them out; --set train.epochs=N gives it more epochs",
            )
        return go_on(resume.folder if isinstance(resume, Run) else Path(resume), changes, sources, compute_metrics)
    return finetune(with_values(base, changes, where="--set"), sources, out, compute_metrics)


def finetune(
    options: RunOptions,
    sources: Mapping[str, Source],
    out: str | Path | None,
    compute_metrics: MetricsFunction | None = None,
) -> Run:
    """A new run: everything that can be refused is refused before its folder is made."""
    own = own_metrics(options.train, compute_metrics)
    machine = connect(options.engine)
    say = machine.say
    folder = Path()
    if machine.is_first:
        require_writable(choose_folder(out))
    parts, said = read_parts(options, sources)
    for sentence in said:
        say(sentence)
    pretrained = network_for(parts)
    for sentence in pretrained.said:
        say(sentence)
    began = pretrained.fingerprints()
    lengths = lengths_in(parts, pretrained)
    resolved = settle(parts, pretrained, lengths, machine, own)
    encoded = encode_parts(parts, pretrained, resolved, machine)
    findings = examined(parts, pretrained, encoded, lengths, resolved, machine)
    train_options = resolved.train
    say(
        f"{machine.describe()}; learning rate {train_options.learning_rate:g}, "
        + (
            f"{train_options.batch_tokens:,} tokens"
            if train_options.batch_tokens
            else f"{train_options.batch_rows} rows"
        )
        + f" a step, {numbered(int(train_options.epochs), 'epoch')}"
        + (f", patience {train_options.patience}" if train_options.patience else "")
    )
    training = training_for(parts, pretrained, encoded, resolved, machine)
    try:
        forecast = expected(training, encoded, resolved)
    except (OSError, MemoryError, RuntimeError) as error:
        if (told := memory_told(error)) is None:
            raise
        raise UserError(f"{told}, at the first updates", fix=f"free some, or {LESS_MEMORY}") from None
    for finding in forecast:
        say(f"it takes {finding.says}")
    machine.meet()
    if machine.is_first:
        commits = {"model": pretrained.commit, **{part: table.commit for part, table in parts.tables.items()}}
        record = {
            **facts(machine, training.path),
            "model": began,
            "data": parts.fingerprints(),
            "given": sorted(parts.given),
            "compute_metrics": own.digest if own else None,
            "commits": {name: commit for name, commit in commits.items() if commit},
            "resumed": [],
        }
        folder = create(out, resolved, record)
        (folder / "findings.json").write_text(
            as_json([finding.as_json() for finding in findings + forecast]), encoding="utf-8"
        )
    job = Job(Path(agree(machine, str(folder))), parts, encoded, resolved, machine, own)
    with explained(job):
        state = learn(job, training, pretrained.tokenizer, record=None)
        del training, pretrained
        return finish(job, state)


def go_on(
    folder: Path,
    changes: Mapping[str, Any],
    sources: Mapping[str, Source],
    compute_metrics: MetricsFunction | None = None,
) -> Run:
    """Resume a run, with more epochs where they are asked for; refuses one whose data or mathematics changed."""
    record = read_record(folder)
    before = load_yaml(folder / "run.yaml")
    options = with_values(before, changes, where="--set")
    refuse_changed_options(folder, before, options)
    own = own_metrics(options.train, compute_metrics)
    refuse_changed_metrics(folder, record, before, own)
    machine = connect(options.engine)
    given = {part: source for part, source in named_sources(options, sources).items() if source is not None}
    if "train" not in given:
        raise UserError(
            f"{folder}: its rows came from Python and are in no file",
            fix=f"resume there: kitune.train(data, resume={str(folder)!r})",
        )
    parts, _ = read_parts(options, given)
    if lacking := [part for part in record.get("given", ()) if part not in parts.given]:
        raise UserError(
            f"{folder}: it was begun with {lacking[0]} rows, and none are given now",
            fix=f"give them: --{lacking[0]} FILE, or in Python kitune.train({lacking[0]}=..., resume={str(folder)!r})",
        )
    refuse_changed_data(folder, record, parts)
    pretrained = network_for(parts)
    refuse_changed_model(folder, record, pretrained)
    encoded = encode_parts(parts, pretrained, options, machine)
    training = training_for(parts, pretrained, encoded, options, machine)
    job = Job(folder, parts, encoded, options, machine, own)
    with explained(job):
        state = learn(job, training, pretrained.tokenizer, record=record)
        del training, pretrained
        return finish(job, state)


@contextmanager
def explained(job: Job) -> Iterator[None]:
    """Nobody else works in the run's folder meanwhile, and what ends the work early ends it with a sentence."""
    folder = job.folder
    with only_one(folder) if job.machine.is_first else nullcontext():
        try:
            yield
        except NotFinite as found:
            raise not_finite(found, job.parts.tables["train"], folder, job.options) from None
        except (Interrupted, KeyboardInterrupt):
            raise KeyboardInterrupt(command("kitune", "train", "--resume", folder)) from None
        except (OSError, MemoryError, RuntimeError) as error:
            if (told := memory_told(error)) is not None:
                again = f"free some, then {command('kitune', 'train', '--resume', folder)}; or start anew with "
                raise UserError(f"{folder}: {told}", fix=again + LESS_MEMORY) from None
            if not isinstance(error, OSError) or error.errno not in REFUSALS:
                raise
            raise no_room(folder, error.strerror or str(error)) from None


def learn(job: Job, training: Training, tokenizer: Any, *, record: dict[str, Any] | None) -> State:
    """Fit from the start, or, where the `record` of an earlier start is given, from the newest whole checkpoint."""
    folder, options, machine = job.folder, job.options, job.machine
    keeper = Keeper(folder, options, training, tokenizer) if machine.is_first else None
    machine.meet()
    if record is None:
        state = State(peak=float(options.train.learning_rate), planned_epochs=training.epochs.count)
    else:
        state = restored(folder, training)
        note_resumption(folder, record, options, training)
        if machine.is_first and state.step < training.epochs.total_steps and not state.stopped:
            (folder / "metrics.json").unlink(missing_ok=True)  # the mark of an end that is no longer one
    journal = Journal(folder, writes=machine.is_first, step=state.step)
    try:
        journal.write_log(state.log)
        train_network(job, training, state, journal, keeper)
    finally:
        journal.close()
    slow_down(training.network)  # so that what only learning needs can go before the best weights come
    return state


def train_network(job: Job, training: Training, state: State, journal: Journal, keeper: Keeper | None) -> None:
    """Fit, with the validation part scored and the state saved whenever the loop asks for it."""
    machine, valid = job.machine, job.encoded["valid"]
    labels = valid.labels
    assert labels is not None
    latest: Metrics = {}

    def evaluate(epoch: int) -> Metrics:
        batches = len(plan_prediction(valid.sequences().lengths)[machine.rank :: machine.world_size])
        journal.begin(epoch, "VALID", batches)
        logits = outputs(training.network, valid, pad_id=training.pad_id, machine=machine, advance=journal.advance)
        journal.end()
        if training.label_scale is not None:
            logits = training.label_scale.told(logits)
        threshold = threshold_of(job.parts.task, logits, labels)
        metrics = scored(job, "valid", logits, threshold, best=training.options.best_metric)
        metrics = dict(machine.gather([metrics])[0])  # metrics that draw at random would part the processes
        latest.update(metrics, threshold=threshold)
        return metrics

    def save(state: State, improved: bool) -> None:
        if keeper is not None:
            last = state.stopped or state.step in training.epochs.ends or not training.epochs.ends
            keeper.save(state, {"step": state.step, **latest}, best=improved, last=last)

    try:
        fit(training, state, journal, evaluate=evaluate, save=save)
        if state.best_step is None:  # no epochs at all, or no score that was a number
            evaluate(0)
            save(state, True)
    finally:
        if keeper is not None:
            keeper.wait()


def finish(job: Job, state: State) -> Run:
    """Score the best weights on valid and, once, on test; write the predictions; say where everything is."""
    folder, parts, encoded, machine = job.folder, job.parts, job.encoded, job.machine
    machine.meet()  # best/ is on the disk
    threshold = threshold_in(folder / "best")
    metrics: dict[str, Metrics] = {}
    known = texts_of(parts)
    if machine.is_first:
        known.save(folder)
    # What is read here is what predict will say.
    answering = load_to_answer(folder / "best", parts.task, parts.names, job.options.engine, machine)
    pad_id = padding_id(answering.tokenizer, answering.network)
    for part in ("valid", "test"):
        if part not in encoded:
            continue
        logits = outputs(answering.network, encoded[part], pad_id=pad_id, machine=machine)
        metrics[part] = scored(job, part, logits, threshold)
        if machine.is_first:
            answers = Predictions(logits, parts.names, parts.task, threshold)
            target = folder / "predictions" / f"{part}.parquet"
            write_predictions(answers, parts.tables[part], target, columns=parts.columns_in(part), probabilities=True)
        names = tuple(metrics[part])
        machine.say(f"best/ on {part} ({numbered(len(logits), 'row')}): {table_line(metrics[part], names)}")
        labels = encoded[part].labels
        assert labels is not None
        groups = dependence(parts.tables[part], parts.columns.group)
        if chance := chance_line(Answered(parts.task, logits, labels, parts.names, threshold, groups)):
            machine.say(f"  {chance}" + ("; these chose the weights" if part == "valid" else ""))
        new = known.new(parts.keys(part))
        if new is not None and len(new):
            metrics[f"{part}_new"] = scored(job, part, logits, threshold, rows=new)
            line = table_line(metrics[f"{part}_new"], names)
            machine.say(f"  without the {numbered(len(logits) - len(new), 'row')} whose text it was trained on: {line}")
    if machine.is_first:
        mark_finished(folder, state, metrics)
    machine.say(
        f"the run is in {folder}; use it with {command('kitune', 'predict', folder, 'DATA', '--out', 'FILE.csv')}",
    )
    return Run(folder, job.options, metrics)


def texts_of(parts: Parts) -> KnownTexts:
    """The texts that a run is made with, those of the run that it goes on from among them."""
    trained = np.unique(parts.given_keys["train"])
    chose = parts.keys("valid") if "valid" in parts.given else trained[:0]
    model = Path(parts.options.model)
    for run in (model, model.parent) if model.is_dir() else ():  # a run, or a folder of weights in one
        if (earlier := known_texts(run)) is not None:
            trained, chose = np.union1d(trained, earlier.trained), np.union1d(chose, earlier.choosing)
    return KnownTexts(trained, np.setdiff1d(chose, trained))


def scored(
    job: Job,
    part: str,
    logits: NDArray[np.float32],
    threshold: float,
    *,
    best: str | None = None,
    rows: Rows | None = None,
) -> Metrics:
    """The loss, the task's metrics, and the user's own, of a part.

    A function of the user's that fails is left out, aloud, so that nothing that was trained is lost.

    Args:
        best: the metric that chooses the weights: without it the training cannot go on.
        rows: some of the part's, and not by the user's own metrics, which a handful may be too few for.
    """
    encoded, task = job.encoded[part], job.parts.task
    labels = encoded.labels
    assert labels is not None
    if rows is not None:
        return score(task, logits[rows], labels[rows], threshold=threshold)
    metrics = score(task, logits, labels, threshold=threshold)
    if job.own is None:
        return metrics
    try:
        return metrics | job.own(task, logits, labels, lambda: filled_ids(encoded))
    except UserError as error:
        if best is not None and best not in metrics:
            raise
        job.machine.say(f"{error.problem}: left out")
        return metrics


def agree(machine: Machine, value: str) -> str:
    """The first process's `value`, on every process."""
    return str(machine.gather([value])[0])
