"""Rows in use: the same training as with the whole table, bit-equal resume, and files that hold every row."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, BertConfig, BertModel

from kitune.model.vocabulary import CHUNK_ROWS, RowsInUse, require_rows, use_rows
from tests.training.runs import SHORT, content, in_child, killed_after_step, resume, train

Rows = Callable[..., list[dict[str, Any]]]
WORDS = "embeddings.word_embeddings.weight"
VOCABULARY = CHUNK_ROWS + 1_000  # more than one slice when it is written


@pytest.fixture(scope="module")
def wordy_model(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The tiny model with many embeddings that no text of the tests uses."""
    folder = tmp_path_factory.mktemp("wordy-model")
    shutil.copytree(tiny_model, folder, dirs_exist_ok=True)
    torch.manual_seed(7)
    config = BertConfig.from_pretrained(tiny_model)
    config.vocab_size = VOCABULARY
    BertModel(config).save_pretrained(folder)
    return folder


def test_the_training_is_the_one_with_the_whole_table(rows: Rows, wordy_model: Path, tmp_path: Path) -> None:
    data = rows("single-label", 60)
    # A large epsilon, because AdamW divides rounding by rounding where the true gradient is zero (every key.bias).
    options = SHORT | {"train.dropout": 0.0, "train.weight_decay": 0.5, "train.epsilon": 1e-4, "train.epochs": 3}
    train(tmp_path / "rows", data, wordy_model, options)()
    train(tmp_path / "whole", data, wordy_model, options | {"engine.plain": True})()
    ours, theirs = (load_file(tmp_path / run / "last" / "model.safetensors") for run in ("rows", "whole"))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=2e-5, atol=2e-5)
    before = load_file(wordy_model / "model.safetensors")[WORDS]
    unused = ours["bert." + WORDS][-500:]
    assert unused.shape == before[-500:].shape
    assert 0.9 < float((unused / before[-500:]).mean()) < 0.999  # decay has moved them
    events = [json.loads(line) for line in (tmp_path / "rows" / "events.jsonl").read_text().splitlines()]
    factor = np.prod([1 - 0.5 * event["lr"] for event in events])
    torch.testing.assert_close(unused, before[-500:] * factor, rtol=1e-6, atol=0)


def test_moments_exist_for_the_rows_in_use_alone(rows: Rows, wordy_model: Path, tmp_path: Path) -> None:
    data = rows("single-label", 60)
    train(tmp_path / "rows", data, wordy_model, SHORT)()
    train(tmp_path / "whole", data, wordy_model, SHORT | {"engine.plain": True})()
    sizes = [
        load_file(next((tmp_path / run / "checkpoints").iterdir()) / "moments.safetensors")["exp_avg"].numel()
        for run in ("rows", "whole")
    ]
    assert sizes[1] - sizes[0] > 32 * (VOCABULARY - 200)


@pytest.mark.parametrize("family", ["bart", "mbart", "gemma3_text"])
def test_a_table_that_is_more_than_a_table_stays_whole(family: str) -> None:
    """BART's is shared with its decoder, mBART's and Gemma's scales what it gives."""
    small = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
    small |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "scale_embedding": True}
    small |= {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    small |= {"head_dim": 16, "intermediate_size": 32, "pad_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(1)
    config = AutoConfig.for_model(family, vocab_size=500, num_labels=2, **small)
    network = AutoModelForSequenceClassification.from_config(config).eval()
    ids = torch.tensor([[3, 5, 7, 2], [9, 3, 8, 2]])
    before = network(input_ids=ids).logits
    assert not use_rows(network, [ids.numpy().ravel()])
    torch.testing.assert_close(network(input_ids=ids).logits, before)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_killed_run_resumes_to_the_last_bit(rows: Rows, wordy_model: Path, tmp_path: Path, precision: str) -> None:
    data = rows("single-label", 60)
    options = SHORT | {"engine.precision": precision, "train.checkpoint_every": 3}
    assert in_child(train(tmp_path / "whole", data, wordy_model, options), log=tmp_path / "log") == 0
    work = train(tmp_path / "run", data, wordy_model, options)
    assert in_child(killed_after_step(7, work), log=tmp_path / "log") == -signal.SIGKILL
    assert in_child(resume(tmp_path / "run", data), log=tmp_path / "log") == 0, (tmp_path / "log").read_text()
    assert content(tmp_path / "run") == content(tmp_path / "whole")


def test_a_run_answers_about_words_that_it_never_saw(rows: Rows, wordy_model: Path, tmp_path: Path) -> None:
    import kitune

    data = [
        row | {"text": " ".join(word for word in row["text"].split() if word != "slowly")}
        for row in rows("single-label", 60)
    ]
    run = kitune.train(data, model=str(wordy_model), out=tmp_path / "run", options=SHORT)
    answers = run.predict(["slowly slowly slowly", "warm"])
    network = AutoModel.from_pretrained(run / "best")
    assert network.embeddings.word_embeddings.weight.shape == (VOCABULARY, 32)
    assert not np.allclose(answers.logits[0], answers.logits[1])


def test_a_token_that_is_not_in_use_is_an_error_and_not_another_tokens_row() -> None:
    table = RowsInUse(nn.Embedding(100, 16), np.asarray([3, 5, 9]))
    with pytest.raises(IndexError):
        table(torch.tensor([4]))
    with pytest.raises(IndexError):
        table(torch.tensor([100]))


def test_embeddings_and_their_gradients_are_those_of_the_whole_table() -> None:
    torch.manual_seed(0)
    embedding = nn.Embedding(100, 16, padding_idx=3)
    table = RowsInUse(embedding, np.asarray([9, 3, 5, 9]))
    ids = torch.tensor([[3, 5, 9], [9, 9, 3]])
    assert torch.equal(table(ids), embedding(ids))
    torch.autograd.backward(table(ids).square().sum())
    torch.autograd.backward(embedding(ids).square().sum())
    assert table.weight.grad is not None
    assert embedding.weight.grad is not None
    assert torch.equal(table.weight.grad, embedding.weight.grad[[3, 5, 9]])


def test_little_is_gained_where_most_is_in_use() -> None:
    network = BertModel(BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2))
    assert not use_rows(network, [np.arange(45)])
    assert isinstance(network.get_input_embeddings(), nn.Embedding)
    assert use_rows(network, [np.arange(20), np.asarray([49])])
    assert network.get_input_embeddings().weight.shape == (21, 32)


def test_an_encoder_without_a_table_of_words_is_left_alone() -> None:
    class Other:
        def get_input_embeddings(self) -> nn.Module:
            return nn.Linear(2, 2)

    class None_(Other):
        def get_input_embeddings(self) -> nn.Module:
            raise NotImplementedError

    for base in (Other(), None_()):
        network = SimpleNamespace(base_model=base)
        require_rows(network, [np.asarray([10**9])])
        assert not use_rows(network, [np.asarray([10**9])])
