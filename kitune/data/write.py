"""Rows to a file, as they come, in one of four formats."""

import csv
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TextIO, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from kitune.errors import NO_ROOM, UserError
from kitune.metrics import without_nan

Write: TypeAlias = Callable[[pa.Table], None]


def require_new_file(out: Path, endings: Sequence[str] = ()) -> None:
    """Refuse a file that exists, has an unknown ending, or lies where nothing can be written."""
    if out.exists():
        raise UserError(f"{out}: it exists already; nothing in it was touched", fix="choose another --out")
    endings = endings or tuple(WRITERS)
    if out.suffix.lower() not in endings:
        ending = out.suffix or "(none)"
        raise UserError(f"{out}: the ending {ending} is not one that kitune writes", fix=f"use {', '.join(endings)}")
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        missing = "there is no such folder" if not out.parent.is_dir() else "you may not write there"
        raise UserError(f"--out {out}: {out.parent}: {missing}", fix="choose another --out")


@contextmanager
def row_writer(out: Path | None, encoding: str = "utf-8") -> Iterator[Write]:
    """A function that appends rows to `out`; the file appears when all are written, and not at all after an error.

    Without `out` they go to standard output as CSV. In `utf-8-sig` Excel opens a CSV as what it is.
    """
    if out is None:
        yield delimited_rows_to(sys.stdout, ",")
        return
    staging = out.with_name(f".{out.name}.part")
    try:
        with room_for(str(out)), WRITERS[out.suffix.lower()](staging, encoding) as write:
            yield write
        staging.replace(out)
    finally:
        staging.unlink(missing_ok=True)


@contextmanager
def room_for(name: str) -> Iterator[None]:
    """A sentence where what is written has no room; an error in another place names that place."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno not in NO_ROOM:
            raise
        fix = "make room on that disk, or write to another: --out FILE"
        raise UserError(f"{name}: {error.strerror}; nothing is kept there", fix=fix) from None


@contextmanager
def delimited_writer(path: Path, encoding: str, *, delimiter: str) -> Iterator[Write]:
    """CSV or TSV."""
    with path.open("w", encoding=encoding, newline="") as file:
        yield delimited_rows_to(file, delimiter)


def delimited_rows_to(file: TextIO, delimiter: str) -> Write:
    """A function that appends rows under one header; several labels are joined by `|`."""
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    quoting = csv.writer(file, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
    begun = False

    def write(rows: pa.Table) -> None:
        nonlocal begun
        if not begun:
            writer.writerow(rows.column_names)
            begun = True
        for row in zip(*(column.to_pylist() for column in rows.columns), strict=True):
            cells = ["|".join(map(cell_text, value)) if isinstance(value, list) else value for value in row]
            # Python before 3.13 leaves a bare \r unquoted, and every reader takes it for the end of the row.
            bare = any(isinstance(cell, str) and "\r" in cell for cell in cells)
            (quoting if bare else writer).writerow(cells)

    return write


def cell_text(value: Any) -> str:
    """One of several values in a cell."""
    return "" if value is None else str(value)


@contextmanager
def json_lines_writer(path: Path, encoding: str) -> Iterator[Write]:
    """One JSON object a row."""
    with path.open("w", encoding=encoding) as file:

        def write(rows: pa.Table) -> None:
            for row in rows.to_pylist():
                line = json.dumps(without_nan(row), ensure_ascii=False, default=str)  # days and decimals as their text
                file.write(line + "\n")

        yield write


@contextmanager
def parquet_writer(path: Path, encoding: str) -> Iterator[Write]:
    """Parquet, a row group a window."""
    writer: pq.ParquetWriter | None = None

    def write(rows: pa.Table) -> None:
        nonlocal writer
        writer = writer or pq.ParquetWriter(path, rows.schema)
        writer.write_table(rows)

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()


WRITERS: dict[str, Callable[[Path, str], AbstractContextManager[Write]]] = {
    ".csv": partial(delimited_writer, delimiter=","),
    ".tsv": partial(delimited_writer, delimiter="\t"),
    ".jsonl": json_lines_writer,
    ".parquet": parquet_writer,
}
