"""One way in for every source: files by their format, standard input, frames and lists as they are."""

import codecs
import difflib
import gzip
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from io import BufferedIOBase
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import pyarrow as pa

from kitune.config import Layout
from kitune.data.conll import read_conll
from kitune.data.delimited import (
    EXCEL_SEP,
    FIRST_LINES,
    delimited_rows,
    fields_of,
    first_lines,
    read_delimited,
    shown_delimiter,
)
from kitune.data.encoding import by_characters, by_first_bytes, is_nearly_utf8, is_utf8
from kitune.data.excel import read_excel
from kitune.data.files import UTF8, File, in_utf8, is_remote, opened, spooled
from kitune.data.hub import commit_of
from kitune.data.json_table import json_rows, read_json, read_json_lines
from kitune.data.mapped import gathered
from kitune.data.mapped import joined as in_one
from kitune.data.table import CHUNK_ROWS, Table, assemble, holds_bytes
from kitune.errors import UserError, command

# A path, a frame of pandas, polars or Arrow, a `datasets.Dataset`, or a list of dicts.
Source: TypeAlias = Any
USUAL = Layout()
# What fastText writes in front of each label; and a first word that is a label, as TREC has them: `LOC:city`.
FASTTEXT = "__label__"
# Bytes, as they lie in the file, of the rows of a Parquet file that are read at a time.
PARQUET_BYTES = 2**22
LABELLED = re.compile(r"(__label__|[A-Z]+:)\S")


def read_table(source: Source, *, layout: Layout = USUAL, name: str = "data", otherwise: str = "auto") -> Table:
    """The rows of `source`, each with its place.

    Text files give strings only (`NA`, `null` and `007` stay what they are); JSON, Parquet and Excel keep their types.

    Args:
        source: path of a file (`FORMATS` lists the endings; .gz may follow) or several, one after the other, a frame, a
            `datasets.Dataset`, or a list of dicts.
        layout: how files say their rows.
        name: what messages call a source that is no file.
        otherwise: encoding of a text file that is not UTF-8, where the layout does not tell one; auto: as it shows.

    Raises:
        UserError: the file is missing, not readable, ragged or empty; with file and line.
    """
    if isinstance(source, Table):
        return source
    if isinstance(source, str | Path):
        table = read_file(source, layout, otherwise)
    elif isinstance(source, tuple) and all(isinstance(part, Path) for part in source):
        table = joined([read_file(path, layout, otherwise) for path in source])
    else:
        table = with_strings(from_python(source, name))
    return with_rows(table)


def with_rows(table: Table) -> Table:
    """The table; refuses one without rows."""
    if not len(table):
        raise UserError(f"{table.source}: it has no rows", fix="give data with at least one row under the header")
    return table


def joined(tables: Sequence[Table]) -> Table:
    """The rows of several files of one folder, one after the other."""
    first = tables[0]
    for table in tables:
        if set(table.columns) != set(first.columns):
            strange = sorted(set(table.columns) ^ set(first.columns))[0]
            raise UserError(
                f"{first.source} and {table.source}: only one of them has a column {strange!r}",
                fix="give them the same columns",
            )
    try:
        data = in_one([table.data for table in tables])
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UserError(f"{first.source} and its neighbours: {error}", fix="write each column in one type") from None
    return Table(data, str(Path(first.source).parent), None, first.notes)


def read_file(path: str | Path, layout: Layout, otherwise: str = "auto") -> Table:
    """The table in a file, by its format."""
    if not is_remote(path):
        path = Path(path)
        if not os.path.exists(path):
            raise UserError(f"{path}: there is no such file", fix=nearby_files(path))
        if path.is_dir():
            raise UserError(f"{path}: a folder, not a file", fix=f"give a file: {FORMATS}")
    try:
        with opened(path, layout) as file:
            return read_rows(file, layout, otherwise)
    except PermissionError:
        fix = f"{command('chmod', 'u+r', path)}, or ask its owner"
        raise UserError(f"{path}: not readable by you", fix=fix) from None
    except (gzip.BadGzipFile, zlib.error, EOFError):
        raise UserError(f"{path}: not a whole gzip file", fix="pack or download it again") from None


def read_rows(file: File, layout: Layout, otherwise: str) -> Table:
    """The table in an open file."""
    try:
        if file.format in BINARY_READERS:
            return with_strings(BINARY_READERS[file.format](file, layout))
        if file.format in TEXT_READERS:
            require_text(file)
            return in_its_encoding(file, layout, TEXT_READERS[file.format], otherwise)
    except UserError as error:
        error.in_rows = True
        raise
    ending = f".{file.format}" if file.format else "(none)"
    raise UserError(
        f"{file.name}: the ending {ending} is not one that kitune reads",
        fix=f"use {FORMATS}, or say what it is: --set data.format=csv",
    )


