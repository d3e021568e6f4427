"""What kitune is held against: the transformers Trainer, TF-IDF and frozen vectors, each as a good user would have it.

Every peer takes the train and valid rows that kitune takes and returns outputs; `measure.py` turns them into metrics.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import device, fast_bf16
from measure import best_threshold, measure
from numpy.typing import NDArray
from scipy import sparse
from sets import BenchSet, Row, gold
from sklearn.feature_extraction.text import TfidfVectorizer
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    Trainer,
    TrainingArguments,
    set_seed,
)

from kitune.evaluate.linear import fit_head

Encoded = list[dict[str, list[int]]]
# All that the starter reads: no text of the table's sets is cut for a peer, where kitune's own choice cuts one in a hundred.
MOST_TOKENS = 512
WITHOUT_WORD_SPACES = {"nsmc", "waimai"}  # Korean glues particles to words, Chinese writes no spaces
PROBLEMS = {
    "single-label": "single_label_classification",
    "multi-label": "multi_label_classification",
    "regression": "regression",
}


@dataclass(frozen=True)
class Outputs:
    """Raw outputs (rows, outputs) in the order of the rows and of `label_names`, and how they came about.

    `seconds` goes from rows in memory to a trained model, with loading, encoding and the evaluation of each epoch,
    without imports and without the outputs given here. `valid_by_epoch` is the headline metric on the valid part after
    each epoch, of those who have epochs.
    """

    valid: NDArray[Any]
    test: NDArray[Any]
    seconds: float
    settings: dict[str, float]
    valid_by_epoch: list[float] = field(default_factory=list)


def encode(tokenizer: Any, bench: BenchSet, rows: list[Row], *, max_length: int) -> Encoded:
    """Token ids without padding; two text columns as the tokenizer's own pair."""
    columns = [[row[column] for row in rows] for column in bench.text]
    table = tokenizer(*columns, truncation=True, max_length=min(max_length, tokenizer.model_max_length))
    return [{name: table[name][number] for name in table} for number in range(len(rows))]


def batches(encoded: Encoded, tokenizer: Any, *, rows: int = 64) -> Iterator[tuple[NDArray[Any], dict[str, Any]]]:
    """Row numbers and padded tensors, similar lengths together; write what comes out back by row number."""
    order = np.argsort([len(row["input_ids"]) for row in encoded], kind="stable")
    pad = DataCollatorWithPadding(tokenizer)
    for start in range(0, len(order), rows):
        chosen = order[start : start + rows]
        yield chosen, pad([encoded[number] for number in chosen]).to(device())


@torch.inference_mode()
def logits_of(network: Any, encoded: Encoded, tokenizer: Any) -> NDArray[Any]:
    """fp32 logits (rows, outputs), one for one row and in order; `Trainer.predict` gives neither, see `trainer`."""
    network = network.to(device()).eval()
    outputs = np.empty((len(encoded), network.config.num_labels), dtype=np.float32)
    for chosen, batch in batches(encoded, tokenizer):
        outputs[chosen] = network(**batch).logits.float().cpu().numpy()
    return outputs


def trainer(
    bench: BenchSet,
    train_rows: list[Row],
    valid_rows: list[Row],
    *,
    seed: int,
    learning_rate: float,
    epochs: float,
    batch: int,
    model_folder: Path,
    max_length: int = MOST_TOKENS,
) -> Outputs:
    """transformers' Trainer with its best flags, the epoch chosen on the valid part by the headline metric."""
    started = time.perf_counter()
    set_seed(seed)  # Trainer sets it too, but after the head has got its weights
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    network = AutoModelForSequenceClassification.from_pretrained(
        model_folder,
        dtype=torch.float32,
        num_labels=max(1, len(bench.label_names)),
        problem_type=PROBLEMS[bench.task],
        id2label=dict(enumerate(bench.label_names or (bench.label,))),
    )
    train, valid = (encode(tokenizer, bench, rows, max_length=max_length) for rows in (train_rows, valid_rows))
    dtype = np.int64 if bench.task == "single-label" else np.float32
    labelled = [
        [{**row, "labels": label} for row, label in zip(encoded, gold(bench, rows).astype(dtype), strict=True)]
        for encoded, rows in ((train, train_rows), (valid, valid_rows))
    ]

    def metrics(prediction: EvalPrediction) -> dict[str, float]:
        outputs, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
        threshold = best_threshold(outputs, labels) if bench.task == "multi-label" else None
        return measure(outputs, labels, task=bench.task, threshold=threshold)

    with tempfile.TemporaryDirectory(prefix="bench-trainer-") as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            seed=seed,
            learning_rate=learning_rate,
            num_train_epochs=epochs,
            per_device_train_batch_size=batch,
            per_device_eval_batch_size=64,
            weight_decay=0.01,
            lr_scheduler_type="linear",
            warmup_steps=0.06,  # below 1 it is a share of all steps; `warmup_ratio` is gone in 5.23
            bf16=fast_bf16(),
            use_cpu=device().type == "cpu",
            train_sampling_strategy="group_by_length",  # `group_by_length=True` is gone in 5.23
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=1,
            load_best_model_at_end=True,
            metric_for_best_model=bench.headline,
            greater_is_better=True,
            logging_strategy="epoch",
            report_to="none",
            disable_tqdm=True,
        )
        run = Trainer(
            model=network,
            args=arguments,
            train_dataset=labelled[0],
            eval_dataset=labelled[1],
            processing_class=tokenizer,
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=metrics,
        )
        run.train()
        seconds = time.perf_counter() - started
        # Read back from disk: `run.model` computes in bf16 even outside of autocast, because accelerate has replaced
        # its `forward`. And `run.predict` gives rows in the order of group_by_length's sampler.
        run.save_model(f"{folder}/best")
        best = AutoModelForSequenceClassification.from_pretrained(f"{folder}/best", dtype=torch.float32)
    of_valid = f"eval_{bench.headline}"
    by_epoch = [entry[of_valid] for entry in run.state.log_history if of_valid in entry]
    test = encode(tokenizer, bench, bench.test, max_length=max_length)
    settings = {"learning_rate": learning_rate, "batch": batch, "epochs": epochs, "bf16": float(fast_bf16())}
    settings["max_length"] = max_length
    outputs = logits_of(best, valid, tokenizer), logits_of(best, test, tokenizer)
    return Outputs(*outputs, seconds, settings, by_epoch)


