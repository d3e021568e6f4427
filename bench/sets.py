"""The data sets of the quality benchmark, read as their publishers wrote them.

`python bench/sets.py --data ../shared/data` prints what each loader finds; SOURCE.txt in each folder tells its origin.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Task = Literal["single-label", "multi-label", "regression"]
Row = dict[str, Any]
Parts = tuple[list[Row], list[Row]]

PAIR = ("sentence1", "sentence2")
SPLIT_SEED = 20261120  # of the sets that come without a split; the seed of a run moves only the valid part


@dataclass(frozen=True)
class BenchSet:
    """One set, ready for every competitor.

    A row's label is a name (single-label), a list of names (multi-label) or a float (regression). `label_names`
    gives the order of the outputs, and of two classes the second counts as positive; empty for regression.
    """

    name: str
    task: Task
    text: tuple[str, ...]
    label: str
    headline: str
    train: list[Row]
    valid: list[Row] | None
    test: list[Row]
    label_names: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """How to read a set; `train_rows` and `test_rows` of None mean all that the publisher has."""

    read: Callable[[Path], Parts]
    text: tuple[str, ...]
    label: str = "label"
    task: Task = "single-label"
    headline: str = "accuracy"
    train_rows: int | None = None
    test_rows: int | None = None
    label_names: tuple[str, ...] = ()  # where their sorted order would be wrong


def tab_rows(path: Path, *, names: tuple[str, ...] = (), header: bool = True, encoding: str = "utf-8-sig") -> list[Row]:
    """Rows of a tab-separated file, quotes being text.

    No csv module here: bare quotes would swallow rows. Neither `splitlines`, which breaks a text at U+2028 or U+0085.
    `names` replace the file's own (a name of "" drops the column; further columns are dropped too).
    """
    lines = [line.removesuffix("\r") for line in path.read_bytes().decode(encoding).split("\n")]
    cells = [line.split("\t") for line in lines if line]
    names = names or tuple(cells[0])
    rows = cells[1:] if header else cells
    short = next((number for number, row in enumerate(rows, start=1 + header) if len(row) < len(names)), None)
    if short is not None:
        raise ValueError(f"{path}, row {short}: fewer than the {len(names)} columns {names}; is the file whole?")
    return [{name: cell for name, cell in zip(names, row, strict=False) if name} for row in rows]


def comma_rows(path: Path) -> list[Row]:
    """Rows of a quoted CSV; line breaks inside quotes stay in the text, which needs `newline=""`."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def texts_of(row: Row, text: tuple[str, ...]) -> tuple[str, ...]:
    """What makes two rows the same text: their text columns, without case and outer white space."""
    return tuple(str(row[column]).strip().casefold() for column in text)


def own_split(rows: list[Row], text: tuple[str, ...], *, test_rows: int = 2000) -> Parts:
    """A fixed shuffle, cut into train and test; a text of the test part is dropped from train."""
    mixed = shuffled(rows)
    test = mixed[:test_rows]
    return without(test, mixed[test_rows:], text), test


def shuffled(rows: list[Row]) -> list[Row]:
    """The rows in the one random order that every run cuts."""
    return random.Random(SPLIT_SEED).sample(rows, len(rows))


def without(test: list[Row], train: list[Row], text: tuple[str, ...]) -> list[Row]:
    """The train rows whose text no test row has."""
    seen = {texts_of(row, text) for row in test}
    return [row for row in train if texts_of(row, text) not in seen]


def tabs(train: str, test: str, *, names: tuple[str, ...] = (), header: bool = True) -> Callable[[Path], Parts]:
    """A reader of two tab-separated files; the arguments are those of `tab_rows`."""
    return lambda folder: (
        tab_rows(folder / train, names=names, header=header),
        tab_rows(folder / test, names=names, header=header),
    )


def read_banking77(folder: Path) -> Parts:
    train = comma_rows(folder / "train.csv")
    # sorted by class as published: without the shuffle the first rows would hold a few classes only
    return shuffled(train), comma_rows(folder / "test.csv")


