import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import processors
from transformers import AutoTokenizer

from kitune.data.batches import BatchPlan, collate, micro_batches, padding_id, plan_epoch
from kitune.data.encode import Encoded, encode
from kitune.data.read import read_table
from kitune.data.table import Rows
from kitune.errors import UserError

Sampler = Literal["bucketed", "random"]
PLANS = [
    BatchPlan(sampler, rows, tokens)
    for sampler in ("bucketed", "random")
    for rows, tokens in ((16, None), (1, None), (10_000, None), (16, 512), (16, 100), (16, 1))
]


def some_lengths(count: int, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).geometric(0.05, size=count).clip(2, 128).astype(np.int64)


def padded_tokens(updates: list[Rows], lengths: NDArray[np.int64]) -> int:
    return sum(int(lengths[rows].max()) * len(rows) for rows in updates)


@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("count", [1, 15, 16, 17, 603])
def test_every_row_is_in_one_update_of_an_epoch(plan: BatchPlan, count: int) -> None:
    for epoch in range(3):
        updates = plan_epoch(plan, some_lengths(count), seed=1, epoch=epoch)
        assert all(len(rows) for rows in updates)
        assert sorted(int(row) for rows in updates for row in rows) == [*range(count)]


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_a_plan_follows_from_seed_and_epoch_alone(plan: BatchPlan) -> None:
    lengths = some_lengths(603)

    def of(seed: int, epoch: int) -> list[list[int]]:
        np.random.seed(epoch + 99)  # a global state that must not matter
        return [rows.tolist() for rows in plan_epoch(plan, lengths, seed=seed, epoch=epoch)]

    assert of(1, 0) == of(1, 0)
    assert of(1, 0) != of(1, 1)
    assert of(1, 0) != of(2, 0)
    assert of(1, 2) != of(2, 1)


@pytest.mark.parametrize("sampler", ["bucketed", "random"])
def test_updates_have_the_rows_asked_for(sampler: Sampler) -> None:
    for plan in (BatchPlan(sampler, 16), BatchPlan(sampler, 7)):
        sizes = [len(rows) for rows in plan_epoch(plan, some_lengths(603), seed=1, epoch=0)]
        assert len(sizes) == -(-603 // plan.rows)
        assert sorted(sizes)[1:] == [plan.rows] * (len(sizes) - 1)


@pytest.mark.parametrize("sampler", ["bucketed", "random"])
@pytest.mark.parametrize("tokens", [1, 60, 256, 4096])
def test_a_token_budget_is_kept_but_by_a_row_that_is_longer_alone(sampler: Sampler, tokens: int) -> None:
    for seed in range(5):
        lengths = some_lengths(700, seed)
        updates = plan_epoch(BatchPlan(sampler, 16, tokens), lengths, seed=seed, epoch=0)
        assert all(len(rows) == 1 or int(lengths[rows].max()) * len(rows) <= tokens for rows in updates)


def test_a_token_budget_is_used_well() -> None:
    lengths = some_lengths(5000)
    updates = plan_epoch(BatchPlan("bucketed", 16, 2048), lengths, seed=1, epoch=0)
    assert len(updates) <= 1.2 * lengths.sum() / 2048


@pytest.mark.parametrize("tokens", [None, 1024])
def test_buckets_pad_less_than_any_rows_together(tokens: int | None) -> None:
    for seed in range(5):
        lengths = some_lengths(3000, seed)
        bucketed, at_random = (
            padded_tokens(plan_epoch(BatchPlan(sampler, 16, tokens), lengths, seed=seed, epoch=0), lengths)
            for sampler in ("bucketed", "random")
        )
        assert bucketed < 1.1 * lengths.sum() < at_random


def test_long_rows_come_at_any_time_of_a_bucketed_epoch() -> None:
    lengths = some_lengths(700)
    updates = plan_epoch(BatchPlan("bucketed", 16), lengths, seed=1, epoch=0)
    means = np.array([lengths[rows].mean() for rows in updates])
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.3


@pytest.mark.parametrize("count", [1, 2, 3, 5, 16])
def test_micro_batches_part_the_rows_by_length(count: int) -> None:
    lengths = some_lengths(500)
    rows = np.random.default_rng(0).choice(500, size=13, replace=False)
    encoded = Encoded(np.empty(0, np.int32), np.concatenate([[0], np.cumsum(lengths)]), None)
    parts = micro_batches(rows, encoded, count=count)
    assert len(parts) == count
    assert sorted(int(row) for part in parts for row in part) == sorted(rows.tolist())
    longest_first = [int(length) for part in parts for length in lengths[part]]
    assert longest_first == sorted(longest_first, reverse=True)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def encoded(tokenizer: Any) -> Encoded:
    generator = np.random.default_rng(0)
    texts = [
        {"a": "good film " * int(n), "b": "bad " * int(m)}
        for n, m in zip(*generator.integers(0, 12, (2, 40)), strict=True)
    ]
    return encode(read_table(texts), ["a", "b"], tokenizer, max_length=24, cache=False)


@pytest.mark.parametrize("rows", [[0], [3, 1, 2], [*range(40)], np.array([39, 0, 39])], ids=len)
def test_a_batch_is_padded_as_the_tokenizer_pads(tokenizer: Any, encoded: Encoded, rows: Any) -> None:
    batch = collate(encoded, rows, pad_id=tokenizer.pad_token_id, device=torch.device("cpu"))
    assert encoded.token_type_ids is not None
    slices = [slice(encoded.starts[row], encoded.starts[row + 1]) for row in rows]
    features = {
        "input_ids": [encoded.input_ids[part].tolist() for part in slices],
        "token_type_ids": [encoded.token_type_ids[part].tolist() for part in slices],
    }
    own = tokenizer.pad(features, return_tensors="pt")
    assert batch.inputs().keys() == own.keys()
    for name, tensor in batch.inputs().items():
        assert tensor.dtype == own[name].dtype
        assert torch.equal(tensor, own[name])


@pytest.mark.parametrize(
    ("side", "last", "front"), [("left", "[CLS]", True), ("left", "[SEP]", False), ("right", "[CLS]", False)]
)
def test_a_batch_is_filled_up_in_front_where_the_tokenizer_does_so_and_its_cls_stands_last(
    tokenizer: Any, side: str, last: str, front: bool
) -> None:
    other = copy.deepcopy(tokenizer)
    other.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A [SEP] {last}:1",
        special_tokens=[(sign, tokenizer.convert_tokens_to_ids(sign)) for sign in ("[SEP]", "[CLS]")],
    )
    other.padding_side = side
    texts = ["good film " * n for n in (1, 9, 0, 4)]
    encoded = encode(read_table([{"a": text} for text in texts]), ["a"], other, max_length=24, cache=False)
    for ids in (encoded, encoded.sequences(), encoded.with_labels(np.arange(4))):
        batch = collate(ids, [2, 0, 1], pad_id=other.pad_token_id, device=torch.device("cpu"))
        own = other(
            [texts[i] for i in (2, 0, 1)], padding=True, padding_side="left" if front else "right", return_tensors="pt"
        )
        assert batch.inputs().keys() == own.keys()
        for name, tensor in batch.inputs().items():
            assert torch.equal(tensor, own[name])


