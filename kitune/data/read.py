"""One way in for every source: files by their ending, frames and lists as they are."""

import csv
import gzip
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from types import NoneType
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from kitune.config import DataOptions
from kitune.data.delimited import plain_rows
from kitune.data.encoding import AUTO, UTF8, by_characters, by_first_bytes, open_bytes, open_text
from kitune.data.table import Table
from kitune.errors import UserError, numbered

# A path, a frame of pandas, polars or Arrow, a `datasets.Dataset`, or a list of dicts.
Source: TypeAlias = Any

# Rows that become one Arrow chunk: Python objects of the whole file never stand in memory at once.
CHUNK_ROWS = 10_000
# Delimiters by their names in messages, and how many lines show which it is.
DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
FIRST_LINES = 50


@dataclass(frozen=True)
class Layout:
    """How a text file says its rows: the options of the same names."""

    encoding: str = AUTO
    delimiter: str = AUTO
    header: bool = True


def layout_of(options: DataOptions) -> Layout:
    """The layout that the options tell."""
    return Layout(options.encoding, options.delimiter, options.header)


def read_table(source: Source, *, layout: Layout = Layout(), name: str = "data") -> Table:
    """The rows of `source`, each with its place.

    Text files give strings only (`NA`, `null` and `007` stay what they are); JSON and Parquet keep their types.

    Args:
        source: path of a .csv, .tsv, .txt, .jsonl, .json or .parquet file, of a text file with .gz behind it, a frame, a
            `datasets.Dataset`, or a list of dicts.
        layout: of text files.
        name: what messages call a source that is no file.

    Raises:
        UserError: the file is missing, not readable, ragged or empty; with file and line.
    """
    if isinstance(source, Table):
        return source
    table = read_file(Path(source), layout) if isinstance(source, str | Path) else from_python(source, name)
    if not len(table):
        raise UserError(f"{table.source}: it has no rows", fix="give data with at least one row under the header")
    return table


def read_file(path: Path, layout: Layout) -> Table:
    """The table in a file, by its ending."""
    if path.is_dir():
        inside = sorted(child.name for child in path.iterdir() if ending_of(child) in READERS)
        raise UserError(
            f"{path}: a folder, not a file"
            + (f"; it holds {', '.join(inside[:5])}" if inside else " and no data in it"),
            fix=f"give one of its files: {path / inside[0]}" if inside else f"give a file: {', '.join(READERS)}",
        )
    if not path.exists():
        raise UserError(f"{path}: there is no such file", fix=nearby_files(path))
    reader = READERS.get(ending_of(path))
    if reader is None:
        raise UserError(
            f"{path}: the ending {path.suffix or '(none)'} is not one that kitune reads",
            fix=f"use {', '.join(READERS)}",
        )
    try:
        return in_its_encoding(path, layout, reader)
    except PermissionError:
        raise UserError(f"{path}: not readable by you", fix=f"chmod u+r {path}") from None
    except (gzip.BadGzipFile, EOFError):
        raise UserError(f"{path}: not a whole gzip file", fix="pack or download it again") from None
    except LookupError:
        raise UserError(f"data.encoding: {layout.encoding!r} is no encoding", fix="--set data.encoding=utf-8") from None


def ending_of(path: Path) -> str:
    """The ending that names the format: `.csv` of `rows.csv.gz`."""
    return Path(path.stem if path.suffix.lower() == ".gz" else path.name).suffix.lower()


def in_its_encoding(path: Path, layout: Layout, reader: "Reader") -> Table:
    """What the reader reads, in the encoding that was told, or in UTF-8, or else in the one that the file shows."""
    told = layout.encoding
    if told == AUTO:
        shown = by_first_bytes(path) if path.is_file() and reader is not read_parquet else None
        told = shown or UTF8
    try:
        table = reader(path, told, layout)
    except UnicodeDecodeError as error:
        if layout.encoding != AUTO or told != UTF8:
            raise not_encoded(path, told, error) from None
        told = by_characters(path)
        try:
            table = reader(path, told, layout)
        except UnicodeDecodeError as further:
            raise not_encoded(path, told, further) from None
    if layout.encoding == AUTO and told != UTF8:
        said = f"{path.name} is read as {told.upper()}, which its bytes show; --set data.encoding= names another one"
        table = replace(table, notes=(*table.notes, said))
    return table


def nearby_files(path: Path) -> str:
    """A hint at files of a like name."""
    import difflib

    folder = path.parent if path.parent.is_dir() else Path()
    near = difflib.get_close_matches(path.name, [child.name for child in folder.iterdir()], n=1)
    return f"did you mean {folder / near[0]}?" if near else f"check the path; the current folder is {Path.cwd()}"


