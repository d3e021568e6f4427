"""What a notebook shows: tables as tables, and sentences where they are not painted red."""

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, TextIO, TypeAlias

# What is shown of a cell.
CELL_CHARACTERS = 400


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = sys.modules.get("IPython")
    return shell is not None and getattr(shell.get_ipython(), "kernel", None) is not None


def say(sentence: str) -> None:
    """Say a sentence about the work, over any bar: on standard error, but that a notebook shows that as a failure.

    Where nobody reads it any more, the work goes on in silence.
    """
    from tqdm import tqdm  # which a command that says nothing need not wait for

    stream = sys.stdout if in_notebook() else sys.stderr
    if stream is None:  # Python without a console
        return
    try:
        tqdm.write(sentence, file=stream)
        stream.flush()
    except BrokenPipeError:
        forget(stream)


def forget(stream: TextIO) -> None:
    """What is written to a stream that nobody reads is lost from now on, and Python does not complain of it at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@dataclass(frozen=True)
class Grid:
    """A table to be shown: the names of its columns, and rows of texts and numbers.

    Attributes:
        decimals: of every number that is not whole; None: four digits that count.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    decimals: int | None = None

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers, and nothing else but empty cells."""
        cells = [row[column] for row in self.rows if row[column] is not None]
        return bool(cells) and all(map(is_number, cells))

    def words(self, cell: Any) -> str:
        """A cell on one line."""
        return f"{cell:,.{self.decimals}f}" if self.decimals and isinstance(cell, float) else in_words(cell)


# A sentence, or a table.
Block: TypeAlias = str | Grid


class Shown:
    """What has sentences and tables: a terminal prints them, a notebook shows them."""

    def blocks(self) -> list[Block]:
        """The sentences and tables, in order."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        return as_html(self.blocks())


def as_html(blocks: Iterable[Block]) -> str:
    """Sentences and tables as HTML; numbers stand to the right, and an empty sentence, a terminal's empty line, is none."""
    parts = (html_table(block) if isinstance(block, Grid) else f"<p>{escape(block)}</p>" for block in blocks if block)
    return "\n".join(parts)


def html_table(grid: Grid) -> str:
    """A table as HTML."""
    sides = ["right" if grid.numeric(column) else "left" for column in range(len(grid.header))]
    lines = [
        "<tr>"
        + "".join(
            f'<td style="text-align: {side}">{escape(shortened(grid.words(cell)))}</td>'
            for side, cell in zip(sides, row, strict=True)
        )
        + "</tr>"
        for row in grid.rows
    ]
    names = "".join(
        f'<th style="text-align: {side}">{escape(name)}</th>' for side, name in zip(sides, grid.header, strict=True)
    )
    head = f"<thead><tr>{names}</tr></thead>" if any(grid.header) else ""
    return f"<table>{head}<tbody>{''.join(lines)}</tbody></table>"


def shortened(words: str) -> str:
    """The beginning of a long text: a notebook keeps what it shows."""
    return words if len(words) <= CELL_CHARACTERS else words[:CELL_CHARACTERS] + " …"


def is_number(cell: Any) -> bool:
    """Whether a cell is shown as a number."""
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def in_words(cell: Any) -> str:
    """A cell on one line."""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:.4g}"
    return " ".join(str(cell).split()) if cell is not None else ""
