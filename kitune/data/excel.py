"""Excel workbooks, by calamine (the extra `excel`)."""

from dataclasses import replace
from datetime import date, datetime, time, timedelta
from importlib.util import find_spec
from typing import Any

from kitune.config import Layout, yaml_line
from kitune.data.files import File
from kitune.data.table import Table, assemble
from kitune.errors import UserError, command, numbered


def read_excel(file: File, layout: Layout) -> Table:
    """The rows of a sheet under its first row, which names the columns.

    Whole numbers are integers, which Excel does not have; a column of numbers and texts is one of texts; dates are written
    as in ISO 8601.
    """
    if find_spec("python_calamine") is None:
        raise UserError(f"{file.name}: Excel files need an extra package", fix="pip install 'kitune[excel]'")
    from python_calamine import CalamineError, CalamineWorkbook

    try:
        with file.bytes() as content:
            book = CalamineWorkbook.from_filelike(content)
            sheets = book.sheet_names
            chosen = layout.sheet or sheets[0]
            if chosen not in sheets:
                raise UserError(
                    f"{file.name}: there is no sheet {chosen!r}; there are {', '.join(sheets)}",
                    fix=command("--set", f"data.sheet={yaml_line(sheets[0])}"),
                )
            cells = book.get_sheet_by_name(chosen).to_python(skip_empty_area=False)
    except CalamineError as error:
        raise UserError(f"{file.name}: not an Excel workbook: {error}", fix="save it again as .xlsx") from None
    notes = (f"{file.title} has sheets {', '.join(sheets)}; {chosen} is read",) if len(sheets) > 1 else ()
    return replace(sheet_table(cells, file.name), notes=notes)


def sheet_table(cells: list[list[Any]], source: str) -> Table:
    """The rows of a sheet; those without any cell are none."""
    filled = [(line, row) for line, row in enumerate(cells, start=1) if any(cell != "" for cell in row)]
    if not filled:
        raise UserError(f"{source}: it is empty", fix="give a sheet with a header and rows")
    first, header = filled[0]
    width = max(i for i, name in enumerate(header, start=1) if name != "")
    used = [i for i in range(width) if any(row[i] != "" for _, row in filled)]  # a table may begin in column C
    names = ["" if header[i] == "" else str(plain(header[i])) for i in used]
    doubled = {name for name in names if names.count(name) > 1}
    if doubled:
        raise UserError(
            f"{source}, line {first}: two columns are called {sorted(doubled)[0]!r}", fix="give each a name of its own"
        )
    wide = next(((line, row) for line, row in filled[1:] if any(cell != "" for cell in row[width:])), None)
    if wide is not None:
        there = max(i for i, cell in enumerate(wide[1], start=1) if cell != "")
        raise UserError(
            f"{source}, line {wide[0]}: {numbered(there, 'cell')} where line {first}, the header, has {width}",
            fix="leave out the lines above the header, and give each column a name",
        )
    columns = [one_type([plain(row[i]) for _, row in filled[1:]]) for i in used]
    rows = zip(*columns, strict=True)
    return assemble(
        ((line, dict(zip(names, row, strict=True))) for (line, _), row in zip(filled[1:], rows, strict=True)), source
    )


def plain(cell: Any) -> Any:
    """A cell as JSON would have it; None where it is empty."""
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)
    if isinstance(cell, datetime | date | time):
        return cell.isoformat()
    if isinstance(cell, timedelta):
        return str(cell)
    return None if cell == "" else cell


def one_type(column: list[Any]) -> list[Any]:
    """A column of several types as texts, integers beside fractions as fractions."""
    kinds = {type(cell) for cell in column if cell is not None}
    if kinds == {int, float}:
        return [None if cell is None else float(cell) for cell in column]
    return [None if cell is None else str(cell) for cell in column] if len(kinds) > 1 else column