def read_sst2(folder: Path) -> Parts:
    """The test part is GLUE's dev rows and the labelled test rows: dev's 872 alone cannot tell a point apart."""
    train, dev = tabs("train.tsv", "dev.tsv")(folder)
    test = dev + tab_rows(folder / "test-labeled.tsv")
    return without(test, train, ("sentence",)), test


def read_stsb(folder: Path) -> Parts:
    names = ("", "", "", "", "label", *PAIR)
    train, test = tabs("sts-train.csv", "sts-dev.csv", names=names, header=False)(folder)
    for row in train + test:
        row["label"] = float(row["label"])
    # sorted by genre as published: the first rows would lack the last one
    return shuffled(train), test


def read_goemotions(folder: Path) -> Parts:
    names = (folder / "labels.txt").read_text(encoding="utf-8").split()
    train, test = tabs("train.tsv", "test.tsv", names=("text", "label", ""), header=False)(folder)
    for row in train + test:
        row["label"] = [names[int(number)] for number in row["label"].split(",")]
    return train, test


def read_clothing(folder: Path) -> Parts:
    rows = [row for row in comma_rows(folder / "reviews.csv") if row["Review Text"].strip()]
    # 2,000 test rows could not tell a point apart
    return own_split(rows, ("Review Text",), test_rows=6000)


TREC_FILES = ("train_5500.label.txt", "test_TREC_10.label.txt")


def questions(path: Path, *, fine: bool) -> list[Row]:
    """TREC's lines, "COARSE:fine text"; a space parts label and text."""
    lines = tab_rows(path, names=("line",), header=False, encoding="latin-1")
    cut = [row["line"].partition(" ") for row in lines]
    return [{"text": text, "label": label if fine else label.partition(":")[0]} for label, _, text in cut]


def read_trec(folder: Path) -> Parts:
    train, test = (questions(folder / name, fine=False) for name in TREC_FILES)
    return train, test


def read_trec_fine(folder: Path) -> Parts:
    """The 50 finer classes; test rows of the classes that train has."""
    train, test = (questions(folder / name, fine=True) for name in TREC_FILES)
    known = {row["label"] for row in train}
    return shuffled(train), [row for row in test if row["label"] in known]


def read_sst5(folder: Path) -> Parts:
    train, test = tabs("ids-sst-train.csv", "ids-sst-dev.csv")(folder)
    # the grades are not spread evenly over the file
    return shuffled(train), test


def read_qnli(folder: Path) -> Parts:
    """GLUE's dev part alone is there with labels: 1,500 of its rows are the test part."""
    return own_split(tab_rows(folder / "dev.tsv"), ("question", "sentence"), test_rows=1500)


def read_waimai(folder: Path) -> Parts:
    return own_split(comma_rows(folder / "waimai_10k.csv"), ("review",))


SETS = {
    # the header of MRPC's train file is the one word "Dummy", so the names are ours
    "mrpc": Source(tabs("msr_paraphrase_train.txt", "msr_paraphrase_test.txt", names=("label", "", "", *PAIR)), PAIR),
    "banking77": Source(read_banking77, ("text",), label="category", train_rows=5000),
    "sst2": Source(read_sst2, ("sentence",), train_rows=5000),
    "stsb": Source(read_stsb, PAIR, task="regression", headline="spearman", train_rows=5000),
    "goemotions": Source(read_goemotions, ("text",), task="multi-label", headline="micro_f1", train_rows=5000),
    "cola": Source(
        tabs("in_domain_train.tsv", "in_domain_dev.tsv", names=("", "label", "", "sentence"), header=False),
        ("sentence",),
        headline="mcc",
        train_rows=5000,
    ),
    "rte": Source(tabs("train.tsv", "dev.tsv"), PAIR, label_names=("not_entailment", "entailment")),
    "womens_clothing": Source(read_clothing, ("Review Text",), label="Rating", train_rows=5000),
    "trec": Source(read_trec, ("text",)),
    "trec50": Source(read_trec_fine, ("text",)),
    "sst5": Source(read_sst5, ("sentence",), label="sentiment"),
    "qnli": Source(read_qnli, ("question", "sentence")),
    "nsmc": Source(tabs("ratings_train.txt", "ratings_test.txt"), ("document",), train_rows=5000, test_rows=5000),
    "waimai": Source(read_waimai, ("review",), train_rows=5000),
}
# Of the tables of results; on the others defaults are chosen, or models from nothing tried.
TABLE = ("mrpc", "banking77", "sst2", "stsb", "goemotions", "cola", "rte", "womens_clothing")
FOLDERS = {"waimai": "waimai_10k", "trec50": "trec"}  # where folder and set differ in name


