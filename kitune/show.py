"""Tables and findings in a terminal, a pipe or a notebook: right in 80 columns, wide characters aligned, in any encoding."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from io import TextIOWrapper
from typing import Any

from rich.cells import cell_len
from rich.console import Console, OverflowMethod
from rich.table import Table as Grid
from rich.text import Text

from kitune.findings import Finding
from kitune.inspect import DataFacts

COLOURS = {"error": "bold red", "warning": "yellow", "note": "cyan"}
# A pipe has no width: what is written there is read in a terminal in the end.
PIPE_WIDTH = 80
# Columns are never made narrower than this, where a wider one can be.
NEVER_CUT = 14


def console() -> Console:
    """Standard output as rich writes to it; characters that its encoding lacks become question marks."""
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")
    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False, soft_wrap=False)


def show_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table; numbers stand to the right, and long texts are cut at the end of the line."""
    out, rows = console(), list(rows)
    words = [[in_words(cell) for cell in row] for row in rows]
    overflow: OverflowMethod = "ellipsis" if has_dots(out.encoding) else "crop"
    grid = Grid(box=None, padding=(0, 2, 0, 0), show_header=any(header), header_style="bold")
    for number, name in enumerate(header):
        numeric = bool(rows) and all(isinstance(row[number], int | float) for row in rows)
        natural = max(cell_len(cell) for cell in (name, *(row[number] for row in words)))
        grid.add_column(
            name,
            justify="right" if numeric else "left",
            no_wrap=True,
            overflow=overflow,
            min_width=min(natural, NEVER_CUT),
        )
    for row in words:
        grid.add_row(*map(Text, row))
    out.print(grid)


def has_dots(encoding: str) -> bool:
    """Whether an encoding has the character for three dots."""
    try:
        "…".encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def in_words(cell: Any) -> str:
    """A cell on one line."""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:.4g}"
    return " ".join(str(cell).split()) if cell is not None else ""


def show_json(value: Any) -> None:
    """JSON on standard output, in characters that its encoding has."""
    text = json.dumps(value, ensure_ascii=False, indent=2, default=str)
    try:
        print(text)
    except UnicodeEncodeError:
        print(json.dumps(value, indent=2, default=str))


def show_data(facts: DataFacts) -> None:
    """A data set: its parts, columns, labels and first rows."""
    out = console()
    out.print(f"{facts.source}: {facts.rows:,} rows, {len(facts.columns)} columns", soft_wrap=True)
    if facts.splits:
        out.print("parts: " + ", ".join(f"{part} {rows:,}" for part, rows in facts.splits.items()))
    for note in facts.notes:
        out.print(note, soft_wrap=True)
    out.print()
    header = ("column", "type", "filled", "different", "characters (least, quartiles, most)")
    rows = []
    for column in facts.columns:
        sizes = "  ".join(f"{size:,}" for size in column.get("characters", ()))
        rows.append(
            (column["name"] or "(no name)", column["type"], column["filled"], column.get("different", ""), sizes)
        )
    show_table(header, rows)
    if facts.label is not None:
        out.print(f"\ntask: {facts.task}; label: {facts.label}; text: {' and '.join(facts.text)}")
    if facts.labels:
        whole = max(1, sum(facts.labels.values()))
        show_table(("label", "rows", "share"), [(name, n, f"{n / whole:.1%}") for name, n in facts.labels.items()])
    for number, row in enumerate(facts.first):
        out.print(f"\nrow {number}")
        show_table(("", ""), [(f"  {name or '(no name)'}", value) for name, value in row.items()])


def show_model(facts: Mapping[str, Any]) -> None:
    """A model, a fact a line."""
    rows = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            rows += [(f"  {part}", number) for part, number in value.items()]
        elif value not in (None, []):
            rows.append((name, ", ".join(value) if isinstance(value, list) else value))
    show_table(("", ""), [(name, in_words(value)) for name, value in rows])


def in_bytes(size: int) -> str:
    """`1.3 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000  # type: ignore[assignment]
    return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"


def show_findings(findings: Sequence[Finding]) -> None:
    """Each finding with its places and its fix."""
    grid = Grid(box=None, padding=(0, 2, 0, 0), show_header=False)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for finding in findings:
        grid.add_row(Text(finding.severity, style=COLOURS[finding.severity]), Text(finding.line()))
        grid.add_row("", Text(f"fix: {finding.fix}", style="dim"))
    console().print(grid)
