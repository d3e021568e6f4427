"""CSV and TSV by Arrow: files that say plainly what they mean, ten times as fast as the csv module reads them.

What is not plain (stray quotes, ragged rows, other encodings, bare carriage returns) is left to `delimited.py`, which goes
field by field and names the line. Both give the same table.
"""

import codecs
import csv
from collections.abc import Iterator
from io import BufferedIOBase

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from kitune.data.files import File
from kitune.data.mapped import gathered
from kitune.data.table import Rows, Table

# Bytes that become one Arrow chunk; a row that is longer than the most is not plain.
BLOCK_BYTES = 4 * 2**20
MOST_BLOCK_BYTES = 64 * 2**20
BOM = codecs.BOM_UTF8
QUOTE, NEWLINE, RETURN = b'"\n\r'


class NotPlain(Exception):
    """The file needs a reader that goes field by field."""


def plain_rows(file: File, delimiter: str, *, names: list[str] | None = None) -> Table | None:
    """The rows of a delimited file; None where it is not plain.

    Args:
        names: of the columns, of a file without a header.
    """
    lines: list[Rows] = []

    def chunks(content: BufferedIOBase) -> Iterator[pa.Table]:
        for batch, begins in parsed_blocks(content, delimiter, names):
            lines.append(begins)
            yield pa.Table.from_batches([batch])

    try:
        with file.bytes() as content:
            data = gathered(chunks(content))
    except NotPlain:
        return None
    return Table(data, file.name, np.concatenate(lines))


def parsed_blocks(
    file: BufferedIOBase, delimiter: str, names: list[str] | None
) -> Iterator[tuple[pa.RecordBatch, Rows]]:
    """Each block's rows as strings, and the lines (from 1) on which they begin; at least one block.

    Raises:
        NotPlain: it cannot be told whether Arrow and the csv module would read the same.
    """
    line, has_header = 1, names is None
    for block, ends, row_ends in whole_rows(file, quotes=delimiter == ","):
        begins = np.concatenate([[0], row_ends[:-1] + 1])
        lines = line + np.searchsorted(ends, begins)
        opens_file, line = line == 1, line + len(ends)
        bytes_of = np.frombuffer(block, np.uint8)
        # Of several columns an empty line is no row, here and for Arrow.
        empty = (row_ends == begins) | ((row_ends == begins + 1) & (bytes_of[begins] == RETURN))
        first = 0
        if opens_file:
            if has_header:
                first = int(row_ends[0]) + 1
                names = header(block[:first], delimiter)
                empty[0] = True
            elif block.startswith(BOM):
                first = len(BOM)
        assert names is not None
        if len(names) == 1 and empty[int(opens_file and has_header) :].any():
            raise NotPlain  # an empty cell, unless nothing follows it
        batch = parsed(block, first, names, delimiter)
        lines = lines[~empty]
        if len(lines) != batch.num_rows:
            raise NotPlain
        yield batch, lines.astype(np.int64)
    if line == 1:
        raise NotPlain


def whole_rows(file: BufferedIOBase, *, quotes: bool) -> Iterator[tuple[bytes, NDArray[np.int64], NDArray[np.int64]]]:
    """The file in blocks that end with a row: bytes, where its newlines are, and which of them end a row.

    Args:
        quotes: whether a quote may enclose a field; where not, a quote is not plain.
    """
    rest = b""
    while True:
        read = file.read(BLOCK_BYTES)
        block = rest + read
        if not read:
            if not rest:
                return
            block += b"\n"  # the last line of a file may lack its end
        bytes_of = np.frombuffer(block, np.uint8)
        ends = np.flatnonzero(bytes_of == NEWLINE)
        marks = np.flatnonzero(bytes_of == QUOTE)
        row_ends = ends[np.searchsorted(marks, ends) % 2 == 0]
        if not len(row_ends):
            if not read or len(block) > MOST_BLOCK_BYTES:
                raise NotPlain
            rest = block
            continue
        size = int(row_ends[-1]) + 1
        if not read and size < len(block):
            raise NotPlain  # a quoted field that is never closed
        whole, rest = block[:size], block[size:] if read else b""
        marks = marks[marks < size]
        if (len(marks) and not quotes) or not well_quoted(bytes_of, marks):
            raise NotPlain
        returns = np.flatnonzero(bytes_of[:size] == RETURN) if b"\r" in whole else marks[:0]
        if b"\0" in whole or (bytes_of[returns + 1] != NEWLINE).any():
            raise NotPlain
        yield whole, ends[ends < size], row_ends
        if not read:
            return


def well_quoted(block: NDArray[np.uint8], marks: NDArray[np.int64]) -> bool:
    """Whether every quote opens a field, closes one, or is one half of a doubled quote between these.

    Args:
        marks: where the quotes are, an even number of them.
    """
    opening, closing = marks[::2], marks[1::2]
    before = block[opening[opening > 0] - 1]
    after = block[closing + 1]  # a block ends with a newline
    good_before = (before == ord(",")) | (before == NEWLINE) | (before == QUOTE)
    good_after = (after == ord(",")) | (after == NEWLINE) | (after == RETURN) | (after == QUOTE)
    return bool(good_before.all() and good_after.all())


def header(row: bytes, delimiter: str) -> list[str]:
    """The names of the columns; what `delimited.py` would refuse is left to it."""
    try:
        names = next(csv.reader([row.removeprefix(BOM).decode()], delimiter=delimiter, strict=True), [])
    except (UnicodeDecodeError, csv.Error):
        raise NotPlain from None
    if not any(name.strip() for name in names) or len(set(names)) < len(names) or row.count(b"\n") > 1:
        raise NotPlain
    return names


def parsed(block: bytes, first: int, names: list[str], delimiter: str) -> pa.RecordBatch:
    """The rows of `block` from byte `first` on, every cell a string."""
    schema = pa.schema([(name, pa.string()) for name in names])
    if first == len(block):
        return pa.RecordBatch.from_pylist([], schema)
    if block.startswith(BOM, first):  # a character of a cell, which Arrow would drop at the start of every block
        raise NotPlain
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(pa.py_buffer(block).slice(first)),
            # One block, or Arrow would cut within a quoted field; one thread, because it is one block.
            pyarrow.csv.ReadOptions(column_names=names, block_size=len(block) + 1, use_threads=False),
            pyarrow.csv.ParseOptions(
                delimiter=delimiter, quote_char='"' if delimiter == "," else False, newlines_in_values=True
            ),
            pyarrow.csv.ConvertOptions(column_types=schema, strings_can_be_null=False),
        )
    except pa.ArrowInvalid:  # a ragged row, or bytes that are not UTF-8
        raise NotPlain from None
    return table.combine_chunks().to_batches()[0] if table.num_rows else pa.RecordBatch.from_pylist([], schema)