def with_strings(table: Table) -> Table:
    """A table of typed columns with one type for texts.

    Views, which many of Arrow's functions do not take, and bytes that are UTF-8, as databases write them, become strings.
    """
    data = table.data
    for place, column in enumerate(data.schema):
        if pa.types.is_string_view(column.type) or holds_bytes(column.type):
            with suppress(pa.ArrowInvalid):  # of other bytes nothing is known: refused where they are to be texts
                data = data.set_column(place, column.name, data.column(place).cast(pa.large_string()))
    return replace(table, data=data)


# How files that are no text begin, what they are, and what reads them.
NO_TEXT = {
    b"PK\x03\x04": ("an Excel workbook or another zip file", "--set data.format=xlsx reads a workbook"),
    b"\xd0\xcf\x11\xe0": ("an old Excel workbook", "save it as .xlsx"),
    b"PAR1": ("a Parquet file", "--set data.format=parquet"),
    b"\x1f\x8b": ("a file packed with gzip", "give it the ending .gz"),
}


def require_text(file: File) -> None:
    """Refuse a file whose first bytes show that it is no text, whatever its ending says."""
    with file.bytes() as content:
        head = content.read(4)
    for begin, (what, fix) in NO_TEXT.items():
        if head.startswith(begin):
            raise UserError(f"{file.name}: its bytes are those of {what}", fix=fix)


def read_stream(stream: BinaryIO, text: Sequence[str], layout: Layout = USUAL) -> Table:
    """Rows from standard input: in the told format, or as the first line shows.

    Args:
        text: the text columns; the header of CSV or TSV names them.
    """
    with spooled(stream) as path:
        file = File(path, "standard input", layout.format)
        if layout.format != "auto":
            return with_rows(read_rows(file, layout, "auto"))
        return with_rows(in_its_encoding(file, layout, partial(read_shown, text=text), "auto"))


def read_shown(file: File, layout: Layout, *, text: Sequence[str]) -> Table:
    """JSON lines, CSV or TSV whose header names the `text` columns, or a text a line: as the first line shows."""
    with file.text() as lines:
        first = lines.readline()
        lines.seek(0)
        if not any(line.strip() for line in lines):
            raise UserError(f"{file.name}: it is empty", fix="send JSON lines, CSV with a header, or a text a line")
        lines.seek(0)
        if EXCEL_SEP.fullmatch(first.rstrip("\r\n")):
            return read_delimited(file, layout, usual=",")
        if first.lstrip().startswith("{"):
            return json_rows(lines, file.name)
        delimiters = ",\t;|" if layout.delimiter == "auto" else layout.delimiter
        for delimiter in delimiters:
            if set(text) <= set(fields_of(first, delimiter)):
                return delimited_rows(lines, file.name, delimiter, ragged=layout.ragged)
        has_fields = any(delimiter in first for delimiter in delimiters)
        if layout.header is False and has_fields:
            table = read_delimited(file, layout, usual=",")
            said = f"{file.title} is read as a table without a header, as data.header says"
            return replace(table, notes=(*table.notes, said))
        if len(text) == 1:
            said = f"{file.title} is read as a text a line: its first line is no header with {text[0]!r}"
            return replace(lines_as_texts(lines, file.name, text[0]), notes=(said,))
    raise UserError(
        f"{file.name}: this run reads pairs, and the first line is neither JSON nor a header with both columns",
        fix=f"send JSON lines with {' and '.join(text)}, or CSV with a header",
    )


def in_its_encoding(file: File, layout: Layout, reader: "Reader", otherwise: str) -> Table:
    """What the reader reads, in the encoding that was told, or in UTF-8, or else in the one that the file shows."""
    failed: UserError | None = None
    for encoding in encodings(file, layout.encoding, otherwise):
        try:
            with in_utf8(file, encoding) as readable:
                table = reader(readable, layout)
        except UnicodeDecodeError as error:
            failed = failed or not_encoded(file, encoding, error)
            continue
        except UnicodeError as error:
            name, fix = codecs.lookup(encoding).name, "name another one: --set data.encoding="
            if name in ("utf-16", "utf-32"):  # whose bytes come in an order that nothing tells
                raise UserError(
                    f"{file.name}: {name} wants a byte order mark, and there is none",
                    fix=f"--set data.encoding={name}-le, or {name}-be",
                ) from None
            raise UserError(f"{file.name}: not {encoding.upper()}: {error}", fix=fix) from None
        return replace(table, notes=(*encoding_notes(file, encoding, layout.encoding), *table.notes))
    assert failed is not None
    raise failed


