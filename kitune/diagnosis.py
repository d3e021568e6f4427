"""The doctor: what is wrong with the data for this model, before a training and when it is asked."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kitune.config import RunOptions, TaskName, load_yaml, with_values
from kitune.data.cache import content_key, kept_json
from kitune.data.doctor import Case, Piece, examine
from kitune.data.encode import Encoded, tokenizer_content
from kitune.data.labels import nothing_to_learn
from kitune.data.parts import Parts, read_parts
from kitune.data.read import Source
from kitune.errors import UserError
from kitune.evaluate.own_metrics import own_metrics
from kitune.findings import Finding, allowing, in_order
from kitune.model.encoder import Pretrained
from kitune.notebook import Block, Grid, Shown
from kitune.prepare import asked, encode_parts, expected, lengths_in, network_for, settle, training_for
from kitune.training.devices import Machine, connect

# Raise it when a check changes, so that cached findings are made anew.
FORMAT = 6


class Findings(tuple[Finding, ...], Shown):
    """What the doctor found, the severe ones first."""

    def blocks(self) -> list[Block]:
        return [Grid(("", "finding", "fix"), [(found.severity, found.line(), found.fix) for found in self])]


def doctor(
    data: Source,
    *,
    model: Any = None,
    valid: Source = None,
    test: Source = None,
    text: str | Sequence[str] | None = None,
    label: str | None = None,
    task: TaskName | None = None,
    config: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> Findings:
    """Find what is wrong with `data` for a model, before a training; the arguments mean what they mean there.

    Raises:
        UserError: there is no such file or model, or no column can be chosen.
    """
    sources, changes = asked((data, valid, test), model=model, text=text, label=label, task=task, options=options)
    told = with_values(RunOptions() if config is None else load_yaml(Path(config)), changes)
    return Findings(finding for finding in diagnose(told, sources) if finding.code not in told.doctor.allow)


def diagnose(options: RunOptions, sources: Mapping[str, Source]) -> list[Finding]:
    """Every finding about a data set for a model, the severe ones first, and what a training would take.

    All that a training does before its first step, and nothing of it is kept but the caches.

    Args:
        sources: by part: train, valid, test.

    Raises:
        UserError: there is no such file or model, or no column can be chosen.
    """
    machine = connect(options.engine, alone=True)
    try:
        parts, said = read_parts(options, sources, examined=True)
    except UserError as error:
        if error.in_rows:
            return [Finding("unreadable", error.problem, error.fix)]
        raise
    for sentence in said:
        machine.say(sentence)
    if nothing_to_learn(parts.task, parts.names):
        return in_order([*parts.found, *examine(Case(parts))])
    pretrained = network_for(parts)
    lengths = lengths_in(parts, pretrained)
    resolved = settle(parts, pretrained, lengths, machine, own_metrics(options.train, None))
    encoded = encode_parts(parts, pretrained, resolved, machine)
    findings = findings_of(parts, encoded, pretrained.tokenizer, lengths, int(resolved.data.max_length))
    allowed = options.doctor.allow
    if "estimate" in allowed or any(found.severity == "error" and found.code not in allowed for found in findings):
        return findings
    training = training_for(parts, pretrained, encoded, resolved, machine)
    return findings + expected(training, encoded, resolved)


def examined(
    parts: Parts,
    pretrained: Pretrained,
    encoded: Mapping[str, Encoded],
    lengths: NDArray[np.int64],
    options: RunOptions,
    machine: Machine,
) -> list[Finding]:
    """What the doctor finds, said by the first process; an error ends every process with the same sentence."""
    max_length = options.data.max_length
    assert isinstance(max_length, int)
    findings = machine.first_makes(lambda: findings_of(parts, encoded, pretrained.tokenizer, lengths, max_length))
    for finding in worth_saying(findings, options.doctor.allow):
        machine.say(f"{finding.severity}: {finding.line()}")
    return findings


def findings_of(
    parts: Parts, encoded: Mapping[str, Encoded], tokenizer: Any, full_lengths: NDArray[np.int64], max_length: int
) -> list[Finding]:
    """The findings about encoded parts; kept in the cache by the content of everything that decides them."""
    cut = parts.cut.rows if parts.cut else {}
    pieces = {part: [Piece(ids, np.arange(len(ids)))] for part, ids in encoded.items() if part not in cut}
    if cut:
        pieces["train"] = [Piece(encoded[part], rows) for part, rows in cut.items()]
    special_ids = frozenset(tokenizer.all_special_ids)
    added = tokenizer.num_special_tokens_to_add(pair=len(parts.columns.text) == 2)
    case = Case(parts, pieces, full_lengths, max_length, added, tokenizer.unk_token_id, special_ids)

    if not parts.options.engine.cache:
        return in_order([*parts.found, *examine(case)])
    contents = [f"{part} {table.source} {table.fingerprint(table.columns)}" for part, table in parts.given.items()]
    lines = [table.lines for table in parts.given.values() if table.lines is not None]  # which the findings name
    contents += [sha256(of_part.tobytes()).hexdigest() for of_part in lines]
    data = parts.options.data.model_dump_json()
    key = content_key(
        str(FORMAT), *contents, data, parts.task, repr(parts.columns), tokenizer_content(tokenizer), str(max_length)
    )
    kept = kept_json("findings", key, lambda: [finding.as_json() for finding in examine(case)])
    return in_order([*parts.found, *map(Finding.from_json, kept)])


def worth_saying(findings: Sequence[Finding], allow: Sequence[str]) -> list[Finding]:
    """Errors and warnings that are not allowed.

    Raises:
        UserError: an error is among them.
    """
    said = [finding for finding in findings if finding.severity != "note" and finding.code not in allow]
    for finding in said:
        if finding.severity == "error":
            raise UserError(finding.line(), fix=f"{finding.fix}; or {allowing(finding.code, allow)}")
    return said
