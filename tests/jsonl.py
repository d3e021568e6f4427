"""Rows of a test in a file."""

import json
from pathlib import Path
from typing import Any


def write_rows(path: Path, made: list[dict[str, Any]]) -> Path:
    """JSON lines: any text as it is."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made), encoding="utf-8")
    return path