def not_encoded(path: Path, encoding: str, error: UnicodeDecodeError) -> UserError:
    """The error for bytes that the encoding does not have, with the line they stand on."""
    line = 0
    for line, raw in enumerate(open_bytes(path), start=1):  # noqa: B007
        try:
            raw.decode(encoding)
        except UnicodeDecodeError:
            break
    byte = error.object[error.start]
    return UserError(
        f"{path}, line {line}: byte 0x{byte:02x} is not {encoding.removesuffix('-sig').upper()}",
        fix="name the file's encoding, for example --set data.encoding=cp932 (or euc-kr, gb18030, latin-1)",
    )


def read_delimited(path: Path, encoding: str, layout: Layout, usual: str) -> Table:
    """A CSV or TSV file; every cell is a string.

    Args:
        usual: the delimiter of the file's ending.
    """
    delimiter, notes = layout.delimiter, tuple[str, ...]()
    if delimiter == AUTO:
        delimiter = shown_delimiter(path, encoding, usual) or usual
        if delimiter != usual:
            notes = (f"{path.name} is read with {DELIMITERS[delimiter]} between its fields, as its first lines are",)
    table = plain_rows(path, encoding, delimiter) if layout.header else None
    if table is None:
        with open_text(path, encoding) as file:
            table = delimited_rows(file, str(path), delimiter, header=layout.header)
    return replace(table, notes=notes)


def shown_delimiter(path: Path, encoding: str, usual: str) -> str | None:
    """The delimiter that cuts all of the first lines into the same number of fields, two or more; the usual one comes first."""
    if not path.is_file():  # a pipe can be read only once
        return None
    with open_text(path, encoding) as file:
        lines = list(islice(file, FIRST_LINES + 1))
    if len(lines) > FIRST_LINES:
        lines.pop()  # the next one may belong to the same row
    for delimiter in (usual, *(other for other in DELIMITERS if other != usual)):
        bare = delimiter == "\t" and not quotes_enclose_fields(lines, delimiter)
        try:
            if bare:
                rows = list(csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE))
            else:
                rows = list(csv.reader(lines, delimiter=delimiter))
        except csv.Error:
            continue
        rows = [row for row in rows if row]
        whole = rows[:-1] if len(lines) == FIRST_LINES and len(rows) > 2 else rows
        if whole and len(whole[0]) > 1 and {len(row) for row in whole} == {len(whole[0])}:
            return delimiter
    return None


def delimited_rows(file: Iterable[str], source: str, delimiter: str, *, header: bool = True) -> Table:
    """Rows of a delimited text. A TSV is quoted only where its quotes enclose whole fields: bare ones are text."""
    csv.field_size_limit(2**31 - 1)
    lines = iter(file)
    if delimiter == "\t":
        text = list(lines)
        quoted = quotes_enclose_fields(text, delimiter)
        lines = iter(text)
    else:
        quoted = True
    reader = csv.reader(
        lines, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE, strict=True
    )
    try:
        return assemble(numbered_rows(reader, source, has_header=header), source)
    except csv.Error as error:
        raise UserError(
            f"{source}, line {reader.line_num}: {error}", fix='write a quote inside a quoted field twice: ""'
        ) from None


