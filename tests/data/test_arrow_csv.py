import random
from pathlib import Path

import numpy as np
import pytest

from kitune.config import Layout
from kitune.data import arrow_csv, delimited
from kitune.data.arrow_csv import plain_rows
from kitune.data.files import File
from kitune.data.read import read_table
from kitune.data.table import Table
from kitune.errors import UserError

# What decides how a delimited file is read, with a little of what does not.
PIECES = [
    "a",
    "é",
    "日本",
    " ",
    '"',
    '""',
    ",",
    "\t",
    "\n",
    "\r\n",
    '","',
    '"\n',
    '\n"',
    "NA",
    "",
    "x,y",
    "p\tq",
    "\ufeff",
]
ODD = ["\r", "\0", "\\", "'", "#", "\x0b", "\u2028", "null", "1e5"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))


def file_at(path: Path) -> File:
    return File(path, str(path), "csv")


def by_field(path: Path, monkeypatch: pytest.MonkeyPatch) -> Table | str:
    """What the csv module makes of a file: a table, or the refusal."""
    with monkeypatch.context() as patch:
        patch.setattr(delimited, "plain_rows", lambda *_, **__: None)
        try:
            return read_table(path, layout=Layout(encoding="utf-8"))
        except UserError as error:
            return str(error)


def same(one: Table, other: Table) -> bool:
    return (
        one.data.schema.equals(other.data.schema)
        and one.data.to_pylist() == other.data.to_pylist()
        and np.array_equal(one.lines if one.lines is not None else [], other.lines if other.lines is not None else [])
    )


@pytest.mark.parametrize("block_bytes", [7, 64, 2**22])
@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_a_file_that_is_read_by_arrow_gives_what_the_csv_module_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, block_bytes: int
) -> None:
    monkeypatch.setattr(arrow_csv, "BLOCK_BYTES", block_bytes)
    chance = random.Random(block_bytes)
    delimiter = {".csv": ",", ".tsv": "\t"}[ending]
    path, plain_ones = tmp_path / f"rows{ending}", 0
    for number in range(200):
        pieces = PIECES + ODD if number % 4 == 0 else PIECES
        columns, end = chance.choice([1, 2, 3]), chance.choice(["\n", "\r\n"])
        lines = [delimiter.join(f"c{i}" for i in range(columns))]
        for _ in range(chance.randrange(8)):
            fields = ["".join(chance.choices(pieces, k=chance.randrange(4))) for _ in range(columns)]
            if number % 2 and delimiter == "\t":  # well-formed ones, or few would be plain
                fields = ["".join(sign for sign in field if sign not in '"\t\r\n\0') for field in fields]
            elif number % 2:
                must = [bool(set('",\t\r\n') & set(field)) for field in fields]
                quoted = [f'"{field.replace(chr(34), 2 * chr(34))}"' for field in fields]
                fields = [q if m or chance.random() < 0.5 else f for f, q, m in zip(fields, quoted, must, strict=True)]
            lines.append(delimiter.join(fields))
        content = end.join(lines) + chance.choice(["", end])
        path.write_bytes(content.encode(chance.choice(["utf-8", "utf-8", "utf-8-sig"])))
        table = plain_rows(file_at(path), delimiter)
        if table is None:
            continue
        expected = by_field(path, monkeypatch)
        if not len(table):
            assert "it has no rows" in str(expected), content
            continue
        assert isinstance(expected, Table), content
        assert same(table, expected), content
        plain_ones += 1
    assert plain_ones > 40


@pytest.mark.parametrize(
    "content",
    [
        'text,label\na "so",1\n',
        'text,label\n"a" b,1\n',
        'text,label\n"a,1\n',
        "text,label\na\n",
        "text,label\na,1,2\n",
        "text,text\na,1\n",
        "text,label\na\0,1\n",
        "text,label\ra,1\r",
        "text,label\na\rb,1\n",
        "\ntext,label\na,1\n",
        "text\na\n\nb\n",
        "text\na\n\n",
        "",
    ],
)
def test_what_is_not_plain_is_left_to_the_csv_module(tmp_path: Path, content: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content.encode())
    assert plain_rows(file_at(path), ",") is None


def test_bytes_that_are_not_utf8_are_left_to_the_csv_module(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes("text\n日本\n".encode("cp932"))
    assert plain_rows(file_at(path), ",") is None
