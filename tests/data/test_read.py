import csv
import gzip
import io
import json
import re
import shlex
from pathlib import Path
from typing import Any

import datasets
import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import kitune
from kitune.config import Layout
from kitune.data.read import read_stream, read_table
from kitune.data.sources import read_part
from kitune.data.table import CHUNK_ROWS
from kitune.errors import UserError

# Strings that a guessing reader turns into numbers or into nothing.
TREACHEROUS = ["None", "NA", "null", "nan", "007", "1.0", "true", "", " 5 ", "1e5", "-"]


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def lines_of(path: Path, **options: Any) -> list[int]:
    lines = read_table(path, **options).lines
    assert lines is not None
    return [int(line) for line in lines]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_row_knows_the_line_it_begins_on_whatever_line_breaks_its_fields_hold(tmp_path: Path, end: str) -> None:
    content = 'text,label\n"two\nlines",a\nplain,b\n\n"three\n\nmore",c\nlast,d\n'.replace("\n", end)
    path = written(tmp_path / "rows.csv", content)
    table = read_table(path)
    assert table.texts("text") == [f"two{end}lines", "plain", f"three{end}{end}more", "last"]
    assert table.texts("label") == ["a", "b", "c", "d"]
    assert lines_of(path) == [2, 4, 6, 9]
    assert table.where(2) == f"{path}, line 6"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("ending", ["csv", "tsv"])
@pytest.mark.parametrize("last", ["", "\n", "\n\n\n"])
def test_an_empty_line_of_a_single_column_is_an_empty_cell_unless_it_ends_the_file(
    tmp_path: Path, ending: str, end: str, last: str
) -> None:
    content = "\nreview\n\ngood film\n\n\nbad\n \nfine" + last
    path = written(tmp_path / f"rows.{ending}", content.replace("\n", end))
    assert read_table(path).values("review") == ["", "good film", "", "", "bad", " ", "fine"]
    assert lines_of(path) == [3, 4, 5, 6, 7, 8, 9]
    assert read_stream(io.BytesIO(content[1:].encode()), ["review"]).values("review") == read_table(path).values(
        "review"
    )
    bare = written(tmp_path / f"bare.{ending}", content.replace("review", "so").replace("\n", end))
    assert lines_of(bare, layout=Layout(header=False)) == [2, 3, 4, 5, 6, 7, 8, 9]


def test_a_last_line_without_a_line_end_is_a_row(tmp_path: Path) -> None:
    assert read_table(written(tmp_path / "rows.csv", "text,label\na,1\nb,2")).texts("text") == ["a", "b"]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path, ending: str) -> None:
    content = {"csv": "text,label\na,1\n", "tsv": "text\tlabel\na\t1\n", "jsonl": '{"text": "a", "label": "1"}\n'}
    table = read_table(written(tmp_path / f"rows.{ending}", b"\xef\xbb\xbf" + content[ending].encode()))
    assert table.data.to_pylist() == [{"text": "a", "label": "1"}]


