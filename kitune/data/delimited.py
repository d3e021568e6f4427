"""CSV, TSV and their like: how a file says its rows, and the reader that goes field by field and names the line."""

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import dropwhile, islice
from typing import Any, TextIO

from kitune.config import Layout
from kitune.data.arrow_csv import plain_rows
from kitune.data.columns import KNOWN_NAMES
from kitune.data.files import File
from kitune.data.table import Table, assemble
from kitune.errors import UserError, numbered

# Delimiters by their names in messages.
DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
# Lines that show delimiter and header, and the share of their rows that must be of one width where some are ragged.
FIRST_LINES, SAME_WIDTH = 50, 0.75
# Python's own limit is a text of 128 KiB.
csv.field_size_limit(2**31 - 1)
EXCEL_SEP = re.compile(r"sep=([,;|\t])", re.IGNORECASE)
NUMBER = re.compile(r"[-+]?[\d.,]*\d[\d.,]*([eE][-+]?\d+)?%?")


def read_delimited(file: File, layout: Layout, *, usual: str) -> Table:
    """A CSV or TSV file; every cell is a string.

    Args:
        usual: the delimiter of the file's format.
    """
    lines, notes = first_lines(file), list[str]()
    delimiter: str = layout.delimiter
    if told := EXCEL_SEP.fullmatch(lines[0].rstrip("\r\n") if lines else ""):  # Excel writes it above the header
        lines, delimiter = lines[1:], told[1] if delimiter == "auto" else delimiter
        notes.append(f"{file.title}: its first line, {told[0]!r}, names the delimiter and is left out")
    if delimiter == "auto":
        delimiter = shown_delimiter(lines, usual) or usual
        if delimiter != usual:
            notes.append(
                f"{file.title} is read with {DELIMITERS[delimiter]} between its fields, as its first lines are"
            )
    rows, title = without_title(whole_rows(lines, delimiter), delimiter)
    if title is not None:
        notes.append(f"{file.title}: its first line, {title!r}, has no tab where all others have, and is left out")
    skipped = (title is not None) + (told is not None)
    header = layout.header
    if header == "auto":
        header, why = shown_header(rows)
        if why:
            notes.append(f"{file.title} {why}")
    names = None if header else numbers_up_to(len(rows[0]) if rows else 0)
    table = None if layout.ragged or skipped else plain_rows(file, delimiter, names=names)
    if table is None:
        with file.text() as text:
            table = delimited_rows(text, file.name, delimiter, skipped=skipped, header=header, ragged=layout.ragged)
    return replace(table, notes=tuple(notes))


def numbers_up_to(count: int) -> list[str]:
    """Names of columns that have none."""
    return [str(number) for number in range(1, count + 1)]


def first_lines(file: File) -> list[str]:
    """The lines that show how the rows are said; one more than these where the file goes on."""
    with file.text() as text:
        return list(islice(text, FIRST_LINES + 1))


def whole_rows(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    """The rows in the first lines of a file, but for one that may be cut; none where the delimiter does not fit."""
    cut = len(lines) > FIRST_LINES
    lines = lines[:FIRST_LINES]  # the next one may belong to the same row
    bare = delimiter == "\t" and not quotes_enclose_fields(lambda: iter(lines), delimiter)
    try:
        reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE if bare else csv.QUOTE_MINIMAL)
        rows = list(dropwhile(is_blank, filter(None, reader)))
    except csv.Error:
        return []
    return rows[:-1] if cut and len(rows) > 2 else rows


def is_blank(row: Sequence[str]) -> bool:
    """Whether no cell of a row holds anything."""
    return not any(cell.strip() for cell in row)


def without_title(rows: list[list[str]], delimiter: str) -> tuple[list[list[str]], str | None]:
    """The rows, and a first line in front of them that is no row: alone without a tab, where all others have equally many."""
    widths = {len(row) for row in rows[1:]}
    if delimiter == "\t" and len(rows) > 2 and len(rows[0]) == 1 and len(widths) == 1 and widths != {1}:
        return rows[1:], rows[0][0]
    return rows, None


def shown_delimiter(lines: Sequence[str], usual: str) -> str | None:
    """The delimiter that cuts all of the first lines, or else most of them, into the same number of fields, two or more.

    The usual one comes first.
    """
    widths = {}
    for delimiter in (usual, *(other for other in DELIMITERS if other != usual)):
        rows, _ = without_title(whole_rows(lines, delimiter), delimiter)
        if rows and len(rows[0]) > 1:
            widths[delimiter] = Counter(map(len, rows))
    for delimiter, counts in widths.items():
        if len(counts) == 1:
            return delimiter
    for delimiter, counts in widths.items():
        width, count = counts.most_common(1)[0]
        if width > 1 and count >= SAME_WIDTH * counts.total():
            return delimiter
    return None


def shown_header(rows: Sequence[Sequence[str]]) -> tuple[bool, str | None]:
    """Whether the first of these rows names the columns; if not, or if that is not sure, a sentence about it.

    A name is no number where the column has numbers, or is one that the field knows. A row has a number where the others
    have one, or a word that stands in its column again.
    """
    first, others = rows[0] if rows else [], rows[1:]
    below = [[row[i] for row in others if i < len(row) and row[i].strip()] for i in range(len(first))]
    filled = [(cell, cells) for cell, cells in zip(first, below, strict=True) if cell.strip() and cells]
    known = any(cell.strip().lower() in KNOWN_NAMES and cell not in cells for cell, cells in filled)
    of_numbers = [cell for cell, cells in filled if all(map(is_number, cells))]
    if (
        known
        or not filled
        or first == numbers_up_to(len(first))
        or (from_pandas(first) and len(of_numbers) < len(filled))
    ):
        return True, None
    if any(not is_number(cell) for cell in of_numbers):
        return True, None
    again = [cell for cell, cells in filled if cell in cells and len(set(cells)) <= (1 + len(cells)) / 2]
    if shown := of_numbers + again:
        return False, (
            f"has no header: its first line is a row like the others ({shown[0]!r} stands there); its columns are called "
            "1, 2, 3 and so on; --set data.header=true if the first line names them"
        )
    if len(first) == 1:
        return True, f"is read with {first[0]!r} as the name of its column; --set data.header=false if that is a row"
    return True, None


