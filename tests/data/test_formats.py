"""Text files as people have them: packed, with other delimiters, without a header, JSON of several shapes, a text a line."""

import gzip
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas
import pytest

from kitune.config import Layout
from kitune.data.read import read_stream, read_table
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


@pytest.mark.parametrize("orient", ["columns", "index", "records", "table"])
@pytest.mark.parametrize("index", [[0, 1, 2], [7, 3, 5], ["x", "y", "z"]])
def test_json_of_pandas_in_each_orientation(tmp_path: Path, orient: Any, index: list[Any]) -> None:
    frame = pandas.DataFrame(ROWS, index=index)
    rows = read_table(written(tmp_path / "rows.json", frame.to_json(orient=orient))).data.select(["text", "label"])
    assert rows.to_pylist() == ROWS


@pytest.mark.parametrize("value", [3, [1, "a"], {"a": [{"b": 1}], "c": [{"d": 1}]}, {"a": [1, 2], "b": [1]}])
def test_json_that_is_no_table_is_said(tmp_path: Path, value: Any) -> None:
    with pytest.raises(UserError, match="this JSON is no table"):
        read_table(written(tmp_path / "rows.json", json.dumps(value)))


def test_broken_json_is_said_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rows.json, line 3: not JSON"):
        read_table(written(tmp_path / "rows.json", '[\n{"text": "a"},\n{"text": b}\n]'))


def test_a_text_a_line(tmp_path: Path) -> None:
    table = read_table(written(tmp_path / "rows.txt", 'a, b\n\n"c\n  d  \r\n'))
    assert table.texts("text") == ["a, b", "", '"c', "  d  "]
    assert table.where(2).endswith("line 3")


