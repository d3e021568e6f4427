"""A table whose rows know where they came from."""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import NoneType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kitune.data.mapped import gathered
from kitune.errors import UserError

Rows = NDArray[np.int64]
# Rows, or characters of rows, that become one Arrow chunk: Python objects of a whole file never stand in memory at once.
CHUNK_ROWS, CHUNK_CHARACTERS = 10_000, 2**22


@dataclass(frozen=True)
class Table:
    """Columns in Arrow, the name of their source, and the place of each row in it."""

    data: pa.Table
    source: str
    lines: Rows | None = None  # (rows,): line on which a row begins, from 1; None where the source has no lines
    notes: tuple[str, ...] = ()  # what was guessed when it was read, as sentences
    commit: str | None = None  # of the hub, where it came from there
    classes: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # names of a column's labels, where it has an order

    def __len__(self) -> int:
        return int(self.data.num_rows)

    @property
    def columns(self) -> list[str]:
        return list(self.data.column_names)

    def values(self, column: str) -> list[Any]:
        """The column as Python values, `None` where it is empty or not a number (NaN), as pandas says empty."""
        data = self.data.column(column)
        values: list[Any] = data.to_pylist()
        if pa.types.is_floating(data.type):
            return [value if value == value else None for value in values]
        return values

    def texts(self, column: str) -> list[str]:
        """The column as strings; an empty cell is an empty text.

        Raises:
            UserError: it holds lists, records or bytes.
        """
        self.require_texts(column)
        return ["" if value is None else str(value) for value in self.values(column)]

    def require_texts(self, column: str) -> None:
        """Refuse a column whose cells are no texts, nor numbers or dates, which are texts once they are written."""
        if (kind := kind_of(self.data.schema.field(column).type)) is not None:
            raise UserError(
                f"{self.source}: column {column!r} holds {kind}, not texts",
                fix="write each as one text, or name another column: --text COLUMN",
            )

    def slices(self, columns: Sequence[str], rows: int) -> Iterator["Table"]:
        """These columns in slices of so many rows, so that few Python objects stand in memory at once."""
        data = self.data.select(list(dict.fromkeys(columns)))
        for begin in range(0, len(self), rows):
            yield Table(data.slice(begin, rows), self.source)

    def where(self, row: int) -> str:
        """The place of `row` for a message: `tickets.csv, line 17`."""
        if self.lines is None:
            return f"{self.source}, row {row} (from 0)"
        return f"{self.source}, line {self.lines[row]}"

    def places(self, rows: Sequence[int]) -> str:
        """The places of some rows: `tickets.csv, lines 17, 20`."""
        if len(rows) == 1:
            return self.where(rows[0])
        named = rows if self.lines is None else [int(self.lines[row]) for row in rows]
        listed = ", ".join(map(str, named))
        return f"{self.source}, rows {listed} (from 0)" if self.lines is None else f"{self.source}, lines {listed}"

    def take(self, rows: Rows) -> "Table":
        """The rows at these positions, in this order."""
        lines = None if self.lines is None else self.lines[rows]
        steps = np.diff(rows)
        if len(rows) and (steps == 1).all():
            data = self.data.slice(int(rows[0]), len(rows))
        elif (steps >= 0).all():
            data = gathered([self.data.slice(0, 0), *rows_by_chunk(self.data, rows)])
        else:
            order = np.argsort(rows, kind="stable")
            ascending = self.take(rows[order]).data.combine_chunks()
            data = ascending.take(arrow_positions(np.argsort(order, kind="stable")))
        return replace(self, data=data, lines=lines)

    def fingerprint(self, columns: Sequence[str]) -> str:
        """sha256 over these columns' values, whatever file format or chunking they came in."""
        digest = hashlib.sha256()
        for column in columns:
            data = self.data.column(column)
            digest.update(f"\0column {column}\0".encode())
            if holds_strings(data.type) or pa.types.is_null(data.type):
                digest.update(strings_digest(data))
            else:
                for chunk in data.chunks:
                    for value in chunk.to_pylist():
                        digest.update(repr(value).encode("utf-8", "surrogatepass") + b"\0")
        return digest.hexdigest()


def assemble(rows: Iterable[tuple[int, Mapping[str, Any]]], source: str) -> Table:
    """Arrow chunks from numbered rows; a key that a row lacks is an empty cell."""
    lines = array("q")
    pending: list[Mapping[str, Any]] = []
    size = 0
    names: dict[str, None] = {}

    def chunk() -> pa.Table:
        try:
            return pa.table({name: arrow_column([row.get(name) for row in pending]) for name in names})
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError) as error:
            place = f"{source}, lines {lines[-len(pending)]} to {lines[-1]}"
            mixed = isinstance(error, pa.ArrowInvalid | pa.ArrowTypeError)
            what = "a column mixes types" if mixed else "a value that no column holds"
            fix = "use one type in each column" if mixed else "correct the value; a long number may stand in quotes"
            raise UserError(f"{place}: {what}: {error}", fix=fix) from None

    def chunks() -> Iterator[pa.Table]:
        nonlocal size
        for line, row in rows:
            lines.append(line)
            names.update(dict.fromkeys(row))
            pending.append(row)
            size += sum(len(value) for value in row.values() if type(value) is str)
            if len(pending) == CHUNK_ROWS or size > CHUNK_CHARACTERS:
                yield chunk()
                pending.clear()
                size = 0
        if pending or not lines:
            yield chunk()

    try:
        data = gathered(chunks())
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UserError(f"{source}: a column mixes types: {error}", fix="use one type in each column") from None
    return Table(data, source, np.frombuffer(lines, dtype=np.int64) if lines else np.zeros(0, dtype=np.int64))