def quotes_enclose_fields(lines: Sequence[str], delimiter: str) -> bool:
    """Whether the quotes in `lines` are quoting: where bare ones fit the header, if each that occurs encloses a field with
    every inner one doubled; where bare ones do not (a field holds a tab or a line break), if quoting does."""
    if not any('"' in line for line in lines):
        return False

    def fields(line: str) -> list[str]:
        return line.rstrip("\r\n").split(delimiter)

    width = len(fields(lines[0]))
    if all(len(row) == width or row == [""] for row in map(fields, lines)):
        quoted = (field for line in lines if '"' in line for field in fields(line) if '"' in field)
        return all(re.fullmatch('"([^"]|"")*"', field) for field in quoted)
    try:
        return all(len(row) in (0, width) for row in csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error:
        return False


def numbered_rows(reader: Any, source: str, *, has_header: bool) -> Iterator[tuple[int, dict[str, str]]]:
    """(line on which the row begins, its cells) of a csv reader; refuses what is ragged."""
    first = next(reader, None)
    if not first or not any(name.strip() for name in first):
        raise UserError(f"{source}: it is empty", fix="give a file with a header and rows")
    header = first if has_header else [str(number) for number in range(1, len(first) + 1)]
    doubled = {name for name in header if header.count(name) > 1}
    if doubled:
        raise UserError(
            f"{source}, line 1: two columns are called {sorted(doubled)[0]!r}",
            fix="give each column a name of its own; where line 1 is a row and names nothing: --set data.header=false",
        )
    if not has_header:
        yield 1, dict(zip(header, first, strict=True))
    begin = reader.line_num + 1
    for cells in reader:
        if cells:  # an empty line is no row
            if len(cells) != len(header):
                raise UserError(
                    f"{source}, line {begin}: {numbered(len(cells), 'field')} where "
                    f"{'the header' if has_header else 'line 1'} has {len(header)}",
                    fix="quote a field that holds the delimiter, or correct the row",
                )
            yield begin, dict(zip(header, cells, strict=True))
        begin = reader.line_num + 1


def read_text(path: Path, encoding: str, layout: Layout) -> Table:
    """A .txt file: TSV where tabs cut its first lines into equal rows, else a text a line in the column `text`."""
    if layout.delimiter != AUTO or shown_delimiter(path, encoding, "\t") == "\t":
        table = read_delimited(path, encoding, layout, "\t")
        return replace(table, notes=(*table.notes, f"{path.name} is read as a table with tabs between its fields"))
    with open_text(path, encoding) as file:
        lines = ((number, line.rstrip("\r\n")) for number, line in enumerate(file, start=1))
        return assemble(((number, {"text": line}) for number, line in lines if line), str(path))


def read_json(path: Path, encoding: str, layout: Layout) -> Table:
    """JSON lines, or one JSON value: an array of objects, an object with one such array, or an object of columns."""
    with open_text(path, encoding) as file:
        first = next((line for line in file if line.strip()), "")
        try:
            alone = isinstance(json.loads(first), dict)
        except json.JSONDecodeError:
            alone = False
        following = next((line for line in file if line.strip()), None)
    if ending_of(path) == ".jsonl" or (alone and following is not None):
        with open_text(path, encoding) as file:
            return json_rows(file, str(path))
    with open_text(path, encoding) as file:
        try:
            value = json.load(file)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path}, line {error.lineno}: not JSON: {error.msg}", fix="correct the file, or write an object a line"
            ) from None
    return Table(assemble(enumerate(objects_in(value, path)), str(path)).data, str(path))


