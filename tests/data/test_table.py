from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from kitune.data import mapped
from kitune.data.table import Table

TEXTS = ["a", "", None, "日本", "a b", None, "x" * 50]


def table(texts: Any) -> Table:
    return Table(pa.table({"text": texts}), "here")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_equal_texts_have_one_fingerprint_whatever_arrow_makes_of_them(kind: Any) -> None:
    whole = table(pa.array(TEXTS, pa.string())).fingerprint(["text"])
    column = pa.array(TEXTS, kind)
    chunks = [column.slice(0, 3), column.slice(3, 0), column.slice(3)]
    assert table(column).fingerprint(["text"]) == whole
    assert table(pa.chunked_array(chunks, kind)).fingerprint(["text"]) == whole
    assert table(pa.array(["other", *TEXTS, "other"], kind).slice(1, len(TEXTS))).fingerprint(["text"]) == whole


def test_texts_that_differ_in_any_way_have_other_fingerprints() -> None:
    columns: list[Any] = [
        ["ab", "c"],
        ["a", "bc"],
        ["abc"],
        ["ab", "c", ""],
        ["ab", "c", None],
        ["c", "ab"],
        ["ab", None, "c"],
        ["1", "2"],
        [1, 2],
        [1.0, 2.0],
        pa.array([None, None], pa.string()),
        ["", ""],
    ]
    assert len({table(texts).fingerprint(["text"]) for texts in columns}) == len(columns)
    nothing = pa.nulls(2)
    assert table(nothing).fingerprint(["text"]) == table(nothing.cast(pa.string())).fingerprint(["text"])


@pytest.mark.parametrize(
    "rows",
    [[], [3], [3, 4, 5], [0, 2, 2, 9], [*range(0, 60, 7)], [59, 0, 31, 31, 2], [*range(60)], [*range(59, -1, -1)]],
)
def test_rows_are_taken_in_any_order_from_any_chunks(rows: list[int]) -> None:
    texts, numbers = [f"row {i}" for i in range(60)], list(range(60))
    uneven = {
        "text": pa.chunked_array([texts[:7], [], texts[7:20], texts[20:]], pa.string()),
        "number": pa.chunked_array([numbers[:31], numbers[31:]]),
    }
    whole = Table(pa.table(uneven), "here", np.arange(60) * 2)
    taken = whole.take(np.asarray(rows, dtype=np.int64))
    assert taken.data.to_pydict() == {"text": [texts[row] for row in rows], "number": rows}
    assert taken.lines is not None
    assert taken.lines.tolist() == [2 * row for row in rows]
    assert taken.data.schema == whole.data.schema


def test_rows_are_taken_from_more_text_than_one_arrow_array_holds() -> None:
    chunk = pa.array(["x" * 8000 + str(i) for i in range(10_000)])
    large = Table(pa.table({"text": pa.chunked_array([chunk] * 30)}), "here")  # 2.4 GB, of which 80 MB are there
    rows = np.asarray([1, 15_002, 299_999])
    assert [text[8000:] for text in large.take(rows).texts("text")] == ["1", "5002", "9999"]


def test_many_rows_are_taken_to_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(mapped, "MAPPED_BYTES", 10_000)
    whole = table(pa.chunked_array([[f"row {i} " * 10 for i in range(k, k + 50)] for k in range(0, 2000, 50)]))
    rows = np.flatnonzero(np.arange(2000) % 10 != 3)
    begun = pa.total_allocated_bytes()
    taken = whole.take(rows)
    assert pa.total_allocated_bytes() - begun < taken.data.nbytes / 2
    assert taken.texts("text") == [whole.texts("text")[row] for row in rows]
