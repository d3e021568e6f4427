from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from kitune.data.columns import Columns
from kitune.data.read import read_table
from kitune.data.split import limit, split, strata, units
from kitune.data.table import Table
from kitune.errors import UserError

TEXT, PAIR = Columns(("text",), "label"), Columns(("a", "b"), "label", group="who")
Labels = NDArray[np.int64]


def numbered_texts(count: int) -> Table:
    return read_table([{"text": f"text {row}"} for row in range(count)])


def random_labels(tables: int = 50) -> Iterator[tuple[int, Labels]]:
    """Seeded label arrays of 20 to 300 rows in 2 to 6 classes of any shares, two rows or more of each."""
    for seed in range(tables):
        generator = np.random.default_rng(seed)
        classes = int(generator.integers(2, 7))
        drawn = generator.choice(
            classes, size=int(generator.integers(20, 300)), p=generator.dirichlet(np.ones(classes))
        )
        yield seed, generator.permutation(np.concatenate([np.repeat(np.arange(classes), 2), drawn])).astype(np.int64)


def random_pairs(tables: int = 50) -> Iterator[tuple[int, Table, Labels]]:
    """Seeded tables of pairs in which some texts, some swapped pairs and some groups come again."""
    for seed in range(tables):
        generator = np.random.default_rng(seed)
        count = int(generator.integers(40, 200))
        rows: list[dict[str, Any]] = []
        for _ in range(count):
            a, b = (str(number) for number in generator.integers(0, 3 * count**0.5, size=2))
            spaced = " " if generator.random() < 0.3 else ""
            who = None if generator.random() < 0.5 else f"customer {generator.integers(count)}"
            rows.append({"a": a + spaced, "b": spaced + b, "who": who})
        yield seed, read_table(rows), generator.integers(0, 3, size=count)


def pair_keys(table: Table) -> list[tuple[str, ...]]:
    texts = zip(table.texts("a"), table.texts("b"), strict=True)
    return [tuple(sorted((first.strip(), second.strip()))) for first, second in texts]


def linked(table: Table) -> Labels:
    """The reference: connected components of rows, their pairs and their groups."""
    nodes: dict[Any, int] = {}
    edges = [
        (row, len(table) + nodes.setdefault(key, len(nodes)))
        for keys in (pair_keys(table), table.values("who"))
        for row, key in enumerate(keys)
        if key is not None
    ]
    size = len(table) + len(nodes)
    rows, columns = zip(*edges, strict=True)
    graph = coo_matrix((np.ones(len(edges)), (rows, columns)), shape=(size, size))
    return np.asarray(connected_components(graph, directed=False)[1][: len(table)], dtype=np.int64)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_each_class_gives_its_share_to_within_a_row(share: float) -> None:
    for seed, labels in random_labels():
        train, valid = split(numbered_texts(len(labels)), TEXT, labels, valid_share=share, seed=seed)
        assert sorted([*train, *valid]) == [*range(len(labels))]
        assert np.all(np.diff(train) > 0)
        assert np.all(np.diff(valid) > 0)
        every, held_out = np.bincount(labels), np.bincount(labels[valid], minlength=labels.max() + 1)
        assert np.all(np.abs(held_out - share * every) <= 1), (seed, every, held_out)
        assert abs(len(valid) - share * len(labels)) <= 1


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_train_keeps_every_class(share: float) -> None:
    for seed, labels in random_labels():
        train, _ = split(numbered_texts(len(labels)), TEXT, labels, valid_share=share, seed=seed)
        assert set(labels[train]) == set(labels)


def test_the_same_seed_gives_the_same_rows_and_another_one_others() -> None:
    table, labels = numbered_texts(200), np.arange(200) % 3
    first, again, other = (split(table, TEXT, labels, valid_share=0.2, seed=seed)[1] for seed in (1, 1, 2))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_a_class_of_one_row_stays_in_train() -> None:
    labels = np.array([*[0] * 30, 1, *[2] * 30, 3])
    for seed in range(50):
        _, valid = split(numbered_texts(62), TEXT, labels, valid_share=0.3, seed=seed)
        assert not {30, 61} & set(valid.tolist())
        assert 17 <= len(valid) <= 19


def test_classes_of_one_row_leave_the_share_of_the_others_as_it_is() -> None:
    labels = np.array([*range(60), *[60] * 60])
    _, valid = split(numbered_texts(120), TEXT, labels, valid_share=0.2, seed=1)
    assert 11 <= len(valid) <= 13


def test_equal_texts_are_never_on_both_sides() -> None:
    for seed in range(50):
        generator = np.random.default_rng(seed)
        texts = [f"text {number}" + " " * int(generator.integers(2)) for number in generator.integers(0, 60, size=120)]
        labels = generator.integers(0, 2, size=120)
        train, valid = split(read_table([{"text": text} for text in texts]), TEXT, labels, valid_share=0.2, seed=seed)
        assert not {texts[row].strip() for row in train} & {texts[row].strip() for row in valid}


