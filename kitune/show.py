"""Tables and findings in a terminal or a pipe: right in 80 columns, wide characters aligned, in any encoding."""

import json
import sys
from collections.abc import Iterable, Sequence
from io import TextIOWrapper
from typing import Any

from rich.cells import cell_len
from rich.console import Console, JustifyMethod, OverflowMethod
from rich.table import Table
from rich.text import Text

from kitune.findings import Finding
from kitune.metrics import without_nan
from kitune.notebook import Block, Grid

COLOURS = {"error": "bold red", "warning": "yellow", "note": "cyan"}
# A pipe has no width: what is written there is read in a terminal in the end.
PIPE_WIDTH = 80
# Columns of texts are made narrower than this where nothing else helps, and never narrower than the second.
NEVER_CUT, SHORTEST = 18, 6
# Spaces behind a column.
GAP = 2


class Output(Console):
    """A console that lets the command end as every other does whose reader goes away."""

    def on_broken_pipe(self) -> None:
        """Raise the error again, which rich would turn into exit code 1."""
        raise


def console() -> Output:
    """Standard output as rich writes to it; characters that its encoding lacks become question marks."""
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")
    return Output(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False, soft_wrap=False)


def show(blocks: Iterable[Block]) -> None:
    """Print sentences and tables."""
    out = console()
    for block in blocks:
        out.print(aligned(block, out)) if isinstance(block, Grid) else out.print(block, soft_wrap=True, markup=False)


def aligned(grid: Grid, out: Console) -> Table:
    """A table whose numbers stand to the right, and whose long texts are cut where the line would be too long."""
    words = [[grid.words(cell) for cell in row] for row in grid.rows]
    overflow: OverflowMethod = "ellipsis" if has_dots(out.encoding) else "crop"
    table = Table(box=None, padding=(0, GAP, 0, 0), show_header=any(grid.header), header_style="bold")
    natural = [max(map(cell_len, column)) for column in zip(grid.header, *words, strict=True)]
    numeric = [grid.numeric(number) for number in range(len(natural))]
    for name, is_numeric, width in zip(grid.header, numeric, fitted(natural, numeric, out.width), strict=True):
        justify: JustifyMethod = "right" if is_numeric else "left"
        table.add_column(Text(name), justify=justify, no_wrap=True, overflow=overflow, width=width)
    for row in words:
        table.add_row(*map(Text, row))
    return table


def fitted(natural: Sequence[int], numeric: Sequence[bool], most: int) -> list[int]:
    """The widths of columns on a line of so many characters: texts give way, the widest first, and numbers never."""
    widths = [width if is_numeric else min(width, most) for width, is_numeric in zip(natural, numeric, strict=True)]
    texts = [column for column, is_numeric in enumerate(numeric) if not is_numeric]
    for least in (NEVER_CUT, SHORTEST):
        while sum(widths) + GAP * len(widths) > most and any(widths[column] > least for column in texts):
            widest = max(texts, key=lambda column: widths[column])
            widths[widest] -= 1
    return widths


def has_dots(encoding: str) -> bool:
    """Whether an encoding has the character for three dots."""
    try:
        "…".encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def show_json(value: Any) -> None:
    """JSON on standard output, in characters that its encoding has."""
    value = without_nan(value)
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