def from_pandas(first: Sequence[str]) -> bool:
    """Whether cells are the names that pandas gives columns without one, 0, 1 and so on, behind that of an index or not."""
    names = first[1:] if first[0] == "" else first
    return len(first) > 1 and [*names] == [str(number) for number in range(len(names))]


def is_number(cell: str) -> bool:
    """Whether a cell holds a number, or several between commas."""
    return NUMBER.fullmatch(cell.strip()) is not None


def fields_of(line: str, delimiter: str) -> list[str]:
    """The fields of one line."""
    return next(csv.reader([line.rstrip("\r\n")], delimiter=delimiter), [])


def delimited_rows(
    lines: TextIO,
    source: str,
    delimiter: str,
    *,
    skipped: int = 0,
    header: bool = True,
    ragged: bool = False,
) -> Table:
    """Rows of a delimited text. A TSV is quoted only where its quotes enclose whole fields: bare ones are text.

    Args:
        skipped: lines in front of the rows.
    """
    quoted = True
    if delimiter == "\t":
        begin = lines.tell()

        def again() -> Iterator[str]:
            lines.seek(begin)
            return islice(iter(lines.readline, ""), skipped, None)

        quoted = quotes_enclose_fields(again, delimiter)
        lines.seek(begin)
    reader = csv.reader(
        lines, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE, strict=True
    )
    try:
        for _ in range(skipped):
            next(reader)
        return assemble(numbered_rows(reader, source, header=header, ragged=ragged), source)
    except csv.Error as error:
        end, problem = reader.line_num, str(error)
        line = last_row(lines, delimiter) if quoted else end
        if problem == "unexpected end of data":
            problem = "a quote is opened in this row and never closed"
        elif line < end:
            problem = f"a quote is opened in this row, and on line {end} there is another one: {problem}"
        raise UserError(
            f"{source}, line {line}: {problem}", fix='write a quote inside a quoted field twice: ""'
        ) from None


def last_row(lines: TextIO, delimiter: str) -> int:
    """The line on which the last row begins that a strict reader meets."""
    lines.seek(0)
    reader, begin = csv.reader(lines, delimiter=delimiter, strict=True), 1
    try:
        for _ in reader:
            begin = reader.line_num + 1
    except csv.Error:
        pass
    return begin


def quotes_enclose_fields(lines: Callable[[], Iterator[str]], delimiter: str) -> bool:
    """Whether the quotes in `lines` are quoting: where bare ones fit the header, if each that occurs encloses a field with
    every inner one doubled; where bare ones do not (a field holds a tab or a line break), if quoting does.

    Args:
        lines: gives them from the first one on, at every call.
    """
    if not any('"' in line for line in lines()):
        return False

    def fields(line: str) -> list[str]:
        return line.rstrip("\r\n").split(delimiter)

    width = len(fields(next(line for line in lines() if line.strip())))
    if all(len(row) == width or is_blank(row) for row in map(fields, lines())):
        quoted = (field for line in lines() if '"' in line for field in fields(line) if '"' in field)
        return all(re.fullmatch('"([^"]|"")*"', field) for field in quoted)
    try:
        return all(len(row) in (0, width) for row in csv.reader(lines(), delimiter=delimiter, strict=True))
    except csv.Error:
        return False


def numbered_rows(reader: Any, source: str, *, header: bool, ragged: bool) -> Iterator[tuple[int, dict[str, str]]]:
    """(line on which the row begins, its cells) of a csv reader.

    An empty line is no row; in a file of one column it is an empty cell, as awk and Excel write it, unless it ends the file.

    Raises:
        UserError: two columns have one name, or a row has more fields than the first or fewer, unless it may be ragged.
    """
    line, first = reader.line_num + 1, next(reader, None)
    while first is not None and is_blank(first):
        line, first = reader.line_num + 1, next(reader, None)
    if first is None:
        raise UserError(f"{source}: it is empty", fix="give a file with a header and rows")
    names = first if header else numbers_up_to(len(first))
    doubled = {name for name in names if names.count(name) > 1}
    if doubled:
        raise UserError(
            f"{source}, line {line}: two columns are called {sorted(doubled)[0]!r}",
            fix="give each column a name of its own; where that line is a row and names nothing: --set data.header=false",
        )
    if not header:
        yield line, dict(zip(names, first, strict=True))
    begin, empty = reader.line_num + 1, list[int]()
    for cells in reader:
        if not cells and len(names) == 1:
            empty.append(begin)
        elif cells:
            yield from ((line, {names[0]: ""}) for line in empty)
            empty.clear()
            if len(cells) != len(names) and not ragged:
                raise UserError(
                    f"{source}, line {begin}: {numbered(len(cells), 'field')} where "
                    f"{'the header' if header else f'line {line}'} has {len(names)}",
                    fix="quote a field that holds the delimiter, or correct the row; where rows may differ, "
                    "--set data.ragged=true leaves missing fields empty and gives further ones columns of their own",
                )
            further = [str(number) for number in range(len(names) + 1, len(cells) + 1)]
            yield begin, dict(zip([*names, *further], cells, strict=False))
        begin = reader.line_num + 1
