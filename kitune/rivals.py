"""The baselines of a model, learned from the rows that it learned from."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kitune.config import RunOptions
from kitune.data.long_texts import LongTexts
from kitune.data.parts import Parts, read_parts
from kitune.data.read import Source
from kitune.data.split import text_keys
from kitune.data.table import Table
from kitune.errors import UserError, numbered
from kitune.evaluate.baselines import bag_of_words, frozen_probe, learned, majority
from kitune.evaluate.linear import Labels
from kitune.evaluate.measures import Answered
from kitune.inference import load_to_embed
from kitune.model.encoder import model_folder
from kitune.run_folder import read_record
from kitune.training.devices import Machine

# Multiplications that the frozen probe's rows may take: half a minute on a few cores with bf16.
MOST_WORK = 2e13


def rivals(
    options: RunOptions,
    run: RunOptions | None,
    folder: Path,
    table: Table,
    labels: Labels,
    *,
    sources: Mapping[str, Source],
    machine: Machine,
    max_length: int,
    told: bool = False,
) -> tuple[dict[str, Answered], list[str]]:
    """What the baselines say of the rows of `table`, by their names, and why one is missing.

    Args:
        options: the model's task, columns and label names.
        run: the options of the run that the model is of; None for a model from elsewhere.
        folder: of the run.
        sources: the rows to learn from (train) and to be chosen on (valid, else a part of train), where the run's own are
            in no file.
        told: the user named them.

    Raises:
        UserError: such rows are nowhere, or are not what they should be.
    """
    try:
        parts = rows_learned(options, run, folder, sources)
    except UserError as error:
        if told:
            raise
        return {}, [f"no baselines: {error.problem}"]
    assert options.data.text is not None
    text = parts.columns.text  # what is evaluated may call its columns otherwise
    named = table.data.select(list(options.data.text)).rename_columns(list(text))
    rows = learned(parts, Table(named, table.source), labels, text)
    machine.say(f"learning baselines from {len(rows.tables['train']):,} rows")

    def probe() -> Answered:
        if run is None:
            raise UserError("it is not known which model this one was trained from", fix="evaluate a run")
        folder, long_texts = model_folder(run.model, run.revision), LongTexts.asked(options.data)
        embed = load_to_embed(folder, run.engine, machine, max_length=max_length, long_texts=long_texts)
        counts = {part: len(rows.tables[part]) for part in ("train", "valid")}
        share = MOST_WORK / (embed.work(rows.tables["train"], rows.text) * sum(counts.values()))
        if share >= 1:
            return frozen_probe(rows, embed)
        some = rows.at_most({part: max(2, int(share * n)) for part, n in counts.items()}, options.train.seed)
        notes.append(
            f"the frozen probe learns from {numbered(len(some.tables['train']), 'row')}: more would take minutes"
        )
        return frozen_probe(some, embed)

    found: dict[str, Answered] = {"majority": majority(rows)}
    notes: list[str] = []
    if run is None:  # of a run it is known which texts are new, and only those are compared
        known = int(np.isin(text_keys(rows.tables["test"], text), parts.given_keys["train"]).sum())
        if known:
            notes.append(f"the baselines learn from {numbered(known, 'row')} of these, which flatters them")
    for name, learn in {"TF-IDF": lambda: bag_of_words(rows), "frozen probe": probe}.items():
        try:
            found[name] = learn()
        except (UserError, ValueError) as error:  # scikit-learn: texts without words, a single class
            notes.append(f"no {name}: {error.problem if isinstance(error, UserError) else error}")
    return found, notes


def rows_learned(options: RunOptions, run: RunOptions | None, folder: Path, sources: Mapping[str, Source]) -> Parts:
    """Train and valid as the run had them, or cut from the rows that were given.

    Raises:
        UserError: they are nowhere, or are not what they were.
    """
    if sources:
        told = options.data.model_copy(update={"train": None, "valid": None, "test": None})
        return read_parts(options.model_copy(update={"data": told}), sources)[0]
    if run is None or run.data.train is None:
        where = "the run learned from rows in Python" if run else "it is not known what the model learned from"
        raise UserError(f"{where}; --train FILE names it, or model.evaluate(data, train=rows)", fix="give them")
    parts, _ = read_parts(run.model_copy(update={"data": run.data.model_copy(update={"test": None})}), {})
    record = read_record(folder)
    if "valid" in record.get("given", ()) and "valid" not in parts.given:
        raise UserError(
            "the run's validation rows came from Python; --train FILE names rows to learn from", fix="name it"
        )
    before, now = record["data"], parts.fingerprints()
    if any(before.get(part) != now[part] for part in ("train", "valid")):
        raise UserError(f"{run.data.train}: its rows are not those that the run learned from", fix="put them back")
    return parts
