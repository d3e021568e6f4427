"""A table whose rows know where they came from."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Table:
    """Columns in Arrow, the name of their source, and the place of each row in it."""

    data: pa.Table
    source: str
    lines: Rows | None = None  # (rows,): line on which a row begins, from 1; None where the source has no lines

    def __len__(self) -> int:
        return int(self.data.num_rows)

    @property
    def columns(self) -> list[str]:
        return list(self.data.column_names)

    def values(self, column: str) -> list[Any]:
        """The column as Python values, `None` where it is empty."""
        return list(self.data.column(column).to_pylist())

    def texts(self, column: str) -> list[str]:
        """The column as strings; an empty cell is an empty text."""
        return ["" if value is None else str(value) for value in self.values(column)]

    def where(self, row: int) -> str:
        """The place of `row` for a message: `tickets.csv, line 17`."""
        if self.lines is None:
            return f"{self.source}, row {row} (from 0)"
        return f"{self.source}, line {self.lines[row]}"

    def take(self, rows: Rows) -> "Table":
        """The rows at these positions, in this order."""
        lines = None if self.lines is None else self.lines[rows]
        return Table(self.data.take(pa.array(rows, type=pa.int64())), self.source, lines)

    def fingerprint(self, columns: Sequence[str]) -> str:
        """sha256 over these columns' values, whatever file format or chunking they came in."""
        digest = hashlib.sha256()
        for column in columns:
            digest.update(f"\0column {column}\0".encode())
            for chunk in self.data.column(column).to_pylist():
                digest.update(repr(chunk).encode("utf-8", "surrogatepass") + b"\0")
        return digest.hexdigest()
