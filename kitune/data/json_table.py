"""JSON as a table: an object a line, or one value that holds all rows."""

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from kitune.config import Layout
from kitune.data.columns import KNOWN_NAMES
from kitune.data.files import File
from kitune.data.table import Table, assemble
from kitune.errors import UserError


def read_json_lines(file: File, layout: Layout) -> Table:
    """An object a line."""
    with file.text() as lines:
        return json_rows(lines, file.name)


def read_json(file: File, layout: Layout) -> Table:
    """JSON lines, or one JSON value: an array of objects or texts, an object with one such array, or an object of columns.

    The columns are arrays, or objects by the rows' names, as pandas writes them.
    """
    with file.text() as lines:
        begin = up_to_second(lines)
        whole = chain(begin, lines)
        if len(begin) > 1 and all(is_object(line) for line in begin if line.strip()):
            return json_rows(whole, file.name)
        try:
            value = json.loads("".join(whole))
        except json.JSONDecodeError as error:
            raise UserError(
                f"{file.name}, line {error.lineno}: not JSON: {error.msg}",
                fix="correct the file, or write an object a line",
            ) from None
    return Table(assemble(enumerate(objects_in(value, file.name)), file.name).data, file.name)


def up_to_second(lines: Iterable[str]) -> list[str]:
    """The lines up to the second that is not empty."""
    begin: list[str] = []
    filled = 0
    for line in lines:
        begin.append(line)
        filled += bool(line.strip())
        if filled == 2:
            break
    return begin


def is_object(line: str) -> bool:
    """Whether a line is a JSON object by itself."""
    try:
        return line.lstrip().startswith("{") and isinstance(json.loads(line), dict)
    except json.JSONDecodeError:
        return False


def objects_in(value: Any, source: str) -> list[dict[str, Any]]:
    """The rows of a JSON value."""
    if isinstance(value, dict):
        lists = {name: part for name, part in value.items() if isinstance(part, list)}
        rows = [part for part in lists.values() if part and all(isinstance(row, dict) for row in part)]
        if len(rows) == 1:
            return list(rows[0])
        if not rows and lists and len(lists) == len(value) and len({len(part) for part in lists.values()}) == 1:
            return [dict(zip(lists, cells, strict=True)) for cells in zip(*lists.values(), strict=True)]
        if is_grid(value):
            return grid_rows(value)
        if not lists:
            return [value]
    if isinstance(value, list) and all(isinstance(row, dict) for row in value):
        return value
    if isinstance(value, list) and all(isinstance(row, str) for row in value):
        return [{"text": row} for row in value]
    raise UserError(
        f"{source}: this JSON is no table",
        fix='write an array of objects, [{"text": ..., "label": ...}, ...], or an object a line',
    )


def is_grid(value: dict[str, Any]) -> bool:
    """Whether an object holds objects alone, all of them with the same names: rows or columns of a frame of pandas."""
    inner = [set(part) if isinstance(part, dict) else set() for part in value.values()]
    return bool(inner) and bool(inner[0]) and all(names == inner[0] for names in inner)


def grid_rows(grid: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of objects in an object: of columns, as pandas writes them, unless the inner names are clearly the columns."""
    outer, inner = list(grid), list(next(iter(grid.values())))

    def are_columns(names: list[str]) -> bool:
        return any(name.strip().lower() in KNOWN_NAMES for name in names)

    numbered = all(map(str.isdecimal, outer)) and not all(map(str.isdecimal, inner))
    if numbered or (are_columns(inner) and not are_columns(outer)):
        return list(grid.values())
    return [{name: column[row] for name, column in grid.items()} for row in inner]


def json_rows(lines: Iterable[str], source: str) -> Table:
    """Rows of JSON lines."""

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{source}, line {number}: not JSON: {error.msg}", fix="correct the line") from None
            if not isinstance(row, dict):
                raise UserError(
                    f"{source}, line {number}: not a JSON object", fix='write it as {"text": ..., "label": ...}'
                )
            yield number, row

    return assemble(rows(), source)
