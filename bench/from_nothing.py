"""What fine-tuning without pretraining gives: a small encoder of random weights, its tokenizer made from the train rows.

    python bench/from_nothing.py --data ../shared/data --sets nsmc,waimai --seeds 1,2,3

Korean and Chinese, 5,000 train rows; beside it TF-IDF of 1 to 3 characters with logistic regression. kitune's defaults.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from machine import PROJECT, circumstances
from measure import measure
from sets import BenchSet, gold, hold_out, load_set
from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertModel, BertTokenizerFast

import kitune

VOCABULARY, WIDTH, LAYERS = 8_000, 256, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=PROJECT.parent / "shared" / "data", help="folder of all sets")
    parser.add_argument("--sets", default="nsmc,waimai")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--options", default="{}", help="JSON: options of kitune instead of its defaults")
    parser.add_argument("--results", type=Path, default=PROJECT / "bench" / "results" / "from_nothing.jsonl")
    told = parser.parse_args()
    for name in told.sets.split(","):
        for seed in map(int, told.seeds.split(",")):
            line = {"set": name, "seed": seed, "options": json.loads(told.options), **scores(name, seed, told)}
            print(json.dumps(line), flush=True)
            with told.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**line, **circumstances()}) + "\n")


def scores(name: str, seed: int, told: argparse.Namespace) -> dict[str, Any]:
    """Accuracy of both on the test rows."""
    from peers import tfidf

    bench = load_set(name, told.data)
    train, valid = hold_out(bench, seed=seed)
    words = tfidf(bench, train, valid)
    with tempfile.TemporaryDirectory() as place:
        model = encoder_of(bench, Path(place) / "model", seed)
        run = kitune.train(
            train, valid=valid, model=str(model), out=Path(place) / "run", text=list(bench.text), label=bench.label,
            options={"train.seed": seed, **json.loads(told.options)},
        )  # fmt: skip
        answers = run.predict(bench.test)
        chosen = run.options.train
    order = [answers.label_names.index(label) for label in bench.label_names]
    labels = gold(bench, bench.test)
    return {
        "kitune": measure(answers.logits[:, order], labels, task=bench.task)["accuracy"],
        "valid": run.metrics["valid"]["accuracy"],
        "tfidf": measure(words.test, labels, task=bench.task)["accuracy"],
        "learning_rate": chosen.learning_rate,
        "epochs": chosen.epochs,
    }


def encoder_of(bench: BenchSet, folder: Path, seed: int) -> Path:
    """A BERT of random weights with a WordPiece vocabulary of the train rows."""
    maker = BertWordPieceTokenizer(lowercase=False, strip_accents=False, handle_chinese_chars=True)
    texts = [row[column] for row in bench.train for column in bench.text]
    maker.train_from_iterator(texts, vocab_size=VOCABULARY, min_frequency=2, show_progress=False)
    tokenizer = BertTokenizerFast(vocab=maker.get_vocab(), do_lower_case=False, strip_accents=False)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=130,
    )
    BertModel(config).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
