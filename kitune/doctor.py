"""The doctor: what is wrong with the data for this model, before a training and as a command."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kitune.config import RunOptions
from kitune.data.cache import cache_folder, content_key, made_once
from kitune.data.doctor import Case, Piece, examine
from kitune.data.encode import Encoded, choose_max_length, encode, sample_lengths, tokenizer_content
from kitune.data.labels import label_names
from kitune.data.parts import Parts, read_parts
from kitune.data.read import Source
from kitune.data.table import Table
from kitune.errors import UserError
from kitune.findings import CODES, SEVERITIES, Finding
from kitune.model.encoder import load_config, load_tokenizer, model_folder, most_tokens, shape_of

# Raise it when a check changes, so that cached findings are made anew.
FORMAT = 1


def diagnose(options: RunOptions, sources: Mapping[str, Source]) -> tuple[list[Finding], list[str]]:
    """Every finding about a data set for a model, the severe ones first, and what was guessed on the way.

    Args:
        sources: by part: train, valid, test.

    Raises:
        UserError: there is no such file or model, or no column can be chosen.
    """
    try:
        parts, said = read_parts(options, sources, examined=True)
    except UserError as error:
        if error.in_rows:
            return [Finding("unreadable", error.problem, error.fix)], []
        raise
    if len(parts.names) < 2 and parts.task == "single-label":
        case = Case(parts.tables, parts.columns, parts.task, parts.names, options.data.label_separator)
        return in_order([*parts.found, *examine(case)]), said
    folder = model_folder(options.model, options.revision)
    tokenizer = load_tokenizer(folder)
    most = most_tokens(shape_of(load_config(folder)), tokenizer, from_run=(folder / "run.yaml").exists())
    full = sample_lengths(parts.tables["train"], parts.columns.text, tokenizer)
    told = options.data.max_length
    max_length = choose_max_length(full, most) if told == "auto" else min(told, most)
    tokenizer.model_max_length = max_length
    encoded = {
        part: encode(table, parts.columns.text, tokenizer, max_length=max_length, cache=options.engine.cache)
        for part, table in parts.tables.items()
    }
    return findings_of(parts, encoded, tokenizer, full, max_length), said


def findings_of(
    parts: Parts, encoded: Mapping[str, Encoded], tokenizer: Any, full_lengths: NDArray[np.int64], max_length: int
) -> list[Finding]:
    """The findings about encoded parts; kept in the cache by the content of everything that decides them."""
    if parts.whole is None or parts.cut is None:
        tables = dict(parts.tables)
        pieces = {part: [Piece(ids, np.arange(len(ids)))] for part, ids in encoded.items()}
    else:
        tables = {"train": parts.whole} | {part: table for part, table in parts.tables.items() if part == "test"}
        cut = zip(("train", "valid"), parts.cut, strict=True)
        pieces = {"train": [Piece(encoded[part], rows) for part, rows in cut]}
        pieces |= {
            part: [Piece(encoded[part], np.arange(len(table)))] for part, table in tables.items() if part == "test"
        }
    case = Case(
        tables,
        parts.columns,
        parts.task,
        label_names_of(parts, tables["train"]),
        parts.options.data.label_separator,
        pieces,
        len(parts.tables["valid"]),
        full_lengths,
        max_length,
        tokenizer.unk_token_id,
        frozenset(tokenizer.all_special_ids),
    )

    def make(folder: Path) -> None:
        found = [finding.as_json() for finding in examine(case)]
        (folder / "findings.json").write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")

    if not parts.options.engine.cache:
        return in_order([*parts.found, *examine(case)])
    contents = [f"{part} {table.source} {table.fingerprint(table.columns)}" for part, table in tables.items()]
    data = parts.options.data.model_dump_json()
    key = content_key(str(FORMAT), *contents, data, repr(parts.columns), tokenizer_content(tokenizer), str(max_length))
    folder = made_once(cache_folder() / "findings" / key, make)
    kept = json.loads((folder / "findings.json").read_text(encoding="utf-8"))
    return in_order([*parts.found, *map(Finding.from_json, kept)])


def label_names_of(parts: Parts, train: Table) -> tuple[str, ...]:
    """The label names that train holds."""
    assert parts.columns.label is not None
    if parts.task == "regression":
        return parts.names
    return label_names(parts.task, train.values(parts.columns.label), parts.options.data.label_separator)


def in_order(findings: Sequence[Finding]) -> list[Finding]:
    """The severe ones first, each severity in the order of the table of codes."""
    codes = list(CODES)
    return sorted(findings, key=lambda finding: (SEVERITIES.index(finding.severity), codes.index(finding.code)))


def worth_saying(findings: Sequence[Finding], allow: Sequence[str]) -> list[Finding]:
    """Errors and warnings that are not allowed.

    Raises:
        UserError: an error is among them.
    """
    said = [finding for finding in findings if finding.severity != "note" and finding.code not in allow]
    for finding in said:
        if finding.severity == "error":
            raise UserError(finding.line(), fix=f"{finding.fix}; or --set 'doctor.allow=[{finding.code}]'")
    return said
