"""The findings about data for a model: made once for the same content, and those worth saying."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kitune.data.cache import cache_folder, content_key, made_once
from kitune.data.doctor import Case, Piece, examine
from kitune.data.encode import Encoded, tokenizer_content
from kitune.data.parts import Parts
from kitune.errors import UserError
from kitune.findings import Finding, in_order

# Raise it when a check changes, so that cached findings are made anew.
FORMAT = 2


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

    def make(folder: Path) -> None:
        found = [finding.as_json() for finding in examine(case)]
        (folder / "findings.json").write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")

    if not parts.options.engine.cache:
        return in_order([*parts.found, *examine(case)])
    contents = [f"{part} {table.source} {table.fingerprint(table.columns)}" for part, table in parts.given.items()]
    data = parts.options.data.model_dump_json()
    key = content_key(str(FORMAT), *contents, data, repr(parts.columns), tokenizer_content(tokenizer), str(max_length))
    folder = made_once(cache_folder() / "findings" / key, make)
    kept = json.loads((folder / "findings.json").read_text(encoding="utf-8"))
    return in_order([*parts.found, *map(Finding.from_json, kept)])


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