def test_quoted_commas_and_doubled_quotes_are_text(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.csv", 'text,label\n"one, two","say ""hi"""\n"""",\n')
    assert read_table(path).data.to_pylist() == [{"text": "one, two", "label": 'say "hi"'}, {"text": '"', "label": ""}]


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_what_pandas_writes_reads_back_as_it_was(tmp_path: Path, ending: str, quoting: Any) -> None:
    texts = ['a "b" c', "tab\tinside", "line\nbreak", '"whole"', "plain", 'ends "so"', "comma, too", '"', ""]
    frame = pandas.DataFrame({"text": texts, "label": [str(i) for i in range(len(texts))]})
    path = tmp_path / f"rows.{ending}"
    frame.to_csv(path, sep={"csv": ",", "tsv": "\t"}[ending], index=False, quoting=quoting)
    assert read_table(path).data.to_pylist() == frame.to_dict("records")
    assert lines_of(path) == [2, 3, 4, 6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize(
    "texts",
    [
        ['He said "no', "plain"],
        ['He said "no" twice', 'and "yes"'],
        ['"Great" film', '"Nice"', "fine"],
        ['"opens only', "next", 'closes only"'],
        ['27" screen', '"'],
    ],
)
def test_bare_quotes_in_a_tsv_are_text(tmp_path: Path, texts: list[str]) -> None:
    path = written(tmp_path / "rows.tsv", "text\tlabel\n" + "".join(f"{text}\tx\n" for text in texts))
    assert read_table(path).texts("text") == texts
    assert lines_of(path) == [*range(2, len(texts) + 2)]


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_every_cell_of_a_text_file_stays_the_string_it_is(tmp_path: Path, ending: str) -> None:
    separator = {"csv": ",", "tsv": "\t"}[ending]
    content = "".join(f"{text}{separator}x\n" for text in ["text", *TREACHEROUS])
    assert read_table(written(tmp_path / f"rows.{ending}", content)).values("text") == TREACHEROUS


def test_json_lines_keep_types_lists_and_their_lines(tmp_path: Path) -> None:
    rows = [{"text": "007", "label": ["a", "b"], "n": 1}, {"text": "null", "label": [], "n": 2}, {"label": None}]
    content = "\n\n".join(json.dumps(row) for row in rows) + "\n"
    table = read_table(written(tmp_path / "rows.jsonl", content))
    assert table.values("label") == [["a", "b"], [], None]
    assert table.values("text") == ["007", "null", None]
    assert table.values("n") == [1, 2, None]
    assert [table.where(row)[-6:] for row in range(3)] == ["line 1", "line 3", "line 5"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a"', "line 2: not JSON"),
        ('["a"]', "line 2: not a JSON object"),
        ('{"text": 5}', "lines 1 to 2: a column mixes types"),
        ('{"text": "\\ud800"}', r"lines 1 to 2: .*surrogate"),
        ('{"text": "b", "id": 123456789012345678901234567890}', "lines 1 to 2: .*"),
    ],
)
def test_a_bad_json_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = written(tmp_path / "rows.jsonl", '{"text": "a", "id": 1}\n' + line + "\n")
    with pytest.raises(UserError, match=f"{re.escape(str(path))}, {message}"):
        read_table(path)


def test_a_column_may_begin_or_change_its_kind_of_number_after_many_rows() -> None:
    rows: list[dict[str, Any]] = [{"text": "a", "score": 1} for _ in range(CHUNK_ROWS)]
    table = read_table([*rows, {"text": "b", "score": 0.5, "late": ["x"]}])
    assert table.values("score")[-2:] == [1.0, 0.5]
    assert table.values("late")[-2:] == [None, ["x"]]
    with pytest.raises(UserError, match="a column mixes types"):
        read_table([*rows, {"text": "b", "score": "high"}])


def test_a_parquet_file_keeps_its_types(tmp_path: Path) -> None:
    data = pa.table(
        {
            "text": ["007", None, "ü"],
            "label": pa.array([1, None, 3], pa.int32()),
            "score": [0.5, 1.5, None],
            "labels": [["a"], [], None],
            "sure": [True, False, None],
        }
    )
    pq.write_table(data, tmp_path / "rows.parquet")
    table = read_table(tmp_path / "rows.parquet")
    assert table.data.schema.equals(data.schema)
    assert table.data.to_pylist() == data.to_pylist()
    assert table.where(1) == f"{tmp_path / 'rows.parquet'}, row 1 (from 0)"


def test_half_a_parquet_file_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"] * 1000}), tmp_path / "rows.parquet")
    whole = (tmp_path / "rows.parquet").read_bytes()
    (tmp_path / "rows.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a whole Parquet file"):
        read_table(tmp_path / "rows.parquet")


@pytest.mark.parametrize("ending", ["csv", "tsv"])
@pytest.mark.parametrize(("row", "fields"), [("b,2,3", "3 fields"), ("b", "1 field")])
def test_a_ragged_row_is_named_with_its_file_line_and_fields(
    tmp_path: Path, ending: str, row: str, fields: str
) -> None:
    content = f"text,label\na,1\n{row}\nc,3\n"
    path = written(tmp_path / f"rows.{ending}", content.replace(",", {"csv": ",", "tsv": "\t"}[ending]))
    with pytest.raises(UserError, match=re.escape(f"{path}, line 3: {fields} where the header has 2\n  fix: quote")):
        read_table(path)


def test_a_ragged_row_after_line_breaks_is_named_by_its_own_line(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.csv", 'text,label\n"a\nb\nc",1\n"d\ne"\n')
    with pytest.raises(UserError, match="line 5: 1 field where"):
        read_table(path)


def test_a_stray_quote_in_a_csv_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"line 3: .*\n  fix: write a quote inside a quoted field twice"):
        read_table(written(tmp_path / "rows.csv", 'text,label\na,1\n"b" c,2\n'))


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="line 1: two columns are called 'text'"):
        read_table(written(tmp_path / "rows.csv", "text,label,text\na,1,b\n"))


