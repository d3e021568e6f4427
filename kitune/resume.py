"""Going on with a run: what must not have changed, what may, and where it goes on."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kitune.config import FREE_AT_RESUME, Layout, RunOptions, dump_yaml, flat, yaml_line
from kitune.data.parts import Parts
from kitune.data.table import Table
from kitune.errors import UserError, command, numbered
from kitune.evaluate.own_metrics import OwnMetrics
from kitune.model.encoder import Pretrained
from kitune.run_folder import as_json, facts, replace_file, restore
from kitune.tasks import TASKS
from kitune.training.checkpoint import newest_whole, set_aside
from kitune.training.loop import NotFinite, State, Training


def refuse_changed_options(
    folder: Path, before: RunOptions, options: RunOptions, *, free: frozenset[str] = FREE_AT_RESUME
) -> None:
    """Refuse a resumption whose mathematics changed, naming the option.

    Args:
        free: what may change.
    """
    old, new = flat(before), flat(options)
    if settled := [name for name in old if new[name] == "auto" != old[name]]:
        raise UserError(
            f"{folder}: {settled[0]} was settled when the run began, at {old[settled[0]]}",
            fix="give a value, or leave it out",
        )
    # A path may differ: that the rows are the same is proved by their fingerprint.
    free |= {"data.train", "data.valid", "data.test"}
    changed = [name for name in old if old[name] != new[name] and name not in free]
    if changed:
        name = changed[0]
        raise UserError(
            f"{folder}: {name} was {old[name]!r} and is now {new[name]!r}, so this would be another training",
            fix=f"leave it out to go on, or {new_run(folder, options, name)}",
        )


# What a new run on the rows of an older one is told, as flags and as options.
FLAGS = ("data.label", "data.valid", "data.test", "task")
TOLD = (*Layout.model_fields, "id", "weight", "group", "label_separator", "limit", "long_texts")


def new_run(folder: Path, options: RunOptions, *changed: str) -> str:
    """How to start a new run on the same columns of the same files: from the weights of one, where it has some.

    Args:
        changed: options whose values are told too.
    """
    if not (folder / "best").is_dir():
        return "start anew with another --out"
    values, usual = flat(options), flat(RunOptions())
    told = [("--text", name) for name in options.data.text or ()]
    told += [(f"--{name.rpartition('.')[2]}", values[name]) for name in FLAGS if values[name] not in (None, "auto")]
    further = dict.fromkeys([f"data.{name}" for name in TOLD] + [name for name in changed if name not in FLAGS])
    told += [
        ("--set", f"{name}={yaml_line(values[name])}")
        for name in further
        if name in changed or values[name] != usual[name]
    ]
    words = [word for pair in told for word in pair]
    data = options.data.train or "DATA"
    return f"start a new run from this one's weights: {command('kitune', 'train', data, '--model', folder, *words)}"


def refuse_changed_data(folder: Path, record: Mapping[str, Any], parts: Parts) -> None:
    """Refuse a resumption on other rows, naming the part and its file."""
    fingerprints = parts.fingerprints()
    for part in sorted(set(fingerprints) | set(record["data"])):
        if record["data"].get(part) != fingerprints.get(part):
            table = parts.tables.get(part)
            source = table.source if table is not None else "none"
            raise UserError(
                f"{folder}: the {part} rows ({source}) are not those that it was trained on",
                fix=f"put the old data back to go on, or {new_run(folder, parts.options)}",
            )


def refuse_changed_model(folder: Path, record: Mapping[str, Any], pretrained: Pretrained) -> None:
    """Refuse a resumption from another base model, wherever it lies now."""
    now = pretrained.fingerprints()
    for what, fingerprint in record["model"].items():
        if now[what] != fingerprint:
            raise UserError(
                f"{folder}: the {what} of the base model in {pretrained.folder} is not what the run began with",
                fix="put the old model back, or name its place with --model",
            )


def refuse_changed_metrics(
    folder: Path, record: Mapping[str, Any], options: RunOptions, own: OwnMetrics | None
) -> None:
    """Refuse a resumption without the user's metrics, or with others where they choose the best weights."""
    before = record.get("compute_metrics")
    if before is not None and own is None:
        problem = f"{folder}: it was trained with metrics of your own" + ("" if before else ", a function in Python")
        there = f"resume there: kitune.train(resume={str(folder)!r}, compute_metrics=...)"
        raise UserError(problem, fix="do not unset train.compute_metrics" if before else there)
    if not before or own is None or own.digest == before:
        return
    assert options.task != "auto"
    best, built_in = options.train.best_metric, {"loss", *TASKS[options.task].headline}
    if best not in built_in or best in own.names(options.task, len(options.data.labels or ())):
        raise UserError(
            f"{folder}: {own.place} is not what it was when the run began",
            fix=f"put the old file back to go on, or {new_run(folder, options)}",
        )


