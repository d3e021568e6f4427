import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from kitune.data.cache import cache_folder
from kitune.data.encode import CHUNK_ROWS, Encoded, encode, guess_max_length, take
from kitune.data.read import read_table
from kitune.data.table import Table
from kitune.errors import UserError

MakeRows = Callable[..., list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))


@pytest.fixture
def tokenizer(tiny_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


def row_ids(encoded: Encoded) -> list[list[int]]:
    return [
        encoded.input_ids[begin:end].tolist()
        for begin, end in zip(encoded.starts[:-1], encoded.starts[1:], strict=True)
    ]


def same(one: Encoded, other: Encoded) -> bool:
    pairs = [(getattr(one, name), getattr(other, name)) for name in ("input_ids", "starts", "token_type_ids")]
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("text", [("text",), ("text", "other")])
def test_the_ids_are_the_tokenizers_own(tokenizer: Any, rows: MakeRows, text: tuple[str, ...], cache: bool) -> None:
    table = read_table([*rows("single-label", 60, pair=True), {"id": "empty", "text": "", "other": None}])
    encoded = encode(table, text, tokenizer, max_length=16, cache=cache)
    for row, ids in enumerate(row_ids(encoded)):
        own = tokenizer(*([table.texts(name)[row]] for name in text), truncation=True, max_length=16)
        assert [ids] == own["input_ids"]
        assert encoded.token_type_ids is not None
        types = encoded.token_type_ids[encoded.starts[row] : encoded.starts[row + 1]].tolist()
        assert [types] == own["token_type_ids"]
    assert encoded.lengths.max() == 16
    assert len(encoded) == 61


def test_rows_lie_flat_behind_one_another(tokenizer: Any, rows: MakeRows) -> None:
    table = read_table(rows("single-label", CHUNK_ROWS + 50))
    encoded = encode(table, ["text"], tokenizer, max_length=64)
    own = tokenizer(table.texts("text"))["input_ids"]
    assert encoded.input_ids.tolist() == [i for ids in own for i in ids]
    assert encoded.starts.tolist() == np.cumsum([0, *map(len, own)]).tolist()
    assert encoded.lengths.tolist() == [len(ids) for ids in own]
    assert (encoded.input_ids.dtype, encoded.starts.dtype) == (np.dtype(np.int32), np.dtype(np.int64))


def test_the_second_time_the_same_files_are_mapped(tokenizer: Any, rows: MakeRows) -> None:
    table = read_table(rows("single-label", 50))
    first = encode(table, ["text"], tokenizer, max_length=32)
    (ids_file,) = cache_folder().glob("encoded/*/ids.bin")
    made = ids_file.stat()
    again = encode(read_table(table.data.to_pandas()), ["text"], tokenizer, max_length=32)
    assert same(first, again)
    assert isinstance(again.input_ids, np.memmap)
    assert not again.input_ids.flags.writeable
    assert (ids_file.stat().st_ino, ids_file.stat().st_mtime_ns) == (made.st_ino, made.st_mtime_ns)
    assert same(first, encode(table, ["text"], tokenizer, max_length=32, cache=False))
    assert [folder.name for folder in (cache_folder() / "encoded").iterdir()] == [ids_file.parent.name]


def test_other_texts_columns_lengths_and_tokenizers_have_other_files(
    tokenizer: Any, tiny_model: Path, rows: MakeRows
) -> None:
    table = read_table(rows("single-label", 20, pair=True))
    cased = AutoTokenizer.from_pretrained(tiny_model, do_lower_case=False)
    cased.add_tokens(["unheard"])
    left = AutoTokenizer.from_pretrained(tiny_model, truncation_side="left")
    untyped = AutoTokenizer.from_pretrained(tiny_model, model_input_names=["input_ids", "attention_mask"])
    asked: list[tuple[Table, list[str], Any, int]] = [
        (table, ["text"], tokenizer, 8),
        (table, ["other"], tokenizer, 8),
        (table, ["text", "other"], tokenizer, 8),
        (table, ["text"], tokenizer, 9),
        (table, ["text"], cased, 8),
        (table, ["text"], left, 8),
        (table, ["text"], untyped, 8),
        (table.take(np.arange(19)), ["text"], tokenizer, 8),
    ]
    for number, (rows_of, text, with_tokenizer, max_length) in enumerate(asked, start=1):
        encoded = encode(rows_of, text, with_tokenizer, max_length=max_length)
        assert len([*(cache_folder() / "encoded").iterdir()]) == number
        own = with_tokenizer(*map(rows_of.texts, text), truncation=True, max_length=max_length)
        assert row_ids(encoded) == own["input_ids"]
        assert (encoded.token_type_ids is None) == ("token_type_ids" not in own)


@pytest.mark.parametrize("name", ["ids.bin", "starts.bin", "types.bin", "sizes.json"])
@pytest.mark.parametrize("damage", ["shortened", "gone"])
def test_a_damaged_cache_is_made_again(tokenizer: Any, rows: MakeRows, name: str, damage: str) -> None:
    table = read_table(rows("single-label", 50))
    whole = encode(table, ["text"], tokenizer, max_length=32, cache=False)
    encode(table, ["text"], tokenizer, max_length=32)
    (file,) = cache_folder().glob(f"encoded/*/{name}")
    size = file.stat().st_size
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: size // 2])
    assert same(encode(table, ["text"], tokenizer, max_length=32), whole)
    assert file.stat().st_size == size


def test_a_staging_folder_that_a_crash_left_behind_harms_nothing(tokenizer: Any, rows: MakeRows) -> None:
    table = read_table(rows("single-label", 10))
    whole = encode(table, ["text"], tokenizer, max_length=32)
    (folder,) = (cache_folder() / "encoded").iterdir()
    folder.rename(folder.with_name(f".{folder.name}-half"))
    (folder.with_name(f".{folder.name}-half") / "ids.bin").write_bytes(b"torn")
    assert same(encode(table, ["text"], tokenizer, max_length=32), encode(table, ["text"], tokenizer, max_length=32))
    assert len(encode(table, ["text"], tokenizer, max_length=32)) == len(whole)


def test_taken_rows_come_in_the_order_asked(tokenizer: Any, rows: MakeRows) -> None:
    labels, weights = np.arange(30), np.linspace(0, 1, 30, dtype=np.float32)
    encoded = encode(read_table(rows("single-label", 30)), ["text"], tokenizer, max_length=32).with_labels(
        labels, weights
    )
    order = np.array([7, 0, 29, 7])
    part = take(encoded, order)
    assert row_ids(part) == [row_ids(encoded)[row] for row in order]
    assert part.token_type_ids is not None
    assert part.token_type_ids.shape == part.input_ids.shape
    assert part.labels is not None
    assert part.labels.tolist() == order.tolist()
    assert part.weights is not None
    assert part.weights.tolist() == weights[order].tolist()
    assert len(take(encoded, np.array([], dtype=np.int64))) == 0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [1, 37, 500, 4001])