def test_a_file_without_a_header(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.tsv", 'x\t1\ta "b\ny\t0\tc\n')
    table = read_table(path, layout=Layout(header=False))
    assert table.data.to_pylist() == [{"1": "x", "2": "1", "3": 'a "b'}, {"1": "y", "2": "0", "3": "c"}]
    assert table.where(0).endswith("line 1")
    doubled = written(tmp_path / "doubled.csv", "a,1,1\nb,0,0\n")
    with pytest.raises(UserError, match=r"--set data\.header=false"):
        read_table(doubled, layout=Layout(header=True))


# Headers that are not there


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        ("a good film,1\na bad film,0\nfine,1\n", ["1", "2"]),  # a number over numbers
        ('a good film,2\nbad,"0,1"\nfine,1\n', ["1", "2"]),  # several numbers in a field
        ("good one,pos\nbad one,neg\ngood two,pos\nbad two,neg\n", ["1", "2"]),  # a word that stands there again
        ("text,1\nlabel,0\nfine,1\nlabel,1\n", ["text", "1"]),  # a name that the field knows
        ("sentence,polarity\ngood,1\nbad,0\n", ["sentence", "polarity"]),
        ("comment_text,toxic\ngood,1\nbad,0\n", ["comment_text", "toxic"]),  # no number over numbers
        (",Review,Stars\n0,good,5\n1,bad,1\n", ["", "Review", "Stars"]),
        ("1,2\ngood,1\nbad,0\n", ["1", "2"]),  # what kitune itself calls columns without a name
        ("0,1\ngood,1\nbad,0\n", ["0", "1"]),  # what pandas calls them
        (",0,1\n0,good,1\n1,bad,0\n", ["", "0", "1"]),  # and with its index
        ("0,1\n1,1\n2,0\n", ["1", "2"]),  # numbers alone
        ("memo,verdict\ngood one,pos\nbad one,neg\n", ["memo", "verdict"]),
        ("本文,ラベル\n良い,正\n悪い,負\n", ["本文", "ラベル"]),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_whether_the_first_line_names_the_columns_is_found(
    tmp_path: Path, content: str, columns: list[str], end: str
) -> None:
    table = read_table(written(tmp_path / "rows.csv", content.replace("\n", end)))
    named = columns != ["1", "2"] or content.startswith("1,2")
    assert table.columns == columns
    assert len(table) == content.count("\n") - named
    assert table.where(0).endswith("line 2" if named else "line 1")
    assert any("--set data.header=true" in note for note in table.notes) == (not named)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_a_table_without_a_header_is_the_same_by_arrow_and_field_by_field(tmp_path: Path, bom: str, end: str) -> None:
    rows = 'a "b" c\t1\tx\nd\t0\ty\n\ne\t1\tz'.replace("\n", end)
    by_field = read_table(written(tmp_path / "odd.tsv", bom + rows))
    by_arrow = read_table(written(tmp_path / "plain.tsv", bom + rows.replace('"', "'")))
    for table, quote in ((by_field, '"'), (by_arrow, "'")):
        assert table.texts("1") == [f"a {quote}b{quote} c", "d", "e"]
        assert [table.where(i).rpartition(" ")[2] for i in range(3)] == ["1", "2", "4"]


def test_a_header_can_be_told(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.csv", "2019,2020\n1,2\n3,4\n")
    assert read_table(path).columns == ["1", "2"]
    assert read_table(path, layout=Layout(header=True)).columns == ["2019", "2020"]
    assert read_table(path, layout=Layout(header=True)).notes == ()


def test_one_column_of_unknown_name_is_said(tmp_path: Path) -> None:
    (note,) = read_table(written(tmp_path / "rows.csv", "I liked it.\nI did not.\n")).notes
    assert (
        note
        == "rows.csv is read with 'I liked it.' as the name of its column; --set data.header=false if that is a row"
    )


def test_a_line_in_front_of_a_table_with_tabs_is_left_out_aloud(tmp_path: Path) -> None:
    table = read_table(written(tmp_path / "rows.txt", 'Dummy\r\n1\ta "b\r\n0\tc\r\n'))
    assert table.data.to_pylist() == [{"1": "1", "2": 'a "b'}, {"1": "0", "2": "c"}]
    assert table.where(0).endswith("line 2")
    assert table.notes[0] == "rows.txt: its first line, 'Dummy', has no tab where all others have, and is left out"
    named = read_table(written(tmp_path / "named.tsv", "Export of today\ntext\tlabel\na\t1\nb\t0\n"))
    assert named.data.to_pylist() == [{"text": "a", "label": "1"}, {"text": "b", "label": "0"}]


# Rows of different widths


def test_ragged_rows_are_refused_with_the_option_that_reads_them(tmp_path: Path) -> None:
    path = written(
        tmp_path / "sts.csv",
        'a\t1.5\tx "y\nb\t2.5\tz\tmore\teven\nc\t0.5\nd\t1\te\nf\t2\tg\nh\t3\ti\nj\t4\tk\nl\t5\tm\n',
    )
    with pytest.raises(UserError, match=r"sts.csv, line 2: 5 fields where line 1 has 3(.|\n)*--set data.ragged=true"):
        read_table(path)
    table = read_table(path, layout=Layout(ragged=True))
    assert table.columns == ["1", "2", "3", "4", "5"]
    assert table.data.to_pylist()[:3] == [
        {"1": "a", "2": "1.5", "3": 'x "y', "4": None, "5": None},
        {"1": "b", "2": "2.5", "3": "z", "4": "more", "5": "even"},
        {"1": "c", "2": "0.5", "3": None, "4": None, "5": None},
    ]
    assert table.texts("3")[2] == ""
    assert "with tabs between its fields" in table.notes[0]


# A label and a text a line


def test_fasttext_s_format_is_found(tmp_path: Path) -> None:
    table = read_table(
        written(tmp_path / "rows.txt", "__label__a one, two\n__label__b __label__c three\n\n__label__a \n")
    )
    assert table.texts("label") == ["a", "b|c", "a"]
    assert table.texts("text") == ["one, two", "three", ""]
    assert table.where(2).endswith("line 4")
    assert "a label and a text a line" in table.notes[0]


@pytest.mark.parametrize("label", ["__label__{}", "LOC:{}"])
def test_a_later_line_without_a_label_is_refused_unless_the_first_word_is_told_to_be_one(
    tmp_path: Path, label: str
) -> None:
    lines = [f"{label.format('ab'[i % 2])} text {i}" for i in range(70)]
    lines[60] = "Great film, I cried"
    path = written(tmp_path / "rows.txt", "\n".join(lines))
    with pytest.raises(
        UserError, match=r"line 61: it does not begin with a label, .*: 'Great film, I cried'"
    ) as caught:
        read_table(path)
    assert "--set data.label_first=true" in caught.value.fix
    assert read_table(path, layout=Layout(label_first=True)).values("label")[60] == "Great"


def test_a_label_first_can_be_told(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.txt", "city Where is it?\ncount How many?\n")
    table = read_table(path, layout=Layout(label_first=True))
    assert table.data.to_pylist() == [
        {"label": "city", "text": "Where is it?"},
        {"label": "count", "text": "How many?"},
    ]


# CoNLL


def test_conll_files_are_sentences(tmp_path: Path) -> None:
    content = "-DOCSTART- -X- O\n\n東京\tO\tB-LOC\nは\tO\tO\n \t \nIt\tO\tO\n\n\n"
    table = read_table(written(tmp_path / "rows.conll", content))
    assert table.data.to_pylist() == [
        {"tokens": ["東京", "は"], "tags": ["B-LOC", "O"]},
        {"tokens": ["It"], "tags": ["O"]},
    ]
    assert [table.where(i).rpartition(" ")[2] for i in range(2)] == ["3", "6"]
    with pytest.raises(UserError, match="line 2: 1 column where a token and its tag make 2"):
        read_table(written(tmp_path / "broken.conll", "a\tO\nb\n"))


# Excel


def workbook(path: Path, sheets: dict[str, list[list[Any]]]) -> Path:
    """An .xlsx file by hand: what calamine reads needs no library that writes."""
    import zipfile
    from xml.sax.saxutils import escape

    def cell(value: Any) -> str:
        if value is None:
            return "<c/>"
        if isinstance(value, bool):
            return f'<c t="b"><v>{int(value)}</v></c>'
        if isinstance(value, int | float):
            return f"<c><v>{value}</v></c>"
        return f'<c t="inlineStr"><is><t xml:space="preserve">{escape(value)}</t></is></c>'

    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    relations = "http://schemas.openxmlformats.org/package/2006/relationships"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    names = "".join(f'<sheet name="{escape(name)}" sheetId="{i}" r:id="r{i}"/>' for i, name in enumerate(sheets, 1))
    links = "".join(
        f'<Relationship Id="r{i}" Type="{office}/worksheet" Target="worksheets/s{i}.xml"/>'
        for i in range(1, len(sheets) + 1)
    )
    files = {
        "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>',
        "_rels/.rels": f'<Relationships xmlns="{relations}"><Relationship Id="r" Type="{office}/officeDocument" '
        'Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets>{names}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{relations}">{links}</Relationships>',
    }
    for i, rows in enumerate(sheets.values(), 1):
        lines = "".join(f'<row r="{r}">{"".join(map(cell, row))}</row>' for r, row in enumerate(rows, 1))
        files[f"xl/worksheets/s{i}.xml"] = f'<worksheet xmlns="{main}"><sheetData>{lines}</sheetData></worksheet>'
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, f'<?xml version="1.0" encoding="UTF-8"?>{content}')
    return path


def test_a_sheet_of_a_workbook(tmp_path: Path) -> None:
    rows: list[list[Any]] = [
        ["text", "stars", "mixed", "share"],
        ["良い & fine", 5, "NA", 0.5],
        [None, None, None, None],
        ["悪い", 1, 100, 1],
    ]
    path = workbook(tmp_path / "book.xlsx", {"Q1": rows, "Q2": [["text"], ["other"]]})
    table = read_table(path)
    assert table.data.to_pylist() == [
        {"text": "良い & fine", "stars": 5, "mixed": "NA", "share": 0.5},
        {"text": "悪い", "stars": 1, "mixed": "100", "share": 1.0},
    ]
    assert table.where(1) == f"{path}, line 4"
    assert table.notes == ("book.xlsx has sheets Q1, Q2; Q1 is read",)
    assert read_table(path, layout=Layout(sheet="Q2")).texts("text") == ["other"]
    with pytest.raises(UserError, match=r"no sheet 'Q3'; there are Q1, Q2"):
        read_table(path, layout=Layout(sheet="Q3"))
    with pytest.raises(UserError, match="not an Excel workbook"):
        read_table(written(tmp_path / "broken.xlsx", "text,label\n"))


# A format that the name does not say; addresses


def test_the_format_can_be_told(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.data", "text,label\na,1\n")
    with pytest.raises(UserError, match=r"ending .data is not one that kitune reads\n(.*)--set data.format=csv"):
        read_table(path)
    assert read_table(path, layout=Layout(format="csv")).data.to_pylist() == [{"text": "a", "label": "1"}]


def test_a_pipe_is_read_as_a_file_is(tmp_path: Path) -> None:
    import os
    import threading

    path, content = tmp_path / "rows.csv", "text;label\n日本;a\n中国;b\nとても;c\n".encode("cp932")
    os.mkfifo(path)
    threading.Thread(target=lambda: path.write_bytes(content), daemon=True).start()
    table = read_table(path, layout=Layout(encoding="cp932"))
    assert table.texts("text") == ["日本", "中国", "とても"]
    assert table.source == str(path)


def test_an_address_of_fsspec_is_read(tmp_path: Path) -> None:
    import fsspec

    with fsspec.open("memory://folder/rows.csv.gz", "wb") as file:
        file.write(gzip.compress(b"text,label\na,1\n"))
    table = read_table("memory://folder/rows.csv.gz")
    assert table.data.to_pylist() == [{"text": "a", "label": "1"}]
    assert table.where(0) == "memory://folder/rows.csv.gz, line 2"
    for address in ("memory://folder/none.csv", "klingon://a/b.csv"):
        with pytest.raises(UserError, match=f"{address}: cannot be read"):
            read_table(address)


class Web(BaseHTTPRequestHandler):
    """A server with a few rows; one of its bodies breaks off."""

    rows = "text,label\nとても良い,a\nbad,b\n".encode()

    def do_GET(self) -> None:
        name = self.path.partition("?")[0]
        if name == "/moved.csv":
            self.send_response(302)
            self.send_header("Location", "/rows.csv")
            self.end_headers()
            return
        bodies = {"/rows.csv": self.rows, "/rows.csv.gz": gzip.compress(self.rows), "/broken.csv": self.rows[:20]}
        if name not in bodies:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.rows) if name == "/broken.csv" else len(bodies[name])))
        self.end_headers()
        self.wfile.write(bodies[name])

    def log_message(self, *_: Any) -> None:
        """Nothing: the tests' output is not its place."""


