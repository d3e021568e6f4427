"""Tables that go to a file because they are large are the tables that they would be in memory."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kitune.data import arrow_csv, mapped, scratch, table
from kitune.data.cache import cache_folder
from kitune.data.near import near_duplicates
from kitune.data.read import read_table
from kitune.errors import UserError

ROWS = [{"text": f"row {i} これは日本のです", "label": str(i % 3)} for i in range(900)]
CSV = "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in ROWS)
# What each file holds; in the sparse ones a column begins late, and another is empty where a chunk begins.
SPARSE: list[dict[str, Any]] = [{"text": row["text"]} | ({"late": i} if i > 400 else {}) | {"few": i if i % 300 == 7 else None}
          for i, row in enumerate(ROWS)]  # fmt: skip
FILES: dict[str, bytes] = {
    "plain.csv": CSV.encode(),
    "bare.csv": CSV.replace("row 5 ", 'row "5" ').encode(),
    "packed.csv.gz": gzip.compress(CSV.encode()),
    "cp932.csv": CSV.encode("cp932"),
    "utf16.tsv": CSV.replace(",", "\t").encode("utf-16"),
    "lines.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS).encode(),
    "sparse.jsonl": "".join(json.dumps(row) + "\n" for row in SPARSE).encode(),
    "whole.json": json.dumps(SPARSE).encode(),
    "texts.txt": "".join(row["text"] + "\n" for row in ROWS).encode(),
    "tags.conll": "".join(f"a\tX\nb{i}\tY\n\n" for i in range(900)).encode(),
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes every size that matters small."""

    def shrink() -> None:
        monkeypatch.setattr(mapped, "MAPPED_BYTES", 2_000)
        monkeypatch.setattr(table, "CHUNK_ROWS", 50)
        monkeypatch.setattr(arrow_csv, "BLOCK_BYTES", 1_000)

    return shrink


@pytest.mark.parametrize("name", [*FILES, "rows.parquet"])
def test_a_large_table_is_the_same_and_leaves_no_file(tmp_path: Path, small: Callable[[], None], name: str) -> None:
    path = tmp_path / name
    if name == "rows.parquet":
        pq.write_table(pa.Table.from_pylist(SPARSE), path, row_group_size=100)
    else:
        path.write_bytes(FILES[name])
    whole = read_table(path)
    small()
    begun = pa.total_allocated_bytes()
    large = read_table(path)
    assert large.data.schema.equals(whole.data.schema)
    assert large.data.to_pylist() == whole.data.to_pylist()
    assert np.array_equal([] if large.lines is None else large.lines, [] if whole.lines is None else whole.lines)
    assert large.notes == whole.notes
    assert pa.total_allocated_bytes() - begun < whole.data.nbytes / 2
    assert large.fingerprint(large.columns) == whole.fingerprint(whole.columns)
    assert not list((cache_folder() / "tables").iterdir())


def test_rows_stay_in_memory_where_no_file_can_be_written(
    tmp_path: Path, small: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "file"))
    path = tmp_path / "rows.csv"
    path.write_text(CSV)
    small()
    assert read_table(path).data.to_pylist() == ROWS


FULL = """
import resource, signal, sys
from kitune.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit is then an OSError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
main(["inspect", sys.argv[1]])
"""


@pytest.mark.parametrize("name", ["rows.csv", "cp932.csv"])
def test_a_disk_that_fills_ends_in_a_sentence(tmp_path: Path, name: str) -> None:
    repeats, encoding = (400, "utf-8") if name == "rows.csv" else (20, "cp932")
    path = tmp_path / name
    path.write_bytes(("text,label\n" + CSV.partition("\n")[2] * repeats).encode(encoding))
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert "tables: what does not fit in memory is put there, and it cannot be written: " in lines[0]
    assert "File too large" in lines[0]
    assert not list((cache_folder() / "tables").iterdir())


def test_columns_of_categories_may_differ_from_block_to_block(tmp_path: Path, small: Callable[[], None]) -> None:
    parts = []
    for part in "abcd":
        labels = pa.array([f"{part}-{i % 3}" for i in range(300)]).dictionary_encode()
        parts.append(pa.table({"text": pa.array([f"row {i} {part}" for i in range(300)]), "label": labels}))
    small()
    frame = pa.concat_tables(parts)
    taken = read_table(frame).take(np.flatnonzero(np.arange(1200) % 7 != 0))
    assert taken.values("label") == [label for i, label in enumerate(frame["label"].to_pylist()) if i % 7]
    pq.write_table(frame, tmp_path / "rows.parquet", row_group_size=300)
    assert read_table(tmp_path / "rows.parquet").values("label") == frame["label"].to_pylist()


