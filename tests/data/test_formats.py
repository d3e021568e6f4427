"""Text files as people have them: packed, with other delimiters, without a header, JSON of several shapes, a text a line."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from kitune.data.read import Layout, read_table
from kitune.errors import UserError

ROWS = [{"text": "one, two", "label": "a"}, {"text": "three; four", "label": "b"}, {"text": "NA", "label": "null"}]


def written(path: Path, content: str) -> Path:
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    return path


def delimited(delimiter: str) -> str:
    return "".join(
        delimiter.join(f'"{cell}"' for cell in cells) + "\n" for cells in [list(ROWS[0]), *map(dict.values, ROWS)]
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv.gz", delimited(",")),
        ("rows.TSV.gz", delimited("\t")),
        ("rows.jsonl.gz", "".join(json.dumps(row) + "\n" for row in ROWS)),
        ("rows.json.gz", json.dumps(ROWS)),
    ],
)
def test_packed_files_are_read(tmp_path: Path, name: str, content: str) -> None:
    table = read_table(written(tmp_path / name, content))
    assert table.data.to_pylist() == ROWS
    assert table.where(0).startswith(str(tmp_path / name))


def test_a_broken_packed_file_is_said(tmp_path: Path) -> None:
    whole = gzip.compress(delimited(",").encode() * 100)
    for content in (whole[:-20], b"text,label\na,b\n"):
        (tmp_path / "rows.csv.gz").write_bytes(content)
        with pytest.raises(UserError, match="not a whole gzip file"):
            read_table(tmp_path / "rows.csv.gz")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ending", ["csv", "tsv", "txt"])
def test_the_delimiter_is_found_and_said(tmp_path: Path, delimiter: str, ending: str) -> None:
    if ending == "txt" and delimiter != "\t":
        pytest.skip("a .txt with no tabs is a text a line")
    table = read_table(written(tmp_path / f"rows.{ending}", delimited(delimiter)))
    assert table.data.to_pylist() == ROWS
    usual = {"csv": ",", "tsv": "\t", "txt": ""}[ending]
    assert bool(table.notes) == (delimiter != usual)


def test_the_delimiter_can_be_told(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.csv", "text;label\none, two;a\nthree, four;b\n")
    assert read_table(path, layout=Layout(delimiter=";")).texts("text") == ["one, two", "three, four"]


def test_one_column_of_texts_stays_one(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.csv", "text\na; b\nc; d\n")
    assert read_table(path).texts("text") == ["a; b", "c; d"]


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        json.dumps({"version": 1, "data": ROWS}),
        json.dumps({"text": [row["text"] for row in ROWS], "label": [row["label"] for row in ROWS]}),
        "".join(json.dumps(row) + "\n" for row in ROWS),
        "\n" + "\n\n".join(json.dumps(row) for row in ROWS),
    ],
)
def test_json_of_every_shape(tmp_path: Path, content: str) -> None:
    assert read_table(written(tmp_path / "rows.json", content)).data.to_pylist() == ROWS


@pytest.mark.parametrize("value", [3, ["a"], {"a": [{"b": 1}], "c": [{"d": 1}]}, {"a": [1, 2], "b": [1]}])
def test_json_that_is_no_table_is_said(tmp_path: Path, value: Any) -> None:
    with pytest.raises(UserError, match="this JSON is no table"):
        read_table(written(tmp_path / "rows.json", json.dumps(value)))


def test_broken_json_is_said_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rows.json, line 3: not JSON"):
        read_table(written(tmp_path / "rows.json", '[\n{"text": "a"},\n{"text": b}\n]'))


def test_a_text_a_line(tmp_path: Path) -> None:
    table = read_table(written(tmp_path / "rows.txt", 'a, b\n\n"c\n  d  \r\n'))
    assert table.texts("text") == ["a, b", '"c', "  d  "]
    assert table.where(1).endswith("line 3")


def test_a_file_without_a_header(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.tsv", 'x\t1\ta "b\ny\t0\tc\n')
    table = read_table(path, layout=Layout(header=False))
    assert table.data.to_pylist() == [{"1": "x", "2": "1", "3": 'a "b'}, {"1": "y", "2": "0", "3": "c"}]
    assert table.where(0).endswith("line 1")
    doubled = written(tmp_path / "doubled.csv", "a,1,1\nb,0,0\n")
    with pytest.raises(UserError, match=r"--set data\.header=false"):
        read_table(doubled)