def is_missing(value: Any) -> bool:
    """Whether a value of Python says that there is none: None, NaN, or what pandas has for them."""
    try:
        return value is None or bool(value != value)
    except TypeError:  # pandas' NA, which is neither equal to itself nor unequal
        return True
    except ValueError:  # an array
        return False


def is_unicode(text: str) -> bool:
    """Whether a text is one that files and columns hold: half of a surrogate pair is not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def arrow_column(values: list[Any]) -> pa.Array:
    """`values` as a column. Strings go past `pa.array`, which imports pandas where it is installed: 0.3 to 0.5 s."""
    kinds = set(map(type, values))
    if kinds == {NoneType}:
        return pa.nulls(len(values))
    if not kinds <= {str, NoneType}:
        return pa.array(values, from_pandas=True)  # NaN is an empty cell, beside strings too
    builder = pa.lib.StringBuilder()
    builder.append_values(values)
    return builder.finish()


def rows_by_chunk(data: pa.Table, rows: Rows) -> Iterator[pa.Table]:
    """The rows at ascending positions, chunk by chunk: `pa.Table.take` would first join all chunks, and fails beyond 2 GiB."""
    batches = data.to_batches()
    ends = np.cumsum([batch.num_rows for batch in batches])
    cuts = np.searchsorted(rows, ends)
    for batch, end, begin, stop in zip(batches, ends, [0, *cuts[:-1]], cuts, strict=True):
        if stop > begin:
            positions = arrow_positions(rows[begin:stop] - (end - batch.num_rows))
            yield pa.Table.from_batches([batch.take(positions)])


def arrow_positions(rows: Rows) -> pa.Array:
    """Positions as Arrow takes them; not by `pa.array`, which imports pandas where it is installed: 0.3 to 0.5 s."""
    positions = np.ascontiguousarray(rows, dtype=np.int64)
    return pa.Array.from_buffers(pa.int64(), len(positions), [None, pa.py_buffer(positions)])


def holds_strings(kind: Any) -> bool:
    """Whether an Arrow type is one of its three kinds of string."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def kind_of(data_type: Any) -> str | None:
    """What a column holds that is no single text, number or date, in a word; None where it holds these."""
    if pa.types.is_nested(data_type):
        return "records" if pa.types.is_struct(data_type) or pa.types.is_map(data_type) else "lists"
    return "bytes" if holds_bytes(data_type) else None


def holds_bytes(data_type: Any) -> bool:
    """Whether an Arrow type is one of its kinds of bytes."""
    types = pa.types
    return bool(
        types.is_binary(data_type)
        or types.is_large_binary(data_type)
        or types.is_binary_view(data_type)
        or types.is_fixed_size_binary(data_type)
    )


def as_bools(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    """A column of truth values, empty ones as False, past Arrow's own conversion, which imports pandas: 0.3 to 0.5 s."""
    parts = [np.zeros(0, dtype=np.bool_)]
    for chunk in column.chunks:
        validity, values_buffer = chunk.buffers()
        values = bits_of(values_buffer, chunk)
        if chunk.null_count:
            values &= bits_of(validity, chunk)
        parts.append(values)
    return np.concatenate(parts)


def bits_of(buffer: pa.Buffer, array: pa.Array) -> NDArray[np.bool_]:
    """The bits of a buffer that belong to `array`, one a row."""
    bits = np.unpackbits(np.frombuffer(buffer, np.uint8), bitorder="little")
    return bits[array.offset : array.offset + len(array)].astype(np.bool_)


def lengths_of(texts: pa.ChunkedArray) -> NDArray[np.int64]:
    """Characters of each text, 0 where there is none; as `as_bools` without pandas."""
    parts = [np.zeros(0, dtype=np.int64)]
    for chunk in texts.chunks:
        sizes = pc.utf8_length(chunk.cast(pa.large_string()))
        values = np.frombuffer(sizes.buffers()[1], np.int64, len(sizes), 8 * sizes.offset).copy()
        if chunk.null_count:
            values[~bits_of(chunk.buffers()[0], chunk)] = 0
        parts.append(values)
    return np.concatenate(parts)


def strings_digest(column: pa.ChunkedArray) -> bytes:
    """sha256 over the lengths of all strings (-1 where there is none) and over their bytes: 0.1 us a row, by `repr` 0.8."""
    lengths, content = hashlib.sha256(), hashlib.sha256()
    for chunk in column.chunks:
        texts = chunk.cast(pa.large_string())
        sizes = pc.binary_length(texts)
        if texts.null_count:  # only then, because a scalar of Arrow imports pandas
            sizes, texts = pc.fill_null(sizes, -1), pc.fill_null(texts, "")
        lengths.update(np.frombuffer(sizes.buffers()[1], np.int64, len(sizes), 8 * sizes.offset).data)
        if len(texts):
            offsets = np.frombuffer(texts.buffers()[1], np.int64, len(texts) + 1, 8 * texts.offset)
            if offsets[-1] > offsets[0]:
                content.update(memoryview(texts.buffers()[2])[int(offsets[0]) : int(offsets[-1])])
    return lengths.digest() + content.digest()