def objects_in(value: Any, path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON value."""
    if isinstance(value, dict):
        lists = {name: part for name, part in value.items() if isinstance(part, list)}
        rows = [part for part in lists.values() if part and all(isinstance(row, dict) for row in part)]
        if len(rows) == 1:
            return list(rows[0])
        if not rows and lists and len(lists) == len(value) and len({len(part) for part in lists.values()}) == 1:
            return [dict(zip(lists, cells, strict=True)) for cells in zip(*lists.values(), strict=True)]
        if not lists:
            return [value]
    if isinstance(value, list) and all(isinstance(row, dict) for row in value):
        return value
    raise UserError(
        f"{path}: this JSON is no table",
        fix='write an array of objects, [{"text": ..., "label": ...}, ...], or an object a line',
    )


def json_rows(file: Iterable[str], source: str) -> Table:
    """Rows of JSON lines."""

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{source}, line {number}: not JSON: {error.msg}", fix="correct the line") from None
            if not isinstance(row, dict):
                raise UserError(
                    f"{source}, line {number}: not a JSON object", fix='write it as {"text": ..., "label": ...}'
                )
            yield number, row

    return assemble(rows(), source)


def read_parquet(path: Path, encoding: str, layout: Layout) -> Table:
    """A Parquet file."""
    import pyarrow.parquet as pq  # 10 to 20 ms that other files need not wait for

    try:
        return Table(pq.read_table(path), str(path))
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: not a whole Parquet file: {error}", fix="write or download it again") from None


Reader: TypeAlias = Callable[[Path, str, Layout], Table]
READERS: dict[str, Reader] = {
    ".csv": partial(read_delimited, usual=","),
    ".tsv": partial(read_delimited, usual="\t"),
    ".txt": read_text,
    ".jsonl": read_json,
    ".json": read_json,
    ".parquet": read_parquet,
}


def assemble(rows: Iterable[tuple[int, Mapping[str, Any]]], source: str) -> Table:
    """Arrow chunks from numbered rows; a key that a row lacks is an empty cell."""
    lines: list[int] = []
    chunks: list[pa.Table] = []
    pending: list[Mapping[str, Any]] = []
    names: dict[str, None] = {}

    def flush() -> None:
        try:
            chunks.append(pa.table({name: arrow_column([row.get(name) for row in pending]) for name in names}))
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError) as error:
            place = f"{source}, lines {lines[-len(pending)]} to {lines[-1]}"
            mixed = isinstance(error, pa.ArrowInvalid | pa.ArrowTypeError)
            what = "a column mixes types" if mixed else "a value that no column holds"
            fix = "use one type in each column" if mixed else "correct the value; a long number may stand in quotes"
            raise UserError(f"{place}: {what}: {error}", fix=fix) from None
        pending.clear()

    for line, row in rows:
        lines.append(line)
        names |= dict.fromkeys(row)
        pending.append(row)
        if len(pending) == CHUNK_ROWS:
            flush()
    if pending or not chunks:
        flush()
    try:
        data = pa.concat_tables(chunks, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UserError(f"{source}: a column mixes types: {error}", fix="use one type in each column") from None
    return Table(data, source, np.asarray(lines, dtype=np.int64))


def arrow_column(values: list[Any]) -> pa.Array:
    """`values` as a column. Strings go past `pa.array`, which imports pandas where it is installed: 0.3 to 0.5 s."""
    kinds = set(map(type, values))
    if kinds == {NoneType}:
        return pa.nulls(len(values))
    if not kinds <= {str, NoneType}:
        return pa.array(values)
    builder = pa.lib.StringBuilder()
    builder.append_values(values)
    return builder.finish()


def read_stream(file: Iterable[str], text: Sequence[str]) -> Table:
    """Rows from standard input: JSON lines, CSV or TSV whose header names the `text` columns, or a text a line."""
    lines = list(file)
    if not any(line.strip() for line in lines):
        raise UserError("standard input: it is empty", fix="send JSON lines, CSV with a header, or a text a line")
    first = lines[0].rstrip("\r\n") if lines else ""
    if first.lstrip().startswith("{"):
        return json_rows(lines, "standard input")
    for delimiter in ",\t":
        if set(text) <= set(next(csv.reader([first], delimiter=delimiter), [])):
            return delimited_rows(lines, "standard input", delimiter)
    if len(text) > 1:
        raise UserError(
            "standard input: this run reads pairs, and the first line is neither JSON nor a header with both columns",
            fix=f"send JSON lines with {' and '.join(text)}, or CSV with a header",
        )
    return assemble(((i, {text[0]: line.rstrip("\r\n")}) for i, line in enumerate(lines, start=1)), "standard input")


def from_python(source: Any, name: str) -> Table:
    """A frame, a data set or a list of dicts as a table; class labels of a `datasets.Dataset` become their names."""
    kind = f"{type(source).__name__} {name}"
    if isinstance(source, pa.Table):
        return Table(source, kind)
    if isinstance(source, Sequence) and all(isinstance(row, Mapping) for row in source):
        table = assemble(((row, values) for row, values in enumerate(source)), kind)
        return Table(table.data, kind)
    if hasattr(source, "features") and hasattr(source, "with_format"):  # datasets.Dataset
        return Table(named_labels(source), kind)
    if hasattr(source, "to_arrow"):  # polars
        return Table(source.to_arrow(), kind)
    if hasattr(source, "iloc"):  # pandas
        try:
            return Table(pa.Table.from_pandas(source, preserve_index=False), kind)
        except (pa.ArrowTypeError, ValueError) as error:
            fix = "use one type in each column, and a name of its own for each"
            raise UserError(f"{kind}: {error}", fix=fix) from None
    raise UserError(
        f"{name}: a {type(source).__name__} is no table",
        fix="give a path, a pandas or polars frame, a datasets.Dataset, or a list of dicts",
    )


def named_labels(dataset: Any) -> pa.Table:
    """The rows of a `datasets.Dataset`, its ClassLabel columns as names (-1, the hub's 'no label', as empty)."""
    data: pa.Table = dataset.with_format("arrow")[:]
    for position, (column, feature) in enumerate(dataset.features.items()):
        nested = getattr(feature, "feature", None)
        if hasattr(feature, "int2str"):
            values: list[Any] = [None if i is None or i < 0 else feature.int2str(i) for i in data[column].to_pylist()]
        elif hasattr(nested, "int2str") and nested is not None:
            values = [row if row is None else [nested.int2str(i) for i in row] for row in data[column].to_pylist()]
        else:
            continue
        data = data.set_column(position, column, pa.array(values))
    return data