def test_pairs_also_swapped_and_groups_are_never_on_both_sides() -> None:
    for seed, table, labels in random_pairs():
        train, valid = split(table, PAIR, labels, valid_share=0.3, seed=seed)
        assert len(train)
        assert len(valid)
        keys, groups = pair_keys(table), table.values("who")
        assert not {keys[row] for row in train} & {keys[row] for row in valid}
        assert not {groups[row] for row in train} & {groups[row] for row in valid} - {None}


def test_rows_linked_through_others_are_one_unit() -> None:
    rows = [
        {"a": "p", "b": "q", "who": "anna"},
        {"a": "x", "b": "y", "who": "anna"},
        {"a": "y", "b": "x", "who": "ben"},
        {"a": "r", "b": "s", "who": "ben"},
        {"a": "r", "b": "t", "who": None},
        {"a": "u", "b": "t", "who": None},
        {"a": "v", "b": "t", "who": ""},
    ]
    assert units(read_table(rows), PAIR).tolist() == [0, 0, 0, 0, 1, 2, 3]


def test_units_are_the_connected_components_of_texts_and_groups() -> None:
    for _, table, _ in random_pairs():
        ours, reference = units(table, PAIR), linked(table)
        both = set(zip(ours.tolist(), reference.tolist(), strict=True))
        assert len(both) == len(set(ours.tolist())) == len(set(reference.tolist())) == ours.max() + 1


def test_the_large_groups_of_one_class_do_not_empty_another_class() -> None:
    rows = [{"a": f"a{i}", "b": "b", "who": f"large {i // 100}" if i < 400 else None} for i in range(430)]
    labels = np.array([0] * 400 + [1] * 30)
    train, _ = split(read_table(rows), PAIR, labels, valid_share=0.1, seed=1)
    assert (labels[train] == 1).sum() >= 15


def test_a_single_group_cannot_be_split() -> None:
    rows = [{"a": f"a{row}", "b": "b", "who": "one"} for row in range(10)]
    with pytest.raises(UserError, match=r"10 rows cannot be split .* by the groups of column 'who'\n  fix: .*--valid"):
        split(read_table(rows), PAIR, np.arange(10) % 2, valid_share=0.2, seed=1)


def test_each_tenth_of_the_scores_gives_its_share() -> None:
    for seed in range(50):
        scores = np.random.default_rng(seed).normal(size=(200, 1)).astype(np.float32) ** 3
        _, valid = split(numbered_texts(200), TEXT, scores, valid_share=0.2, seed=seed)
        tenths = np.argsort(np.argsort(scores[:, 0])) // 20
        assert np.all(np.abs(np.bincount(tenths[valid], minlength=10) - 4) <= 1)


@pytest.mark.parametrize("count", [4, 10, 13, 20])
def test_a_few_scores_are_split_too(count: int) -> None:
    scores = np.linspace(0, 1, count, dtype=np.float32)[:, None]
    train, valid = split(numbered_texts(count), TEXT, scores, valid_share=0.25, seed=1)
    assert abs(len(valid) - count / 4) <= 1
    assert len(train) + len(valid) == count


def test_scores_that_are_all_equal_are_split_too() -> None:
    train, valid = split(numbered_texts(50), TEXT, np.ones((50, 1), dtype=np.float32), valid_share=0.1, seed=1)
    assert (len(train), len(valid)) == (45, 5)


def test_the_stratum_of_a_row_with_many_labels_is_its_rarest() -> None:
    hot = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, 1], [1, 1, 1], [0, 1, 0]], dtype=np.float32)
    assert strata(hot).tolist() == [1, 0, 3, 2, 2, 1]


def test_a_limit_keeps_the_shares_and_the_order() -> None:
    for seed, labels in random_labels():
        most = len(labels) // 2
        rows = limit(labels, most, seed)
        assert most - 1 <= len(rows) <= most
        assert np.all(np.diff(rows) > 0)
        kept = np.bincount(labels[rows], minlength=labels.max() + 1)
        assert np.all(np.abs(kept - np.bincount(labels) * most / len(labels)) <= 2)
        assert rows.tolist() == limit(labels, most, seed).tolist()
        assert rows.tolist() != limit(labels, most, seed + 1).tolist()


def test_a_limit_of_rare_classes_takes_some_of_them() -> None:
    assert len(limit(np.arange(20), 10, 1)) == 10


def test_a_limit_above_the_rows_keeps_them_all() -> None:
    assert limit(np.array([0, 1, 0]), 3, 1).tolist() == [0, 1, 2]