# What else than the last bits may differ where these do: masks are drawn in another order, rows too.
CONSEQUENCES = {"path": "dropout differs", "numpy": "the order of the rows may differ"}


def differences(record: Mapping[str, Any], training: Training) -> list[str]:
    """What is not as it was when the run began: allowed, but then the last bits may differ, or more."""
    before, now = record, facts(training.machine, training.path)
    return [
        f"{name}: now {now[section].get(name)}, before {value}: {CONSEQUENCES.get(name, 'the last bits may differ')}"
        for section in ("versions", "machine")
        for name, value in before[section].items()
        if name != "system" and now[section].get(name) != value
    ]


def note_resumption(folder: Path, record: dict[str, Any], options: RunOptions, training: Training) -> None:
    """Say what differs, and put this resumption into record.json and its options into run.yaml."""
    machine = training.machine
    changed = differences(record, training)
    for sentence in changed:
        machine.say(sentence)
    if machine.is_first:
        entry = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "epochs": options.train.epochs,
            "differs": changed,
        }
        replace_file(folder / "record.json", as_json({**record, "resumed": [*record["resumed"], entry]}))
        replace_file(folder / "run.yaml", dump_yaml(options))


def restored(folder: Path, training: Training) -> State:
    """The state of the newest whole checkpoint; of the very start where the run ended before its first one."""
    machine, options = training.machine, training.options
    found = newest_whole(folder / "checkpoints")
    for passed_over in found.passed_over:
        machine.say(f"passed over {passed_over}")
    fresh = State(peak=float(options.learning_rate), planned_epochs=training.epochs.count)
    if found.folder is None:
        if found.passed_over:
            raise UserError(
                f"{folder}: none of its {numbered(len(found.passed_over), 'checkpoint')} is whole",
                fix=f"to begin this run again: {command('rm', '-r', folder / 'checkpoints')}, then resume",
            )
        machine.say(f"{folder} has no checkpoint yet: it begins at step 0")
        return fresh
    state = restore(found.folder, training)
    planned, epochs = state.planned_epochs, training.epochs
    total = epochs.total_steps
    if state.step > total:
        raise UserError(
            f"{folder}: {state.step:,} steps are done, more than the {total:,} of {numbered(epochs.count, 'epoch')}",
            fix=command("kitune", "train", "--resume", folder, "--set", "train.epochs=N") + " with a larger N",
        )
    # Whether it had come to its end, though it may have been killed before it said so.
    ended = state.stopped or (0 < planned <= epochs.count and state.step == epochs.ends[planned - 1])
    if ended and epochs.count != planned and 0 < state.step < total:
        state.decay_from, state.peak = state.step, float(options.resume_learning_rate)
        state.stopped, state.waiting = False, 0
        machine.say(f"the finished run gets {total - state.step:,} more steps, from a rate of {state.peak:g} down")
    elif ended:
        why = "patience ended it" if state.stopped else f"{numbered(planned, 'epoch')} are done"
        machine.say(f"nothing is left to train ({why}); --set train.epochs=N gives it more")
    else:
        machine.say(f"on from {found.folder.name} of {total:,} steps, peak rate {state.peak:g}")
    state.planned_epochs = epochs.count
    if machine.is_first:
        set_aside(folder / "checkpoints", state.step)
    return state


def not_finite(found: NotFinite, table: Table, folder: Path, options: RunOptions) -> UserError:
    """The error for a loss or gradient that is no number, with the places of the update's rows."""
    places = ", ".join(table.where(int(row)) for row in sorted(found.rows)[:8])
    more = f" and {len(found.rows) - 8} more" if len(found.rows) > 8 else ""
    again = [*([] if options.data.train else ["DATA"]), "--config", folder / "run.yaml"]
    return UserError(
        f"step {found.step}: loss {found.loss:g}, gradient norm {found.gradient_norm:g} at learning rate "
        f"{found.learning_rate:.2g}; the update was not made. Its rows: {places}{more}",
        fix=f"look at these rows; {command('kitune', 'train', '--resume', folder)} goes on from the last checkpoint, "
        + command(
            "kitune", "train", *again, "--set", f"train.learning_rate={float(options.train.learning_rate) / 2:.1g}"
        )
        + " starts again with a lower rate",
    )