def encodings(file: File, told: str, otherwise: str) -> Iterator[str]:
    """The encodings in which the file may be, the likeliest first."""
    if told != "auto":
        try:
            "".encode(told)  # `hex` is a codec, and no encoding of texts
            yield UTF8 if is_of_utf8(told) or is_utf8(file) else told
        except LookupError:
            raise UserError(
                f"data.encoding: {told!r} is no encoding",
                fix="names are utf-8, utf-16, cp932, euc_jp, iso2022_jp, gb18030, big5, cp949, euc_kr, cp1252, latin-1",
            ) from None
        return
    first = by_first_bytes(file) or UTF8
    yield first
    # Another encoding would read a broken file of UTF-8 as mojibake.
    if first == UTF8 and not is_nearly_utf8(file):
        yield by_characters(file) if otherwise == "auto" else otherwise


def encoding_notes(file: File, encoding: str, told: str) -> tuple[str, ...]:
    """What is to be said of the encoding in which a file was read."""
    if encoding == UTF8:
        if told == "auto" or is_of_utf8(told):
            return ()
        return (f"{file.title} is read as UTF-8, which its bytes are, not as {told.upper()}",)
    if told == "auto":
        return (
            f"{file.title} is read as {encoding.upper()}, which its bytes show; --set data.encoding= names another one",
        )
    return ()


def nearby_files(path: Path) -> str:
    """A hint at files of a like name."""
    if " " in path.name and not path.suffix:
        return "check the path; of texts, give a list, or send them: echo ... | kitune predict RUN -"
    folder = path.parent if path.parent.is_dir() else Path()
    try:
        near = difflib.get_close_matches(path.name, [child.name for child in folder.iterdir()], n=1)
    except OSError:
        return f"{folder} cannot be looked into: ask its owner"
    return f"did you mean {folder / near[0]}?" if near else f"check the path; the current folder is {Path.cwd()}"


def not_encoded(file: File, encoding: str, error: UnicodeDecodeError) -> UserError:
    """The error for bytes that the encoding does not have, with the line they stand on."""
    line = 0
    with file.bytes() as content:
        for line, raw in enumerate(content, start=1):  # noqa: B007
            try:
                raw.decode(encoding)
            except UnicodeDecodeError:
                break
    byte = error.object[error.start]
    problem = f"{file.name}, line {line}: byte 0x{byte:02x} is not {encoding.removesuffix('-sig').upper()}"
    if encoding == UTF8 and is_nearly_utf8(file):
        problem += ", which the rest of the file is"
        return UserError(problem, fix="correct that line: a character in it is cut, or in another encoding")
    first, *others = (name for name in ("cp932", "euc_kr", "gb18030", "latin-1") if not same_codec(name, encoding))
    fix = f"name the file's encoding, for example --set data.encoding={first} (or {', '.join(others)})"
    return UserError(problem, fix=fix)


def is_of_utf8(name: str) -> bool:
    """Whether an encoding is UTF-8, with a byte order mark or without."""
    return same_codec(name, "utf-8") or same_codec(name, UTF8)


def same_codec(one: str, other: str) -> bool:
    """Whether two names are of one encoding."""
    return codecs.lookup(one).name == codecs.lookup(other).name


def read_text(file: File, layout: Layout) -> Table:
    """A .txt file: TSV where tabs cut its first lines into equal rows, a label and a text a line, or a text a line."""
    lines = first_lines(file)
    if layout.label_first or (lines and all(LABELLED.match(line) for line in lines[:FIRST_LINES] if line.strip())):
        with file.text() as whole:
            return replace(
                labelled_lines(whole, file.name, told=layout.label_first),
                notes=(f"{file.title} is read as a label and a text a line",),
            )
    if layout.delimiter != "auto" or shown_delimiter(lines, "\t") == "\t":
        table = read_delimited(file, layout, usual="\t")
        return replace(table, notes=(*table.notes, f"{file.title} is read as a table with tabs between its fields"))
    with file.text() as whole:
        return lines_as_texts(whole, file.name, "text")


def lines_as_texts(lines: Iterator[str], source: str, column: str) -> Table:
    """A text a line, an empty line too."""
    return assemble(((number, {column: line.rstrip("\r\n")}) for number, line in enumerate(lines, start=1)), source)