@pytest.fixture
def web() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Web) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz", "rows.csv?download=1", "moved.csv"])
def test_a_file_of_a_web_server_is_read(web: str, name: str) -> None:
    table = read_table(f"{web}/{name}")
    assert table.texts("text") == ["とても良い", "bad"]
    assert table.where(1) == f"{web}/{name}, line 3"


@pytest.mark.parametrize(("name", "said"), [("none.csv", "404"), ("broken.csv", "after 20 of 35 bytes")])
def test_a_web_server_s_refusal_or_broken_answer_is_an_error_not_fewer_rows(web: str, name: str, said: str) -> None:
    with pytest.raises(UserError, match=rf"{web}/{name}: cannot be read: .*{said}"):
        read_table(f"{web}/{name}")


def test_the_line_that_excel_writes_above_a_header_names_the_delimiter(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.csv", "sep=;\ntext;label\nlovely, really;a\nbad;b\n")
    table = read_table(path)
    assert table.data.to_pylist() == [{"text": "lovely, really", "label": "a"}, {"text": "bad", "label": "b"}]
    assert table.where(0) == f"{path}, line 3"
    assert table.notes == ("rows.csv: its first line, 'sep=;', names the delimiter and is left out",)
    stream = io.BytesIO(path.read_bytes())
    assert read_stream(stream, ("text",)).data.to_pylist() == table.data.to_pylist()


def test_a_quote_that_is_never_closed_is_said_where_it_is_opened(tmp_path: Path) -> None:
    lines = ["text,label", *(f"row {i},a" for i in range(9)), '"a 12 inch screen,b', *(f"row {i},a" for i in range(9))]
    with pytest.raises(UserError, match="line 11: a quote is opened in this row and never closed"):
        read_table(written(tmp_path / "rows.csv", "\n".join(lines) + "\n"))


def test_a_quote_that_a_later_one_closes_is_said_where_it_is_opened(tmp_path: Path) -> None:
    lines = ["text,label", *(f"row {i},a" for i in range(18)), '"12 inch,b', *(f"row {i},a" for i in range(280))]
    lines += ['"good, really",a']
    with pytest.raises(UserError, match="line 20: a quote is opened in this row, and on line 301 there is another one"):
        read_table(written(tmp_path / "rows.csv", "\n".join(lines) + "\n"))


@pytest.mark.parametrize("delimiter", [",", "\t"])
@pytest.mark.parametrize("begin", ["\n", " \n\n", "{0}\n", "\r\n"])
def test_empty_rows_above_a_header_are_none(tmp_path: Path, delimiter: str, begin: str) -> None:
    content = begin.format(delimiter) + delimited(delimiter)
    path = written(tmp_path / ("rows.csv" if delimiter == "," else "rows.tsv"), content)
    table = read_table(path)
    assert table.data.to_pylist() == ROWS
    assert table.where(0) == f"{path}, line {begin.count(chr(10)) + 2}"


def test_a_sheet_may_begin_in_another_column_and_have_one_without_a_name(tmp_path: Path) -> None:
    rows: list[list[Any]] = [[None, None, None, "text", "stars"], [None, None, 0, "good", 5], [None, None, 1, "bad", 1]]
    table = read_table(workbook(tmp_path / "book.xlsx", {"Q1": rows}))
    assert table.data.to_pylist() == [{"": 0, "text": "good", "stars": 5}, {"": 1, "text": "bad", "stars": 1}]


def test_a_sheet_with_a_title_above_its_header_is_refused(tmp_path: Path) -> None:
    path = workbook(tmp_path / "book.xlsx", {"Q1": [["Export 2024"], ["id", "text", "stars"], [1, "good", 5]]})
    with pytest.raises(UserError, match=r"line 2: 3 cells where line 1, the header, has 1"):
        read_table(path)


@pytest.mark.parametrize(
    ("begin", "what"),
    [(b"PK\x03\x04rest", "an Excel workbook"), (b"PAR1rest", "a Parquet file"), (b"\x1f\x8brest", "packed with gzip")],
)
def test_a_file_that_is_no_text_says_what_it_is(tmp_path: Path, begin: bytes, what: str) -> None:
    (tmp_path / "rows.csv").write_bytes(begin)
    with pytest.raises(UserError, match=what):
        read_table(tmp_path / "rows.csv")
