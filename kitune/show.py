"""Tables and findings in a terminal or a pipe: right in 80 columns, wide characters aligned, in any encoding."""

import json
import sys
from collections.abc import Iterable, Sequence
from io import TextIOWrapper
from typing import Any

from rich.cells import cell_len
from rich.console import Console, OverflowMethod
from rich.table import Table
from rich.text import Text

from kitune.findings import Finding
from kitune.notebook import Block, Grid

COLOURS = {"error": "bold red", "warning": "yellow", "note": "cyan"}
# A pipe has no width: what is written there is read in a terminal in the end.
PIPE_WIDTH = 80
# Columns are never made narrower than this, where a wider one can be.
NEVER_CUT = 18


def console() -> Console:
    """Standard output as rich writes to it; characters that its encoding lacks become question marks."""
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")
    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False, soft_wrap=False)


def show(blocks: Iterable[Block]) -> None:
    """Print sentences and tables."""
    out = console()
    for block in blocks:
        out.print(aligned(block, out)) if isinstance(block, Grid) else out.print(block, soft_wrap=True, markup=False)


def aligned(grid: Grid, out: Console) -> Table:
    """A table whose numbers stand to the right, and whose long texts are cut at the end of the line."""
    words = [[grid.words(cell) for cell in row] for row in grid.rows]
    overflow: OverflowMethod = "ellipsis" if has_dots(out.encoding) else "crop"
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=any(grid.header), header_style="bold")
    for number, name in enumerate(grid.header):
        numeric = grid.numeric(number)
        natural = max(cell_len(cell) for cell in (name, *(row[number] for row in words)))
        table.add_column(
            Text(name),
            justify="right" if numeric else "left",
            no_wrap=True,
            overflow=overflow,
            min_width=min(natural, NEVER_CUT),
        )
    for row in words:
        table.add_row(*map(Text, row))
    return table


def has_dots(encoding: str) -> bool:
    """Whether an encoding has the character for three dots."""
    try:
        "…".encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def show_json(value: Any) -> None:
    """JSON on standard output, in characters that its encoding has."""
    text = json.dumps(value, ensure_ascii=False, indent=2, default=str)
    try:
        print(text)
    except UnicodeEncodeError:
        print(json.dumps(value, indent=2, default=str))


def in_bytes(size: int) -> str:
    """`1.3 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000  # type: ignore[assignment]
    return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"


def show_findings(findings: Sequence[Finding]) -> None:
    """Each finding with its places and its fix."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        table.add_row(Text(finding.severity, style=COLOURS[finding.severity]), Text(finding.line()))
        table.add_row("", Text(f"fix: {finding.fix}", style="dim"))
    console().print(table)
