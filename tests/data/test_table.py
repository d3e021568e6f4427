from typing import Any

import pyarrow as pa
import pytest

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
