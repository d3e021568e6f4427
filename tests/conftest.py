"""A tiny real encoder, small real tables, and a home of their own for caches: no test needs a network."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # runs are forked from a warmed process
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["NO_PROXY"] = "127.0.0.1,localhost"
# Before anything that reads them is imported: caches in a folder of this session's own.
HOME = tempfile.mkdtemp(prefix="kitune-tests-")
os.environ["HF_HOME"] = HOME
for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HUGGINGFACE_HUB_CACHE"):
    os.environ.pop(name, None)
OWNER = os.getpid()


@atexit.register
def remove_home() -> None:
    """Not by a forked child, which ends before the session does."""
    if os.getpid() == OWNER:
        shutil.rmtree(HOME, ignore_errors=True)


WORDS = [
    "the",
    "a",
    "it",
    "was",
    "is",
    "not",
    "very",
    "so",
    "good",
    "fine",
    "great",
    "lovely",
    "warm",
    "bad",
    "poor",
    "awful",
    "dull",
    "cold",
    "film",
    "book",
    "meal",
    "trip",
    "song",
    "room",
    "and",
    "but",
    "i",
    "we",
    "they",
    "found",
    "felt",
    "thought",
    "this",
    "that",
    "one",
    "last",
    "first",
    "really",
    "quite",
    "almost",
    "never",
    "always",
    "again",
    "slowly",
    "quickly",
]
GOOD, BAD = ("good", "fine", "great", "lovely", "warm"), ("bad", "poor", "awful", "dull", "cold")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random BERT of 2 layers, 32 wide, 64 positions, and its WordPiece tokenizer."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-model")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *"abcdefghijklmnopqrstuvwxyz0123456789.,!?"]
    pieces += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789"]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = BertTokenizerFast(vocab=vocabulary, do_lower_case=True, model_max_length=64)
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def lively_model(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The tiny model with weights ten times as large, so that texts differ in its answers before much was learned."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("lively-model")
    shutil.copytree(tiny_model, folder, dirs_exist_ok=True)
    weights = load_file(tiny_model / "model.safetensors")
    larger = {name: tensor if tensor.ndim == 1 else 10 * tensor for name, tensor in weights.items()}
    save_file(larger, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def rows() -> Callable[..., list[dict[str, Any]]]:
    """Seeded rows of a task that can be learned: `rows("single-label", 40, pair=True)`."""
    import numpy as np

    def make(task: str, count: int, *, pair: bool = False, seed: int = 0) -> list[dict[str, Any]]:
        generator = np.random.default_rng(seed)

        def text(mood: int) -> str:
            words = generator.choice(WORDS, size=int(generator.integers(3, 18))).tolist()
            words.insert(int(generator.integers(0, len(words))), str(generator.choice((BAD, GOOD)[mood])))
            return " ".join(words)

        made = []
        for number in range(count):
            first, second = int(generator.integers(2)), int(generator.integers(2))
            row: dict[str, Any] = {"id": f"r{number}", "text": text(first)}
            if pair:
                row["other"] = text(second)
            agree = first if not pair else int(first == second)
            row["label"] = {
                "single-label": ("no", "yes")[agree],
                "multi-label": [
                    name for name, has in (("good", first), ("bad", 1 - first), ("odd", number % 3 == 0)) if has
                ],
                "regression": round(agree + float(generator.normal(0, 0.1)), 3),
            }[task]
            made.append(row)
        return made

    return make


@pytest.fixture
def free_port() -> int:
    """A port with free ones behind it, for processes that meet on loopback."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