@pytest.mark.parametrize("look", [kitune.inspect, kitune.doctor, kitune.train])
def test_two_columns_of_one_name_are_refused_in_parquet_and_arrow(tmp_path: Path, look: Any) -> None:
    table = pa.table([list("ab") * 6, list("xy") * 6, list("cd") * 6], names=["text", "label", "other"])
    table = table.rename_columns(["text", "label", "text"])
    pq.write_table(table, tmp_path / "rows.parquet")
    for source in (table, tmp_path / "rows.parquet"):
        with pytest.raises(UserError, match="two columns are called 'text'\n  fix: give each column a name of its own"):
            look(source)


def test_views_of_arrow_are_read_as_strings() -> None:
    frame = polars.DataFrame({"text": ["a", "ü"], "raw": [b"x", b"y"], "label": ["1", None]})
    views = pa.table(frame)
    assert pa.types.is_string_view(views.schema.field("text").type)
    table = read_table(views)
    assert {str(field.type) for field in table.data.schema} == {"large_string"}
    assert table.data.to_pylist() == [{"text": "a", "raw": "x", "label": "1"}, {"text": "ü", "raw": "y", "label": None}]


def test_a_file_that_may_not_be_read_is_answered_with_a_line_for_the_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, layout: Layout) -> Any:
        raise PermissionError

    path = written(tmp_path / "it's mine.csv", "text\na\n")
    monkeypatch.setattr("kitune.data.read.opened", refused)
    with pytest.raises(UserError, match="not readable by you") as caught:
        read_table(path)
    assert shlex.split(caught.value.fix.rpartition(", or")[0]) == ["chmod", "u+r", str(path)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.csv", "", "it is empty"),
        ("rows.tsv", "", "it is empty"),
        ("rows.csv", "\n\n", "it is empty"),
        ("rows.csv", "text,label\n", "it has no rows"),
        ("rows.tsv", "text\tlabel", "it has no rows"),
        ("rows.jsonl", "", "it has no rows"),
    ],
)
def test_a_file_without_rows_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = written(tmp_path / name, content)
    with pytest.raises(UserError, match=re.escape(f"{path}: {message}\n  fix: give")):
        read_table(path)


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_file_whose_few_characters_do_not_show_its_encoding_is_refused_and_read_when_told(
    tmp_path: Path, ending: str
) -> None:
    content = {
        "csv": "text,label\nplain,a\n日本語の表,b\n",
        "jsonl": '{"text": "0"}\n{"text": "plain"}\n{"text": "日本語の表"}\n',
    }
    path = written(tmp_path / f"rows.{ending}", content[ending].encode("cp932"))
    with pytest.raises(UserError, match="not UTF-8, and its characters do not show") as caught:
        read_table(path)
    assert "--set data.encoding=cp932" in caught.value.fix
    assert read_table(path, layout=Layout(encoding="cp932")).texts("text")[-2:] == ["plain", "日本語の表"]
    with pytest.raises(UserError, match="line 3: byte 0x93 is not UTF-8"):
        read_table(path, layout=Layout(encoding="utf-8"))


def test_an_encoding_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.encoding: 'klingon' is no encoding"):
        read_table(written(tmp_path / "rows.csv", "text\na\n"), layout=Layout(encoding="klingon"))


