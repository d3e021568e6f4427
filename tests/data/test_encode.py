import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from kitune.data.cache import cache_folder
from kitune.data.encode import CHUNK_ROWS, Encoded, calls_backend_only, choose_max_length, encode, sample_lengths
from kitune.data.long_texts import LongTexts
from kitune.data.read import read_table
from kitune.data.table import Table
from kitune.errors import UserError
from tests.conftest import WORDS

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
    whole = encode(table, ["text"], tokenizer, max_length=32, cache=False)
    encode(table, ["text"], tokenizer, max_length=32)
    (folder,) = (cache_folder() / "encoded").iterdir()
    folder.rename(folder.with_name(f".{folder.name}-half"))
    (folder.with_name(f".{folder.name}-half") / "ids.bin").write_bytes(b"torn")
    for _ in range(2):
        assert same(encode(table, ["text"], tokenizer, max_length=32), whole)


def trained(kind: str, texts: list[str]) -> Any:
    """A fast tokenizer of a family of its own: how it cuts words, and what it puts around one text and a pair."""
    if kind == "unigram":  # as XLNet: special tokens behind, of a third type; no types of its own kind elsewhere
        backend = Tokenizer(models.Unigram())
        backend.normalizer, backend.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
        trainer: Any = trainers.UnigramTrainer(
            vocab_size=300, special_tokens=["<pad>", "<unk>", "<sep>", "<cls>"], unk_token="<unk>"
        )
        single, pair = "$A:0 <sep>:0 <cls>:2", "$A:0 <sep>:0 $B:1 <sep>:1 <cls>:2"
    else:  # as RoBERTa
        backend = Tokenizer(models.BPE(unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<pad>", "<unk>", "<sep>", "<cls>"])
        single, pair = "<cls>:0 $A:0 <sep>:0", "<cls>:0 $A:0 <sep>:0 <sep>:0 $B:0 <sep>:0"
    backend.train_from_iterator(texts, trainer)
    special = [(token, backend.token_to_id(token)) for token in ("<sep>", "<cls>")]
    backend.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "sep_token": "<sep>", "cls_token": "<cls>"}
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if kind == "unigram" else [])]
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=inputs, **names)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "bpe", "special split"])
@pytest.mark.parametrize("text", [("text",), ("text", "other"), ("text", "text")])
def test_every_family_gets_the_ids_and_types_that_transformers_gives(
    tiny_model: Path, rows: MakeRows, text: tuple[str, ...], kind: str, side: str
) -> None:
    made = rows("single-label", 50, pair=True)
    hard = [
        "",
        " ",
        "ü\u00a0日本 語",
        "film [SEP] <sep> film",
        "a" * 40,
        "\u200b\ufeff\x00",
        "good " * 40,
        "🙂 fine\n\tday",
    ]
    made += [{"text": one, "other": other} for one in hard for other in hard]
    table = read_table([{"text": row["text"], "other": row["other"]} for row in made])
    if kind in {"wordpiece", "special split"}:
        tokenizer = AutoTokenizer.from_pretrained(tiny_model, split_special_tokens=kind == "special split")
    else:
        tokenizer = trained(kind, table.texts("text"))
    tokenizer.truncation_side = side
    assert calls_backend_only(tokenizer)
    for max_length in (8, 32, 200):
        encoded = encode(table, text, tokenizer, max_length=max_length, cache=False)
        own = tokenizer(*map(table.texts, text), truncation=True, max_length=max_length)
        assert row_ids(encoded) == own["input_ids"]
        if "token_type_ids" not in own:
            assert encoded.token_type_ids is None
        else:
            assert encoded.token_type_ids is not None
            assert encoded.token_type_ids.tolist() == [i for types in own["token_type_ids"] for i in types]


def test_a_tokenizer_that_is_slow_or_has_ways_of_its_own_goes_through_transformers(
    tokenizer: Any, tiny_model: Path, tmp_path: Path
) -> None:
    class Own(type(tokenizer)):  # type: ignore[misc]
        def _encode_plus(self, text: Any, *others: Any, **told: Any) -> Any:
            return super()._encode_plus([one.replace("film", "day") for one in text], *others, **told)

    own = Own.from_pretrained(tiny_model)
    slow = BertTokenizerLegacy(vocab_file=str(vocabulary_of(tokenizer, tmp_path)))
    table = read_table([{"text": "good film"}, {"text": "a film and a day"}])
    for other, said in ((own, tokenizer(["good day", "a day and a day"])), (slow, tokenizer(table.texts("text")))):
        assert not calls_backend_only(other)
        encoded = encode(table, ["text"], other, max_length=16)
        assert row_ids(encoded) == said["input_ids"]
        own_types = other(table.texts("text")).get("token_type_ids")
        types = None if encoded.token_type_ids is None else encoded.token_type_ids.tolist()
        assert types == (None if own_types is None else [i for row in own_types for i in row])


def vocabulary_of(tokenizer: Any, folder: Path) -> Path:
    """A vocab.txt with the pieces of a tokenizer."""
    path = folder / "vocab.txt"
    pieces = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    path.write_text("".join(f"{piece}\n" for piece, _ in pieces))
    return path


def test_rows_come_in_order_when_slices_are_worked_on_side_by_side(
    tokenizer: Any, rows: MakeRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kitune.data.encode.CHUNK_ROWS", 7)
    monkeypatch.setattr("kitune.data.encode.THREADS", 4)
    table = read_table([{"text": "film " * (row % 29)} for row in range(1000)])
    encoded = encode(table, ["text"], tokenizer, max_length=64)
    assert encoded.lengths.tolist() == [row % 29 + 2 for row in range(1000)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [1, 37, 500, 4001])
def test_the_guessed_length_cuts_at_most_one_text_in_a_hundred_and_is_the_shortest(
    tokenizer: Any, seed: int, count: int
) -> None:
    words = np.random.default_rng(seed).geometric(0.04, size=count)
    table = read_table([{"text": "film " * int(number)} for number in words])
    own = sample_lengths(table, ["text"], tokenizer, cache=False)
    for _ in range(2):
        assert np.array_equal(sample_lengths(table, ["text"], tokenizer), own)
    assert own.shape[1] == 1
    lengths = own[:, 0] + 2
    sampled = words[:: -(-count // 2000)] + 2
    assert lengths.tolist() == sampled.tolist()
    chosen = choose_max_length(lengths, 10_000)
    assert (sampled > chosen).mean() <= 0.01
    assert chosen % 8 == 0
    assert chosen == 16 or (sampled > chosen - 8).mean() >= 0.01
    assert choose_max_length(lengths, 24) == min(24, chosen)


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


@pytest.mark.parametrize("how", ["cut", "windows"])
def test_an_empty_text_is_a_row_where_there_are_no_special_tokens_either(rows: MakeRows, how: Any) -> None:
    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    bare = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", model_max_length=64)
    texts = ["", "good film", "", "", "the song was good", ""]
    table = read_table([{"text": text} for text in texts])
    found = encode(table, ["text"], bare, max_length=8, long_texts=LongTexts(how), cache=False)
    ids = [found.input_ids[begin:end].tolist() for begin, end in pairwise(found.bounds)]
    assert ids == [[words["[UNK]"]] if not text else [words[word] for word in text.split()] for text in texts]