def with_head(
    bench: BenchSet,
    train_rows: list[Row],
    valid_rows: list[Row],
    vectors: Callable[[list[Row]], Any],
    *,
    started: float,
) -> Outputs:
    """Outputs of the best linear head over `vectors`, a function from rows to features (rows, features)."""
    features = vectors(train_rows), vectors(valid_rows)
    score, _, strength = fit_head(
        bench.task,
        features,
        (as_labels(bench, train_rows), as_labels(bench, valid_rows)),
        num_outputs=len(bench.label_names),
        headline=bench.headline,
    )
    seconds = time.perf_counter() - started
    return Outputs(score(features[1]), score(vectors(bench.test)), seconds, {"C": strength})


def as_labels(bench: BenchSet, rows: list[Row]) -> NDArray[Any]:
    """Labels as kitune's linear heads take them: scores as (rows, 1)."""
    labels = gold(bench, rows)
    return labels[:, None] if bench.task == "regression" else labels


def tfidf(bench: BenchSet, train_rows: list[Row], valid_rows: list[Row]) -> Outputs:
    """Logistic or ridge regression over TF-IDF of words and word pairs, or of 1 to 3 characters (Korean, Chinese).

    Two text columns share one vocabulary and give [a, b, |a - b|, a * b, cosine of a and b].
    """
    started = time.perf_counter()
    if bench.name in WITHOUT_WORD_SPACES:
        weights = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 3), sublinear_tf=True)
    else:  # the default pattern would drop words of one letter
        weights = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    weights.fit(row[column] for column in bench.text for row in train_rows)

    def vectors(rows: list[Row]) -> Any:
        columns = [weights.transform(row[column] for row in rows) for column in bench.text]
        if len(columns) == 1:
            return columns[0]
        first, second = columns
        product = first.multiply(second)
        return sparse.hstack([first, second, abs(first - second), product, product.sum(axis=1)]).tocsr()

    return with_head(bench, train_rows, valid_rows, vectors, started=started)


def probe(
    bench: BenchSet, train_rows: list[Row], valid_rows: list[Row], *, model_folder: Path, max_length: int = MOST_TOKENS
) -> Outputs:
    """Logistic or ridge regression over frozen vectors of unit length; two text columns give [u, v, |u - v|, u * v]."""
    started = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    encoder = AutoModel.from_pretrained(model_folder, dtype=torch.float32).to(device()).eval()

    def pooled(rows: list[Row], column: str) -> NDArray[Any]:
        single = replace(bench, text=(column,))
        return mean_pooled(encoder, encode(tokenizer, single, rows, max_length=max_length), tokenizer)

    def vectors(rows: list[Row]) -> NDArray[Any]:
        columns = [pooled(rows, column) for column in bench.text]
        if len(columns) == 1:
            return columns[0]
        u, v = columns
        # scaling u * v up, or every feature to variance 1, gained nothing on the valid parts of mrpc, stsb, cola, sst2
        return np.hstack([u, v, abs(u - v), u * v])

    return with_head(bench, train_rows, valid_rows, vectors, started=started)


@torch.inference_mode()
def mean_pooled(encoder: Any, encoded: Encoded, tokenizer: Any) -> NDArray[Any]:
    """(rows, width), unit length, the mean over the tokens of a row."""
    vectors = np.empty((len(encoded), encoder.config.hidden_size), dtype=np.float32)
    for chosen, batch in batches(encoded, tokenizer):
        hidden, mask = encoder(**batch).last_hidden_state, batch["attention_mask"].unsqueeze(-1)
        vectors[chosen] = torch.nn.functional.normalize((hidden * mask).sum(1), dim=-1).cpu().numpy()
    return vectors