def test_frames_lists_and_files_of_the_same_rows_have_one_fingerprint(tmp_path: Path) -> None:
    rows = [{"text": "a, b", "label": "x"}, {"text": "ü", "label": "y"}]
    frame = pandas.DataFrame(rows)
    frame.to_csv(tmp_path / "rows.csv", index=False)
    sources = [
        rows,
        frame,
        polars.DataFrame(rows),
        pa.Table.from_pylist(rows),
        datasets.Dataset.from_list(rows),
        tmp_path / "rows.csv",
        str(tmp_path / "rows.csv"),
    ]
    tables = [read_table(source) for source in sources]
    assert all(table.data.to_pylist() == rows for table in tables)
    assert len({table.fingerprint(["text", "label"]) for table in tables}) == 1
    assert tables[0].fingerprint(["text"]) != tables[0].fingerprint(["label"])
    assert tables[0].where(1) == "list data, row 1 (from 0)"
    assert read_table(tables[0]) is tables[0]


def test_a_missing_value_of_pandas_is_an_empty_cell() -> None:
    frame = pandas.DataFrame({"text": ["a", None], "score": [0.5, float("nan")]}, index=[7, 3])
    table = read_table(frame)
    assert table.columns == ["text", "score"]
    assert table.values("text") == ["a", None]
    assert table.values("score") == [0.5, None]


def test_a_pandas_column_of_several_types_is_refused() -> None:
    with pytest.raises(UserError, match=r"DataFrame data: .*text.*\n  fix: use one type in each column"):
        read_table(pandas.DataFrame({"text": ["a", 5]}))


def test_class_labels_of_a_data_set_come_as_names_and_minus_one_as_empty() -> None:
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["no", "yes"]),
            "tags": datasets.List(datasets.ClassLabel(names=["a", "b", "c"])),
        }
    )
    columns = {"text": ["s", "t", "u"], "label": [1, 0, -1], "tags": [[2, 0], [], None]}
    table = read_table(datasets.Dataset.from_dict(columns, features=features))
    assert table.columns == ["text", "label", "tags"]
    assert table.values("label") == ["yes", "no", None]
    assert table.values("tags") == [["c", "a"], [], None]


def test_a_selected_and_shuffled_data_set_comes_in_its_own_order() -> None:
    data = datasets.Dataset.from_dict({"text": [str(i) for i in range(20)]}).shuffle(seed=3).select(range(5, 15))
    assert read_table(data).values("text") == data["text"][:]


@pytest.mark.parametrize("source", [42, {"text": ["a"]}, ["a", "b"]])
def test_what_is_no_table_is_refused_by_its_type(source: Any) -> None:
    with pytest.raises(UserError, match=f"train: a {type(source).__name__} is no table"):
        read_table(source, name="train")


def test_an_empty_list_has_no_rows() -> None:
    with pytest.raises(UserError, match="list data: it has no rows"):
        read_table([])


@pytest.mark.parametrize("name", ["rows.doc", "rows", "rows.zip"])
def test_an_ending_that_is_not_read_is_refused_with_those_that_are(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        UserError, match=r"is not one that kitune reads\n  fix: use .csv, .tsv, .txt, .jsonl, .json, .conll, .parquet"
    ):
        read_table(written(tmp_path / name, gzip.compress(b"text\na\n")))


def test_an_ending_in_capitals_is_read(tmp_path: Path) -> None:
    assert len(read_table(written(tmp_path / "ROWS.CSV", "text\na\n"))) == 1


def test_a_misspelt_file_is_answered_with_its_neighbour(tmp_path: Path) -> None:
    path = written(tmp_path / "train.csv", "text\na\n")
    with pytest.raises(UserError, match=re.escape(f"trian.csv: there is no such file\n  fix: did you mean {path}?")):
        read_table(tmp_path / "trian.csv")
    with pytest.raises(UserError, match="fix: check the path; the current folder is"):
        read_table(tmp_path / "nowhere" / "xyz.csv")