def test_the_guessed_length_cuts_at_most_one_text_in_a_hundred_and_is_the_shortest(
    tokenizer: Any, seed: int, count: int
) -> None:
    words = np.random.default_rng(seed).geometric(0.04, size=count)
    table = read_table([{"text": "film " * int(number)} for number in words])
    chosen, cut, longest = guess_max_length(table, ["text"], tokenizer, 10_000)
    sampled = words[:: -(-count // 2000)] + 2
    assert cut == pytest.approx((sampled > chosen).mean())
    assert longest == sampled.max()
    assert cut <= 0.01
    assert chosen % 8 == 0
    assert chosen == 16 or (sampled > chosen - 8).mean() >= 0.01
    limited = guess_max_length(table, ["text"], tokenizer, 24)
    assert limited[0] == min(24, chosen)
    assert limited[1] == pytest.approx((sampled > limited[0]).mean())


@pytest.mark.parametrize("cache", [True, False])
def test_a_tokenizer_that_has_encoded_is_saved_without_truncation(
    tokenizer: Any, rows: MakeRows, tmp_path: Path, cache: bool
) -> None:
    encode(read_table(rows("single-label", 10)), ["text"], tokenizer, max_length=8, cache=cache)
    tokenizer.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "tokenizer.json").read_text())
    assert saved["truncation"] is None
    assert saved["padding"] is None


def test_a_cache_that_cannot_be_written_is_a_mistake_with_a_remedy(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"token ids cannot be kept there(.|\n)*engine\.cache=false"):
        encode(read_table([{"text": "good film"}]), ["text"], tokenizer, max_length=16)
