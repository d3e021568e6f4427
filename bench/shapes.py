"""The models and texts of the speed benchmarks."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peers import encode
from quality import starter_folder
from sets import PAIR, BenchSet, hold_out, load_set, tab_rows
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaModel,
)

SHAPES = ("starter", "tiny", "multilingual")
# Of multilingual: so many train rows of MRPC hold 9,400 different words, near enough to the 9,000 of the target.
ROWS = {"starter": 1000, "tiny": 4900, "multilingual": 1800}
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")  # XLM-R's first ids; its last is <mask>
VOCABULARY = 250_002


@dataclass(frozen=True)
class Work:
    """What both sides train: files of their own, so that neither process holds more than it reads.

    Attributes:
        model: a folder that `from_pretrained` loads, tokenizer included.
        train, valid: .jsonl files.
        num_rows: of train.
        tokens, distinct_tokens: real ones of train in one epoch (padding is not counted), and how many differ.
        encoder_parameters: of the layers, without embeddings, pooler and head, which do next to no work.
    """

    model: Path
    train: Path
    valid: Path
    text: tuple[str, ...]
    label: str
    num_rows: int
    tokens: int
    distinct_tokens: int
    encoder_parameters: int


def work_of(shape: str, data: Path, folder: Path, *, rows: int | None = None, max_length: int) -> Work:
    """The work of a shape, its files written into `folder`.

    Args:
        rows: of train; default: the shape's own number. Valid has a tenth of that.
    """
    model = model_of(shape, data, folder / "model")
    bench = qnli(data) if shape == "tiny" else load_set("mrpc", data)
    train, valid = hold_out(bench, seed=1)
    train = train[: ROWS[shape] if rows is None else rows]
    valid = valid[: max(1, len(train) // 10)]
    for name, part in (("train", train), ("valid", valid)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    ids = [
        row["input_ids"] for row in encode(AutoTokenizer.from_pretrained(model), bench, train, max_length=max_length)
    ]
    with torch.device("meta"):
        encoder = AutoModel.from_config(AutoConfig.from_pretrained(model)).encoder
    return Work(
        model,
        folder / "train.jsonl",
        folder / "valid.jsonl",
        bench.text,
        bench.label,
        len(train),
        sum(map(len, ids)),
        len({token for row in ids for token in row}),
        sum(parameter.numel() for parameter in encoder.parameters()),
    )


def qnli(data: Path) -> BenchSet:
    """QNLI's labelled dev part, as train: for speed, where only the lengths of its texts matter."""
    rows = tab_rows(data / "qnli" / "dev.tsv")
    kept = [{"question": row["question"], "sentence": row["sentence"], "label": row["label"]} for row in rows]
    names = ("entailment", "not_entailment")
    return BenchSet("qnli", "single-label", ("question", "sentence"), "label", "accuracy", kept, None, [], names)


def model_of(shape: str, data: Path, folder: Path) -> Path:
    """The folder of a shape's model and tokenizer; random ones are written into `folder`, the same at every call."""
    if shape == "starter":
        return starter_folder()
    torch.manual_seed(1)
    if shape == "tiny":
        tiny = BertConfig(
            vocab_size=30522, hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512
        )
        BertModel(tiny).save_pretrained(folder)
        AutoTokenizer.from_pretrained(starter_folder()).save_pretrained(folder)
        return folder
    words = {word for row in load_set("mrpc", data).train for column in PAIR for word in words_of(row[column])}
    word_tokenizer(sorted(words)).save_pretrained(folder)
    multilingual = XLMRobertaConfig(
        vocab_size=VOCABULARY,
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=1536,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    XLMRobertaModel(multilingual).save_pretrained(folder)
    return folder


def words_of(text: str) -> list[str]:
    """As the tokenizer of `word_tokenizer` parts a text: tokenizers' `Whitespace` has this pattern."""
    return re.findall(r"\w+|[^\w\s]+", text.lower())


def word_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer with XLM-R's number of ids and its special tokens, one id a word; all other ids are fillers.

    The words lie evenly over the vocabulary, as those of one language do in a vocabulary of a hundred.
    """
    ids = {token: number for number, token in enumerate(SPECIALS)} | {"<mask>": VOCABULARY - 1}
    apart = (VOCABULARY - 1 - len(SPECIALS)) // len(words)
    ids |= {word: len(SPECIALS) + apart * number for number, word in enumerate(words)}
    taken = set(ids.values())
    ids |= {f"<filler {number}>": number for number in range(VOCABULARY) if number not in taken}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names: dict[str, Any] = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    names |= {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
        **names,
    )