def test_a_stream_may_be_json_lines() -> None:
    table = read_stream(io.BytesIO(b'{"text": "a"}\n\n{"text": "b", "id": 1}\n'), ["text"])
    assert table.values("text") == ["a", "b"]
    assert table.where(1) == "standard input, line 3"


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_a_stream_may_have_a_header_with_the_text_columns(delimiter: str) -> None:
    lines = [f"id{delimiter}text\n", f'1{delimiter}"a\n', 'b"\n', f"2{delimiter}c\n"]
    table = read_stream(io.BytesIO("".join(lines).encode()), ["text"])
    assert table.data.to_pylist() == [{"id": "1", "text": "a\nb"}, {"id": "2", "text": "c"}]
    assert table.where(1) == "standard input, line 4"


def test_a_stream_is_laid_out_as_the_runs_own_files() -> None:
    semicolons = b"id;text\n1;good, but cold\n2;fine\n"
    for layout in (Layout(), Layout(delimiter=";"), Layout(delimiter=";", ragged=True)):
        assert read_stream(io.BytesIO(semicolons), ["text"], layout).values("text") == ["good, but cold", "fine"]
    told = Layout(header=False, delimiter=";")
    table = read_stream(io.BytesIO(b"1;good, but cold\n2;fine\n"), ["2"], told)
    assert table.values("2") == ["good, but cold", "fine"]
    assert "without a header, as data.header says" in table.notes[-1]
    assert read_stream(io.BytesIO(b"good\nfine\n"), ["2"], told).values("2") == ["good", "fine"]


def test_a_stream_that_is_read_as_bare_lines_says_so() -> None:
    table = read_stream(io.BytesIO(b"review,stars\ngood,5\n"), ["text"])
    assert table.values("text") == ["review,stars", "good,5"]
    assert table.notes == ("standard input is read as a text a line: its first line is no header with 'text'",)


def test_a_damaged_gzip_stream_is_named(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(b"text,label\n" + b"good,1\nbad,0\n" * 500))
    packed[12:20] = b"\xff" * 8
    (tmp_path / "rows.csv.gz").write_bytes(packed)
    with pytest.raises(UserError, match=r"rows\.csv\.gz: not a whole gzip file"):
        read_table(tmp_path / "rows.csv.gz")


def test_a_text_in_the_place_of_a_file_is_answered_with_a_list() -> None:
    with pytest.raises(UserError, match="of texts, give a list"):
        read_part("a long review " * 40, None, layout=Layout())


def test_what_is_no_table_of_rows_is_refused() -> None:
    stream = datasets.Dataset.from_list([{"text": "a"}]).to_iterable_dataset()
    with pytest.raises(UserError, match=r"it is read as a stream(.|\n)*streaming=False"):
        read_table(stream)
    with pytest.raises(UserError, match="a Series is no table"):
        read_table(pandas.Series(["a", "b"]))


def test_a_stream_may_be_a_text_a_line() -> None:
    table = read_stream(io.BytesIO(b'one, two\r\n\nsay "hi"\nlast'), ["text"])
    assert table.values("text") == ["one, two", "", 'say "hi"', "last"]
    assert table.where(2) == "standard input, line 3"


def test_a_stream_of_bare_lines_is_no_stream_of_pairs() -> None:
    with pytest.raises(UserError, match=r"this run reads pairs(.|\n)*send JSON lines with a and b"):
        read_stream(io.BytesIO(b"one\ntwo\n"), ["a", "b"])


def test_a_long_line_of_standard_input_is_a_text() -> None:
    long = "word " * 40_000
    table = read_stream(io.BytesIO(f"{long}\nshort\n".encode()), ("text",))
    assert table.texts("text") == [long, "short"]


def test_an_encoding_that_wants_a_mark_and_a_codec_that_is_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes("text,label\ngut,1\n".encode("utf-16-le"))
    with pytest.raises(UserError, match=r"--set data\.encoding=utf-16-le, or utf-16-be"):
        read_table(tmp_path / "rows.csv", layout=Layout(encoding="utf-16"))
    with pytest.raises(UserError, match="'hex' is no encoding"):
        read_table(tmp_path / "rows.csv", layout=Layout(encoding="hex"))


def test_a_label_may_be_parted_from_its_text_by_a_tab(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("__label__pos\tgreat  film\n__label__neg  __label__short\tdull\n")
    table = read_table(tmp_path / "rows.txt")
    assert table.values("label") == ["pos", "neg|short"]
    assert table.texts("text") == ["great  film", "dull"]