@pytest.mark.parametrize(
    ("of_network", "of_tokenizer", "expected"), [(4, 0, 4), (None, 4, 4), (-1, 4, 4), (0, None, 0)]
)
def test_network_and_tokenizer_agree_on_a_padding_id(
    of_network: int | None, of_tokenizer: int | None, expected: int
) -> None:
    network = SimpleNamespace(config=SimpleNamespace(pad_token_id=of_network))
    assert padding_id(SimpleNamespace(pad_token_id=of_tokenizer), network) == expected
    assert network.config.pad_token_id == expected


def test_without_any_padding_id_there_is_no_batch() -> None:
    tokenizer, network = (
        SimpleNamespace(pad_token_id=None, name_or_path="gpt"),
        SimpleNamespace(config=SimpleNamespace()),
    )
    with pytest.raises(UserError, match=r"gpt: neither its config\.json nor its tokenizer names a padding token"):
        padding_id(tokenizer, network)


def test_another_padding_id_fills_ids_only(encoded: Encoded) -> None:
    batch = collate(encoded, [0, 1, 2, 3], pad_id=7, device=torch.device("cpu"))
    padding = batch.attention_mask == 0
    assert padding.any()
    assert (batch.input_ids[padding] == 7).all()
    assert batch.token_type_ids is not None
    assert (batch.token_type_ids[padding] == 0).all()


@pytest.mark.parametrize("labels", [np.arange(40), np.random.default_rng(0).random((40, 3)).astype(np.float32)])
def test_labels_and_weights_go_with_their_rows(encoded: Encoded, labels: Any) -> None:
    weights = np.linspace(0, 1, 40, dtype=np.float32)
    rows = [5, 0, 39]
    batch = collate(encoded.with_labels(labels, weights), rows, pad_id=0, device=torch.device("cpu"))
    assert batch.labels is not None
    assert torch.equal(batch.labels, torch.from_numpy(labels[rows]))
    assert batch.weights is not None
    assert torch.equal(batch.weights, torch.from_numpy(weights[rows]))


def test_a_batch_without_labels_or_types_has_none(encoded: Encoded) -> None:
    bare = Encoded(encoded.input_ids, encoded.starts, None)
    batch = collate(bare, [0, 1], pad_id=0, device=torch.device("cpu"))
    assert (batch.labels, batch.weights) == (None, None)
    assert list(batch.inputs()) == ["input_ids", "attention_mask"]
