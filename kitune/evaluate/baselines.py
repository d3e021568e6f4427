"""What a fine-tuned model has to beat: the commonest answer, a bag of words, and a linear head on the frozen encoder."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kitune.config import TaskName
from kitune.data.parts import Parts
from kitune.data.split import limit
from kitune.data.table import Table
from kitune.evaluate.linear import Labels, Matrix, fit_head
from kitune.evaluate.measures import Answered
from kitune.evaluate.score import WINDOW_ROWS

# Rows of train that baselines learn from: enough to be a fair rival, few enough to take seconds.
MOST_ROWS = 10_000
# Letters of scripts that write no spaces, or glue particles to their words; above such a share words are no features.
WITHOUT_WORDS = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3\uff66-\uff9d]"
)
SHARE_WITHOUT_WORDS = 0.2
SAMPLE_ROWS = 500
MANY_ROWS = 1_000
LEAST_SHARE = 1e-9

Features = Callable[[Table], Matrix]
# A table and a text column -> (rows, width), unit length.
Vectors = Callable[[Table, str], NDArray[np.float32]]


@dataclass(frozen=True)
class Learned:
    """The rows that a baseline learns from and is chosen on, and those that it answers."""

    tables: Mapping[str, Table]  # train, valid, test
    labels: Mapping[str, Labels]
    text: tuple[str, ...]
    task: TaskName
    names: tuple[str, ...]

    def at_most(self, most: Mapping[str, int], seed: int) -> "Learned":
        """The same with so many rows of some parts, stratified."""
        tables, labels = dict(self.tables), dict(self.labels)
        for part, count in most.items():
            rows = limit(self.labels[part], count, seed)
            tables[part], labels[part] = self.tables[part].take(rows), self.labels[part][rows]
        return replace(self, tables=tables, labels=labels)

    def answered(self, logits: NDArray[Any], threshold: float = 0.5) -> Answered:
        """Outputs for the test rows, beside what is so."""
        return Answered(self.task, logits, self.labels["test"], self.names, threshold)


def learned(parts: Parts, table: Table, labels: Labels, text: tuple[str, ...]) -> Learned:
    """At most MOST_ROWS rows of train, stratified, the validation rows, and the rows to be answered."""
    tables = {"train": parts.tables["train"], "valid": parts.tables["valid"], "test": table}
    known = {"train": parts.labels("train"), "valid": parts.labels("valid"), "test": labels}
    whole = Learned(tables, known, text, parts.task, parts.names)
    return whole.at_most({"train": MOST_ROWS, "valid": MOST_ROWS}, parts.options.train.seed)


def majority(rows: Learned) -> Answered:
    """The shares of the labels in train, or their mean, for every row: what is known without reading."""
    own, threshold = rows.labels["train"], 0.5
    if rows.task == "single-label":
        shares = np.bincount(own.astype(np.int64), minlength=len(rows.names)) / len(own)
        constant = np.log(np.maximum(shares, LEAST_SHARE))
    elif rows.task == "multi-label":
        shares = np.clip(own.mean(axis=0, dtype=np.float64), LEAST_SHARE, 1 - LEAST_SHARE)
        constant, threshold = np.log(shares / (1 - shares)), commonest(shares)
    else:
        constant = own.mean(axis=0, dtype=np.float64)
    return rows.answered(np.tile(constant, (len(rows.labels["test"]), 1)), threshold)


def commonest(shares: NDArray[np.float64]) -> float:
    """The share from which a label is answered for every row, so that the micro-F1 of train is the best that it can be."""
    sizes = np.sort(shares)[::-1]
    # Of a row's labels sum(shares) are so on average; of the k that are answered, the sum of their shares is right.
    f1 = 2 * np.cumsum(sizes) / (np.arange(1, len(sizes) + 1) + sizes.sum())
    best = int(np.argmax(f1))
    below = sizes[best + 1] if best + 1 < len(sizes) else 0.0
    return float((sizes[best] + below) / 2) if below < sizes[best] else float(sizes[best])


def bag_of_words(rows: Learned) -> Answered:
    """TF-IDF of words and pairs of words, or of 1 to 3 characters, under a linear head."""
    return with_head(rows, word_features(rows.tables["train"], rows.text))


def frozen_probe(rows: Learned, vectors: Vectors) -> Answered:
    """The base model as it came, its vectors under a linear head: what fine-tuning adds is above this."""
    return with_head(rows, frozen_features(vectors, rows.text))


def with_head(rows: Learned, features: Features) -> Answered:
    """What the best linear head over these features says of the test rows."""
    train, valid = (features(rows.tables[part]) for part in ("train", "valid"))
    labels = rows.labels["train"], rows.labels["valid"]
    head, threshold, _ = fit_head(rows.task, (train, valid), labels, num_outputs=len(rows.names))
    windows = rows.tables["test"].slices(rows.text, WINDOW_ROWS)
    return rows.answered(np.concatenate([head(features(window)) for window in windows]), threshold)


def word_features(train: Table, text: Sequence[str]) -> Features:
    """TF-IDF by the words of train; of a pair [a, b, |a - b|, a * b, cosine of a and b]."""
    from scipy import sparse
    from sklearn.feature_extraction.text import TfidfVectorizer

    # What stands once in a large set teaches nothing, and is most of what would be fitted.
    told = {"sublinear_tf": True, "min_df": 2 if len(train) >= MANY_ROWS else 1}
    if writes_without_words(train, text):
        weights = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 3), **told)
    else:  # the default pattern would drop words of one letter
        weights = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", **told)
    weights.fit(words for name in text for words in train.texts(name))

    def features(table: Table) -> Matrix:
        columns = [weights.transform(table.texts(name)) for name in text]
        if len(columns) == 1:
            return columns[0]
        first, second = columns
        product = first.multiply(second)
        return sparse.hstack([first, second, abs(first - second), product, product.sum(axis=1)]).tocsr()

    return features


def writes_without_words(table: Table, text: Sequence[str]) -> bool:
    """Whether the texts are Chinese, Japanese, Korean, Thai, Lao, Khmer or Burmese, by their letters."""
    rows = np.random.default_rng(0).permutation(len(table))[:SAMPLE_ROWS]  # the file may be sorted by language
    sample = table.take(np.sort(rows))
    written = "".join("".join(sample.texts(name)) for name in text)
    letters = sum(sign.isalpha() for sign in written)
    return len(WITHOUT_WORDS.findall(written)) > SHARE_WITHOUT_WORDS * letters


def frozen_features(vectors: Vectors, text: Sequence[str]) -> Features:
    """The vectors of a text, of a pair [u, v, |u - v|, u * v]."""

    def features(table: Table) -> Matrix:
        columns = [vectors(table, name) for name in text]
        if len(columns) == 1:
            return columns[0]
        first, second = columns
        return np.hstack([first, second, np.abs(first - second), first * second])

    return features
