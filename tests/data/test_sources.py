"""Folders, saved data sets and dicts: their parts by name."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kitune.config import Layout, RunOptions, with_values
from kitune.data.parts import read_parts
from kitune.data.read import read_table
from kitune.data.sources import parts_in, read_part
from kitune.errors import UserError

ROWS = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(20)]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("valid", ["valid", "validation", "val", "dev"])
@pytest.mark.parametrize("inside", ["", "data"])
def test_a_folder_has_parts_by_the_names_of_its_files(tmp_path: Path, valid: str, inside: str) -> None:
    for name, rows in (("train", ROWS), (valid, ROWS[:4]), ("test", ROWS[:2])):
        write_jsonl(tmp_path / inside / f"{name}.jsonl", rows)
    write_jsonl(tmp_path / inside / "notes.jsonl", ROWS)
    parts = parts_in(str(tmp_path))
    assert list(parts) == sorted(["train", "valid", "test"], key=list(parts).index)
    assert {part: len(read_table(source)) for part, source in parts.items()} == {"train": 20, "valid": 4, "test": 2}


def test_a_part_in_several_files_is_read_in_their_order(tmp_path: Path) -> None:
    for i in (2, 0, 1):
        pq.write_table(pa.Table.from_pylist(ROWS[i * 5 : i * 5 + 5]), tmp_path / f"train-0000{i}-of-00003.parquet")
    assert read_table(parts_in(tmp_path)["train"]).data.to_pylist() == ROWS[:15]


def test_the_parts_of_a_part_may_be_packed(tmp_path: Path) -> None:
    for i in (1, 0):
        lines = "".join(json.dumps(row) + "\n" for row in ROWS[i * 5 : i * 5 + 5])
        (tmp_path / f"train-0000{i}-of-00002.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    assert read_table(parts_in(tmp_path)["train"]).data.to_pylist() == ROWS[:10]


def test_two_files_of_one_part_are_refused(tmp_path: Path) -> None:
    first, _ = write_jsonl(tmp_path / "train.json", ROWS), write_jsonl(tmp_path / "train.jsonl", ROWS)
    with pytest.raises(
        UserError, match=f"more than one file is train: train.json, train.jsonl\n  fix: give one of them: {first}"
    ):
        parts_in(tmp_path)


def test_a_folder_without_parts_is_refused_with_a_file_in_it(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"a folder without train\.\*, valid\.\* or test\.\* and no data in it"):
        parts_in(tmp_path / "empty")
    path = write_jsonl(tmp_path / "full" / "rows.jsonl", ROWS)
    with pytest.raises(UserError, match=f"it holds rows.jsonl\n  fix: give one of its files: {re.escape(str(path))}"):
        parts_in(tmp_path / "full")


def test_what_save_to_disk_wrote_is_read(tmp_path: Path) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["b", "a"])})
    rows = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [0, 1]}, features=features)
    rows.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": rows, "validation": rows, "extra": rows}).save_to_disk(tmp_path / "many")
    assert list(parts_in(tmp_path / "one")) == ["train"]
    parts = parts_in(tmp_path / "many")
    assert set(parts) == {"train", "valid", "extra"}
    table = read_table(parts["valid"])
    assert table.data.to_pylist() == [{"text": "x", "label": "b"}, {"text": "y", "label": "a"}]
    assert table.classes == {"label": ("b", "a")}


def test_one_of_several_parts_must_be_named(tmp_path: Path) -> None:
    for name in ("train", "dev"):
        write_jsonl(tmp_path / f"{name}.jsonl", ROWS)
    with pytest.raises(UserError, match=r"it has the parts .*\n  fix: choose one: --split"):
        read_part(tmp_path, None, layout=Layout())
    with pytest.raises(UserError, match="there is no part 'tset'; there are"):
        read_part(tmp_path, "tset", layout=Layout())
    assert len(read_part(tmp_path, "validation", layout=Layout())) == 20


def test_a_test_part_without_labels_is_left_out_aloud_unless_it_was_named(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    test = write_jsonl(tmp_path / "test.jsonl", [{"text": "x"}])
    options = with_values(RunOptions(), {"data.train": str(tmp_path)})
    parts, said = read_parts(options, {})
    assert set(parts.tables) == {"train", "valid"}
    assert any("the test part has no labels and is left out" in sentence for sentence in said)
    with pytest.raises(UserError, match="no column 'label'"):
        read_parts(options, {"test": test})
    write_jsonl(tmp_path / "dev.jsonl", [{"text": "x"}, {"text": "y"}])
    parts, said = read_parts(options, {})
    assert any("the valid part has no labels and is left out" in sentence for sentence in said)
    assert len(parts.tables["train"]) + len(parts.tables["valid"]) == 20, "so that it is cut from train"


def test_the_order_of_class_labels_is_kept(tmp_path: Path) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["z", "m", "a"])}
    )
    rows = datasets.Dataset.from_dict({"text": [f"t {i}" for i in range(20)], "label": [0, 2] * 10}, features=features)
    parts, _ = read_parts(RunOptions(), {"train": rows})
    assert parts.names == ("z", "m", "a")
    assert parts.labels("train").max() == 2


def test_what_one_shard_lacks_another_may_have(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train-00000-of-00002.jsonl", [{"text": "a", "label": "x", "note": None}])
    write_jsonl(tmp_path / "train-00001-of-00002.jsonl", [{"text": "b", "label": "y", "note": "seen"}])
    assert read_table(parts_in(tmp_path)["train"]).values("note") == [None, "seen"]
    write_jsonl(tmp_path / "train-00001-of-00002.jsonl", [{"text": "b", "label": "y"}])
    with pytest.raises(UserError, match="only one of them has a column 'note'"):
        read_table(parts_in(tmp_path)["train"])


def test_a_part_that_an_option_names_is_not_left_out(tmp_path: Path) -> None:
    train, valid = write_jsonl(tmp_path / "a.jsonl", ROWS), write_jsonl(tmp_path / "dev.jsonl", [{"text": "a"}])
    options = with_values(RunOptions(), {"data.valid": str(valid), "data.text": ("text",), "data.label": "label"})
    with pytest.raises(UserError, match="there is no column 'label'"):
        read_parts(options, {"train": train})


@pytest.mark.parametrize("minus", ["-1", "-1.0"])
def test_a_test_part_whose_labels_are_all_minus_one_has_none_unless_train_has_it_too(
    tmp_path: Path, minus: str
) -> None:
    for known in ("1", minus):
        rows = [f"text {i},{known if i % 2 else 0}\n" for i in range(20)]
        (tmp_path / "train.csv").write_text("text,label\n" + "".join(rows))
        (tmp_path / "test.csv").write_text(f"text,label\na,{minus}\nb,{minus}\n")
        options = with_values(RunOptions(), {"data.train": str(tmp_path)})
        parts, said = read_parts(options, {})
        left_out = f"{tmp_path / 'test.csv'}: the test part has no labels and is left out" in said
        assert left_out == (known == "1")
        assert ("test" in parts.tables) == (known == minus)
        assert sorted(parts.names) == sorted(["0", known])
