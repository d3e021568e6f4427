import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

import kitune
from kitune.data import encode as encode_module
from kitune.data.batches import WINDOWED_TOKENS, collate, micro_batches
from kitune.data.encode import Encoded, encode
from kitune.data.long_texts import LongTexts, shared
from kitune.data.read import read_table

HOWS = [LongTexts("cut"), LongTexts("head-tail"), LongTexts("windows"), LongTexts("windows", 3)]
# Whether a token is the model's own, for a text and for a pair of texts of some lengths.
LENGTHS = [(0,), (5,), (30,), (31,), (200,), (3, 4), (0, 50), (50, 0), (10, 200), (200, 10), (90, 300), (40, 40)]


def special(lengths: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.concatenate([[True], *([False] * length + [True] for length in lengths)]).astype(np.bool_)


@pytest.mark.parametrize("long_texts", HOWS, ids=str)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_each_sequence_fits_and_has_every_special_token(lengths: tuple[int, ...], long_texts: LongTexts) -> None:
    mask = special(lengths)
    sequences = long_texts.places(mask, 32)
    for places in sequences:
        assert len(places) == min(32, len(mask))
        assert (np.diff(places) > 0).all()
        assert mask[places].sum() == mask.sum()
    assert len(sequences) <= (long_texts.most_windows if long_texts.how == "windows" else 1)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_windows_leave_nothing_out_and_overlap(lengths: tuple[int, ...]) -> None:
    mask = special(lengths)
    sequences = LongTexts("windows", 100).places(mask, 32)
    assert set(np.concatenate(sequences)) == set(range(len(mask)))
    own = np.flatnonzero(~mask)
    for one, other in itertools.pairwise(sequences):
        shared_share = len(np.intersect1d(np.intersect1d(one, other), own)) / len(np.intersect1d(one, own))
        assert shared_share >= 0.25
    if len(mask) <= 32:
        assert len(sequences) == 1


@pytest.mark.parametrize("long_texts", HOWS, ids=str)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_what_is_read_is_known_from_the_lengths_alone(lengths: tuple[int, ...], long_texts: LongTexts) -> None:
    mask = special(lengths)
    sequences = long_texts.places(mask, 32)
    read = set(np.concatenate(sequences)) - set(np.flatnonzero(mask))
    room = 32 - int(mask.sum())
    assert long_texts.read(lengths, room) == len(read)
    assert long_texts.plan(lengths, room)[1] == len(sequences)


def test_too_many_windows_are_spread_over_the_text() -> None:
    sequences = LongTexts("windows", 3).places(special((1000,)), 32)
    assert [places[1] for places in sequences] == [1, 1 + 485, 1 + 970]
    assert sequences[-1][-2] == 1000


def test_head_and_tail_are_a_quarter_and_three() -> None:
    (places,) = LongTexts("head-tail").places(special((1000,)), 42)
    assert places.tolist() == [0, *range(1, 11), *range(971, 1001), 1001]


@pytest.mark.parametrize(
    ("lengths", "room", "rooms"),
    [([7], 10, [7]), ([70], 10, [10]), ([3, 70], 10, [3, 7]), ([70, 3], 10, [7, 3]), ([70, 80], 11, [5, 6])],
)
def test_a_short_text_leaves_its_room_to_the_other(lengths: list[int], room: int, rooms: list[int]) -> None:
    assert shared(lengths, room) == rooms


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture
def table(rows: Callable[..., list[dict[str, Any]]]) -> Any:
    made = rows("single-label", 30, pair=True)
    for number in (3, 17):
        made[number]["text"] = " ".join(row["text"] for row in made)
    return read_table([*made, {"text": "", "other": "", "label": "no"}])


@pytest.mark.parametrize("long_texts", HOWS[1:], ids=str)
@pytest.mark.parametrize("text", [("text",), ("text", "other")], ids=len)
def test_the_ids_are_the_tokenizers_own_at_their_places(
    tokenizer: Any, table: Any, text: tuple[str, ...], long_texts: LongTexts
) -> None:
    encoded = encode(table, text, tokenizer, max_length=24, long_texts=long_texts, cache=False)
    whole = tokenizer(*(table.texts(name) for name in text), return_special_tokens_mask=True)
    assert (encoded.first is None) == (long_texts.how == "head-tail")
    first = np.arange(len(table) + 1) if encoded.first is None else encoded.first
    assert encoded.token_type_ids is not None
    assert len(encoded) == len(table)
    for row, ids in enumerate(whole["input_ids"]):
        wanted = long_texts.places(np.asarray(whole["special_tokens_mask"][row], dtype=np.bool_), 24)
        sequences = range(first[row], first[row + 1])
        assert len(sequences) == len(wanted)
        for sequence, places in zip(sequences, wanted, strict=True):
            span = slice(encoded.starts[sequence], encoded.starts[sequence + 1])
            assert encoded.input_ids[span].tolist() == [ids[place] for place in places]
            types = [whole["token_type_ids"][row][place] for place in places]
            assert encoded.token_type_ids[span].tolist() == types


def test_a_text_that_spells_a_special_token_is_still_text(tokenizer: Any) -> None:
    table = read_table([{"text": "good [SEP] film " * 20}])
    encoded = encode(table, ["text"], tokenizer, max_length=16, long_texts=LongTexts("windows"), cache=False)
    for begin in encoded.starts[:-1]:
        assert encoded.input_ids[begin] == tokenizer.cls_token_id
    assert (np.diff(encoded.starts) == 16).all()


def test_a_tokenizer_in_python_gives_the_same(tiny_model: Path, tokenizer: Any, table: Any, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text(
        "\n".join(sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)), encoding="utf-8"
    )
    slow = BertTokenizerLegacy(str(tmp_path / "vocab.txt"), do_lower_case=True)
    slow.model_input_names = tokenizer.model_input_names
    for long_texts in HOWS[1:]:
        one, other = (
            encode(table, ("text", "other"), each, max_length=24, long_texts=long_texts, cache=False)
            for each in (tokenizer, slow)
        )
        for name in ("input_ids", "starts", "token_type_ids", "first"):
            assert np.array_equal(getattr(one, name), getattr(other, name))


def test_the_cache_keeps_them_apart(
    tokenizer: Any, table: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for _ in range(2):
        found = [encode(table, ["text"], tokenizer, max_length=24, long_texts=long_texts) for long_texts in HOWS]
        assert len({tuple(encoded.input_ids.tolist()) for encoded in found}) == len(HOWS)
        assert [encoded.first is None for encoded in found] == [True, True, False, False]
        monkeypatch.setattr(encode_module, "write_ids", None)  # the second time all of it is there


@pytest.fixture
def windowed(tokenizer: Any, table: Any) -> Encoded:
    return encode(table, ["text"], tokenizer, max_length=24, long_texts=LongTexts("windows"), cache=False)


def test_a_batch_has_the_sequences_of_its_rows(windowed: Encoded) -> None:
    rows = [4, 17, 30, 3]
    batch = collate(windowed, rows, pad_id=0, device=torch.device("cpu"))
    assert windowed.first is not None
    assert batch.counts == [int(windowed.first[row + 1] - windowed.first[row]) for row in rows]
    assert batch.counts[0] == batch.counts[2] == 1 < batch.counts[1]
    assert int(batch.attention_mask.sum()) == int(windowed.lengths[rows].sum())
    logits = torch.randn(sum(batch.counts), 3)
    means = [part.mean(dim=0) for part in torch.split(logits, batch.counts)]
    assert torch.allclose(batch.of_rows(logits), torch.stack(means))
    whole = np.random.default_rng(0).normal(size=(len(windowed.starts) - 1, 3)).astype(np.float32)
    assert np.allclose(
        windowed.of_rows(whole)[17], whole[windowed.first[17] : windowed.first[18]].mean(axis=0), atol=1e-6
    )


def test_rows_with_many_tokens_make_more_micro_batches(windowed: Encoded, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.arange(len(windowed))
    assert windowed.lengths.sum() < WINDOWED_TOKENS
    assert len(micro_batches(rows, windowed, count=2)) == 2
    monkeypatch.setattr("kitune.data.batches.WINDOWED_TOKENS", 60)
    parts = micro_batches(rows, windowed, count=2)
    assert sorted(int(row) for part in parts for row in part) == rows.tolist()
    assert all(len(part) == 1 or int(windowed.lengths[part].sum()) <= 60 for part in parts)


def test_an_answer_is_the_mean_over_the_windows(
    table: Any, lively_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {
        "data.text": ["text"],
        "data.label": "label",
        "data.max_length": 24,
        "data.long_texts": "windows",
        "train.epochs": 1,
        "engine.precision": "fp32",
    }
    run = kitune.train(table.data.slice(0, 30), model=str(lively_model), out=tmp_path / "run", options=options)
    network = AutoModelForSequenceClassification.from_pretrained(run / "best").eval()
    tokenizer = AutoTokenizer.from_pretrained(run / "best")
    answers = run.predict(table.data)
    for row, text in enumerate(table.texts("text")):
        inputs = tokenizer(text, return_special_tokens_mask=True)
        mask = np.asarray(inputs["special_tokens_mask"], dtype=np.bool_)
        logits = [
            network(input_ids=torch.tensor([[inputs["input_ids"][place] for place in places]])).logits[0]
            for places in LongTexts("windows").places(mask, 24)
        ]
        mean = torch.stack(logits).mean(dim=0).detach().numpy()
        np.testing.assert_allclose(answers.logits[row], mean, atol=1e-5)
    one_window = run.model.with_layout({"data.most_windows": 1}).predict(table.data)
    assert not np.allclose(one_window.logits[17], answers.logits[17], atol=1e-4)
    np.testing.assert_allclose(one_window.logits[0], answers.logits[0], atol=1e-6)