def load_set(name: str, folder: Path, *, limit: int | None = None) -> BenchSet:
    """A set from `folder`, which holds all sets; `limit` cuts its train rows below the set's own number."""
    if name not in SETS:
        raise ValueError(f"no set is called {name!r}; there are {', '.join(SETS)}")
    source = SETS[name]
    train, test = source.read(folder / FOLDERS.get(name, name))
    test = [keep(row, source) for row in test[: source.test_rows]]
    # names before the cut, so that a short run has the same outputs as a long one
    names = source.label_names or names_in(train + test, source)
    train = [keep(row, source) for row in train[: source.train_rows][:limit]]
    return BenchSet(name, source.task, source.text, source.label, source.headline, train, None, test, names)


def keep(row: Row, source: Source) -> Row:
    """The row's text and label columns alone: a competitor shall not trip over, or learn from, the others."""
    return {column: row[column] for column in (*source.text, source.label)}


def names_in(rows: list[Row], source: Source) -> tuple[str, ...]:
    if source.task == "regression":
        return ()
    if source.task == "multi-label":
        return tuple(sorted({name for row in rows for name in row[source.label]}))
    return tuple(sorted({row[source.label] for row in rows}))


def hold_out(bench: BenchSet, *, seed: int) -> tuple[list[Row], list[Row]]:
    """Train and valid rows for every competitor of a seed: the set's own valid part, or a tenth of train.

    Rows of equal text stand together as a group. Groups are ordered by label (multi-label: the first; regression:
    the score) and at random within; of each ten in a row one is drawn. So each class gives a tenth of its rows, and
    so does each range of scores.
    """
    if bench.valid is not None:
        return bench.train, bench.valid
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, row in enumerate(bench.train):
        groups.setdefault(texts_of(row, bench.text), []).append(index)
    rng = random.Random(f"hold out {seed}")

    def stratum(members: list[int]) -> Any:
        label = bench.train[members[0]][bench.label]
        return label[0] if bench.task == "multi-label" else label

    ordered = rng.sample(list(groups.values()), len(groups))
    ordered.sort(key=stratum)  # keeps the random order of equal ones
    drawn: set[int] = set()
    for start in range(0, len(ordered), 10):
        pick = start + rng.randrange(10)  # the last, incomplete ten gives a group as often as it is full
        drawn.update(index for group in ordered[pick : pick + 1] for index in group)
    train = [row for index, row in enumerate(bench.train) if index not in drawn]
    return train, [bench.train[index] for index in sorted(drawn)]


def gold(bench: BenchSet, rows: list[Row]) -> NDArray[Any]:
    """Labels as numbers: class indices (rows,), 0 or 1 (rows, labels), or float scores (rows,)."""
    if bench.task == "regression":
        return np.array([row[bench.label] for row in rows], dtype=np.float64)
    index = {name: number for number, name in enumerate(bench.label_names)}
    if bench.task == "single-label":
        return np.array([index[row[bench.label]] for row in rows], dtype=np.int64)
    table = np.zeros((len(rows), len(index)), dtype=np.int64)
    for number, row in enumerate(rows):
        table[number, [index[name] for name in row[bench.label]]] = 1
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    folder: Path = parser.parse_args().data
    counts: dict[str, list[int]] = {}
    for name in SETS:
        bench = load_set(name, folder)
        train, valid = hold_out(bench, seed=1)
        counts[name] = [len(train), len(valid), len(bench.test), len(bench.label_names)]
        print(f"{name:16} {bench.task:13} {bench.headline:9} train, valid, test rows, labels: {counts[name]}")
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