def test_near_duplicates_are_found_by_signatures_in_a_file_too(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = np.random.default_rng(0)
    texts = [" ".join(chance.choice([*"abcdefghijklmnop"], 40)) for _ in range(400)]
    texts += [text + " z" for text in texts[:50]]
    rows, wanted = read_table([{"text": text} for text in texts]), np.ones(450, dtype=np.bool_)
    found = near_duplicates(rows, ["text"], wanted)
    assert found == [(400 + i, i) for i in range(50)]
    monkeypatch.setattr(scratch, "SMALL_BYTES", 10)
    assert near_duplicates(rows, ["text"], wanted) == found
    assert list((cache_folder() / "tables").iterdir()) == []


def test_two_columns_of_one_name_that_nobody_reads_are_no_error(small: Callable[[], None]) -> None:
    names: list[str] = ["text", "x", "x"]
    values: list[list[Any]] = [[f"row {i}" for i in range(500)], [1] * 500, [2] * 500]
    small()
    taken = read_table(pa.Table.from_arrays([pa.array(column) for column in values], names)).take(np.arange(0, 500, 3))
    assert taken.texts("text") == values[0][::3]


def test_long_rows_come_in_small_pieces(tmp_path: Path) -> None:
    rows = [{"text": f"{i} " + "x" * 40_000} for i in range(600)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    for name in ("rows.jsonl", "rows.parquet"):
        begun = pa.total_allocated_bytes()
        long = read_table(tmp_path / name)
        assert long.data.to_pylist() == rows
        assert max(chunk.nbytes for chunk in long.data.column("text").chunks) < 6e6
        assert pa.total_allocated_bytes() - begun < 1e6


def test_a_page_of_parquet_that_cannot_be_unpacked_is_said(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": [str(i * 7919) for i in range(20_000)]}), path, compression="snappy")
    content = bytearray(path.read_bytes())
    content[5000:6000] = bytes(byte ^ 0xFF for byte in content[5000:6000])
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match="not a whole Parquet file"):
        read_table(path)


def test_a_broken_source_is_not_taken_for_a_full_disk(tmp_path: Path, small: Callable[[], None]) -> None:
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(gzip.compress(os.urandom(200_000).hex().encode())[:-3000])
    small()
    with pytest.raises(UserError, match="not a whole gzip file"):
        read_table(path)
    assert not list((cache_folder() / "tables").glob("*"))


# What reading takes at most, by a thread that looks every 10 ms.
READ = """
import sys, threading, time
from kitune.data.near import near_duplicates
from kitune.data.read import read_table
from kitune.training.journal import resident_mb
begun, seen = resident_mb(), [0.0]
def watch():
    while True:
        seen.append(resident_mb())
        time.sleep(0.01)
threading.Thread(target=watch, daemon=True).start()
print(len(read_table(sys.argv[1])), max(*seen, resident_mb()) - begun)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet", "rows.csv", "rows.csv.gz", "utf16.csv"])
def test_a_file_of_half_a_gigabyte_is_read_in_bounded_memory(tmp_path: Path, name: str) -> None:
    path, count, text = tmp_path / name, 600_000, "日本語 " * 80
    if name == "rows.parquet":
        with pq.ParquetWriter(path, pa.schema({"text": pa.string(), "label": pa.string()})) as writer:
            for begin in range(0, count, 100_000):
                numbers = [str(i) for i in range(begin, begin + 100_000)]
                writer.write_table(pa.table({"text": [text + number for number in numbers], "label": numbers}))
    else:
        line = '{{"text": "{}{}", "label": "a"}}\n' if name == "rows.jsonl" else "{}{},a\n"
        with ExitStack() as stack:
            file = path.open("wb")
            stack.enter_context(file)
            target: Any = file
            if name.endswith(".gz"):
                target = stack.enter_context(gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1))
            encoding = "utf-16-le" if name == "utf16.csv" else "utf-8"
            target.write(("" if name == "rows.jsonl" else "text,label\n").encode(encoding))
            target.writelines(line.format(text, i).encode(encoding) for i in range(count))
    done = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=True)
    rows_read, grown_mb = done.stdout.split()
    assert int(rows_read) == count
    assert float(grown_mb) < 320  # in memory it is 490, and twice that while it is made
