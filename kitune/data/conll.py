"""CoNLL files: a token and its tag a line, an empty line between sentences."""

from collections.abc import Iterable, Iterator
from typing import Any

from kitune.config import Layout
from kitune.data.files import File
from kitune.data.table import Table, assemble
from kitune.errors import UserError, numbered


def read_conll(file: File, layout: Layout) -> Table:
    """A sentence a row: its `tokens`, from the first column, and their `tags`, from the last one."""
    with file.text() as lines:
        return assemble(sentences(lines, file.name), file.name)


def sentences(lines: Iterable[str], source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line on which a sentence begins, its tokens and tags); lines of white space part sentences, comments are left out.

    Raises:
        UserError: a line has another number of columns than the first one.
    """
    tokens: list[str] = []
    tags: list[str] = []
    begin, width = 0, 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            if tokens:
                yield begin, {"tokens": tokens, "tags": tags}
                tokens, tags = [], []
            continue
        cells = line.rstrip("\r\n").split("\t") if "\t" in line else line.split()
        if cells[0].startswith("-DOCSTART-") or (line.startswith("# ") and len(cells) != width):
            continue
        width = width or len(cells)
        if len(cells) != width or width < 2:
            raise UserError(
                f"{source}, line {number}: {numbered(len(cells), 'column')} where a token and its tag make "
                f"{max(width, 2)}",
                fix="write the token, a tab and its tag on each line",
            )
        begin = begin if tokens else number
        tokens.append(cells[0])
        tags.append(cells[-1])
    if tokens:
        yield begin, {"tokens": tokens, "tags": tags}