def labelled_lines(lines: Iterator[str], source: str, *, told: bool) -> Table:
    """A label and a text a line; fastText's format, with `__label__` before each of one label or more.

    Args:
        told: the first word is the label, whatever it looks like.
    """

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in enumerate(lines, start=1):
            text, labels = line.strip(), list[str]()
            if text and not told and not LABELLED.match(text):
                raise UserError(
                    f"{source}, line {number}: it does not begin with a label, as the first lines do: {text[:24]!r}",
                    fix="write its label in front; where its first word is one: --set data.label_first=true",
                )
            while text and (not labels or text.startswith(FASTTEXT)):
                label, *rest = text.split(maxsplit=1)
                labels.append(label.removeprefix(FASTTEXT))
                text = rest[0] if rest else ""
            if labels:
                yield number, {"label": "|".join(labels), "text": text}

    return assemble(rows(), source)


def read_parquet(file: File, layout: Layout) -> Table:
    """A Parquet file."""
    import pyarrow.parquet as pq  # 10 to 20 ms that other files need not wait for

    def chunks(content: BufferedIOBase) -> Iterator[pa.Table]:
        try:
            whole = pq.ParquetFile(content, buffer_size=2**20)
            facts = whole.metadata
            size = sum(facts.row_group(number).total_byte_size for number in range(facts.num_row_groups))
            rows = max(1, min(CHUNK_ROWS, PARQUET_BYTES * facts.num_rows // max(1, size)))
            yield whole.schema_arrow.empty_table()
            for batch in whole.iter_batches(rows):
                yield pa.Table.from_batches([batch])
        except (pa.ArrowInvalid, OSError) as error:  # OSError: a page that cannot be unpacked
            raise UserError(
                f"{file.name}: not a whole Parquet file: {error}", fix="write or download it again"
            ) from None

    with file.bytes() as content:
        return Table(gathered(chunks(content)), file.name)


Reader: TypeAlias = Callable[[File, Layout], Table]
TEXT_READERS: dict[str, Reader] = {
    "csv": partial(read_delimited, usual=","),
    "tsv": partial(read_delimited, usual="\t"),
    "txt": read_text,
    "jsonl": read_json_lines,
    "json": read_json,
    "conll": read_conll,
}
BINARY_READERS: dict[str, Reader] = {"parquet": read_parquet, "xlsx": read_excel}
READERS = {**TEXT_READERS, **BINARY_READERS}
FORMATS = ", ".join(f".{name}" for name in READERS)


def from_python(source: Any, name: str) -> Table:
    """A frame, a data set or a list of dicts as a table; class labels of a `datasets.Dataset` become their names."""
    kind = f"{type(source).__name__} {name}"
    if isinstance(source, pa.Table):
        return Table(source, kind)
    if isinstance(source, Sequence) and all(isinstance(row, Mapping) for row in source):
        table = assemble(((row, values) for row, values in enumerate(source)), kind)
        return Table(table.data, kind)
    if hasattr(source, "features") and hasattr(source, "with_format"):
        if not hasattr(source, "num_rows"):
            raise UserError(
                f"{kind}: it is read as a stream, whose rows nobody can split or shuffle", fix="streaming=False"
            )
        return from_datasets(source, kind)
    if hasattr(source, "to_arrow"):  # polars
        return Table(source.to_arrow(), kind)
    if hasattr(source, "iloc") and hasattr(source, "columns"):  # pandas
        try:
            return Table(pa.Table.from_pandas(source, preserve_index=False), kind)
        except (pa.ArrowTypeError, ValueError) as error:
            fix = "use one type in each column, and a name of its own for each"
            raise UserError(f"{kind}: {error}", fix=fix) from None
    raise UserError(
        f"{name}: a {type(source).__name__} is no table",
        fix="give a path, a pandas or polars frame, a datasets.Dataset, or a list of dicts",
    )


def from_datasets(dataset: Any, kind: str) -> Table:
    """The rows of a `datasets.Dataset`, its ClassLabel columns as names (-1, the hub's 'no label', as empty)."""
    data: pa.Table = dataset.with_format("arrow")[:]
    classes = {}
    for position, (column, feature) in enumerate(dataset.features.items()):
        nested = getattr(feature, "feature", None)
        if hasattr(feature, "int2str"):
            values: list[Any] = [None if i is None or i < 0 else feature.int2str(i) for i in data[column].to_pylist()]
        elif hasattr(nested, "int2str") and nested is not None:
            values = [row if row is None else [nested.int2str(i) for i in row] for row in data[column].to_pylist()]
        else:
            continue
        data = data.set_column(position, column, pa.array(values))
        classes[column] = tuple((nested or feature).names)
    return Table(data, kind, commit=commit_of(dataset), classes=classes)
