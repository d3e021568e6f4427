"""A validation part cut from the training rows: stratified, seeded, nothing known on both sides."""

from collections.abc import Iterator, Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from kitune.data.columns import Columns, require_groups
from kitune.data.table import CHUNK_ROWS, Rows, Table
from kitune.errors import UserError, numbered

REGRESSION_STRATA = 10


def strata(labels: NDArray[np.int64] | NDArray[np.float32]) -> NDArray[np.int64]:
    """The stratum of each row, (rows,): its class, its rarest label, or its tenth of the scores (less parts in few rows).

    Args:
        labels: as `label_array` gives them.
    """
    if labels.ndim == 1:
        return np.asarray(labels, dtype=np.int64)
    if labels.shape[1] == 1:
        parts = max(1, min(REGRESSION_STRATA, len(labels) // 4))  # a stratum of one row would stay in train
        cuts = np.quantile(labels[:, 0], np.linspace(0, 1, parts + 1)[1:-1])
        return np.asarray(np.searchsorted(cuts, labels[:, 0], side="right"), dtype=np.int64)
    counts = labels.sum(axis=0)
    rarity = np.where(labels > 0, counts[None, :], np.inf)
    return np.asarray(np.where(labels.any(axis=1), rarity.argmin(axis=1), labels.shape[1]), dtype=np.int64)


def text_keys(table: Table, text: Sequence[str]) -> NDArray[np.uint64]:
    """A hash of each row's text, without space around it, or pair in either order, (rows,)."""

    def digests() -> Iterator[bytes]:
        for part in table.slices(text, CHUNK_ROWS):
            for texts in zip(*(part.texts(name) for name in text), strict=True):
                content = "\0".join(sorted(text.strip() for text in texts)).encode("utf-8", "surrogatepass")
                yield blake2b(content, digest_size=8).digest()

    return np.frombuffer(b"".join(digests()), dtype="<u8").astype(np.uint64)


def units(table: Table, columns: Columns) -> Rows:
    """The unit of each row, (rows,), numbered from 0.

    Rows with an equal text (or pair, in either order) or an equal group are one unit, and so are rows linked through others.
    """
    _, first_of, text = np.unique(text_keys(table, columns.text), return_index=True, return_inverse=True)
    if not columns.group:
        return np.unique(first_of[text], return_inverse=True)[1].astype(np.int64)
    parent = list(range(len(table)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for keys in (text.tolist(), groups_of(table, columns.group).tolist()):
        first: dict[object, int] = {}
        for row, key in enumerate(keys):
            parent[root(row)] = root(first.setdefault(key, row))
    roots = np.fromiter((root(row) for row in range(len(table))), np.int64, len(table))
    return np.unique(roots, return_inverse=True)[1].astype(np.int64)


def groups_of(table: Table, column: str) -> Rows:
    """The group of each row, (rows,), numbered from 0; a row without one belongs to nobody, not to one nameless customer."""
    require_groups(table, column)
    numbers: dict[object, int] = {}
    keys = (("row", row) if group in (None, "") else ("group", group) for row, group in enumerate(table.values(column)))
    return np.fromiter((numbers.setdefault(key, len(numbers)) for key in keys), np.int64, len(table))


def sample(stratum: NDArray[np.int64], unit: Rows, count: float, seed: int) -> NDArray[np.bool_]:
    """About `count` of the rows, whole units, each stratum with its share; a stratum is never taken whole.

    Returns:
        (rows,) True where the row was taken.
    """
    generator = np.random.default_rng(seed)
    # The rows of each unit lie together: unit i, in the order of first rows, has those from begins[i] to begins[i + 1].
    _, first, number, sizes = np.unique(unit, return_index=True, return_inverse=True, return_counts=True)
    by_first_row = np.argsort(first)
    place = np.empty(len(first), dtype=np.int64)
    place[by_first_row] = np.arange(len(first))
    rows_in_order, sizes = np.argsort(place[number], kind="stable"), sizes[by_first_row]
    begins = np.concatenate([[0], np.cumsum(sizes)])
    stratum_of = stratum[first[by_first_row]].copy()
    for i in np.flatnonzero(sizes > 1):
        values, counts = np.unique(stratum[rows_in_order[begins[i] : begins[i + 1]]], return_counts=True)
        stratum_of[i] = values[counts.argmax()]
    share = count / len(unit)
    taken = np.zeros(len(unit), dtype=np.bool_)
    owed = 0.0  # what rounding has kept from the strata so far; the next one gets it
    keys = np.unique(stratum_of)
    for key in keys:
        members = np.flatnonzero(stratum_of == key)
        if len(members) == 1 and len(keys) > 1:
            continue  # taking it would leave train without the class
        rows_in = int(sizes[members].sum())
        owed += share * rows_in
        # What large units of one stratum leave owed must not empty the next one.
        room = min(max(0.5, share) * rows_in + 0.5, rows_in - 1)
        for i in members[generator.permutation(len(members))]:
            size = int(sizes[i])
            if owed < size / 2 or room < size:
                continue
            taken[rows_in_order[begins[i] : begins[i + 1]]] = True
            owed, room = owed - size, room - size
    return taken


def split(
    table: Table, columns: Columns, labels: NDArray[np.int64] | NDArray[np.float32], *, valid_share: float, seed: int
) -> tuple[Rows, Rows]:
    """Rows of train and of valid, both in the order of the table.

    Raises:
        UserError: no whole unit can go to either side.
    """
    taken = sample(strata(labels), units(table, columns), valid_share * len(table), seed)
    if not taken.any() or taken.all():
        problem = f"{table.source}: {numbered(len(table), 'row')} cannot be split into train and valid"
        if columns.group:
            problem += f" by the groups of column {columns.group!r}"
        elif len(np.unique(strata(labels))) == len(table) > 1:
            raise UserError(
                f"{problem}: each has a label of its own in column {columns.label!r}",
                fix="name another column: --label COLUMN; amounts are learned with --task regression",
            )
        raise UserError(problem, fix="give the validation rows yourself: --valid FILE")
    rows = np.arange(len(table))
    return rows[~taken], rows[taken]


def limit(labels: NDArray[np.int64] | NDArray[np.float32], most: int, seed: int) -> Rows:
    """At most `most` rows of a table, stratified and seeded, in the order of the table: for trial runs."""
    if len(labels) <= most:
        return np.arange(len(labels))
    stratum = strata(labels)
    alone = np.bincount(stratum)[stratum] == 1
    taken = sample(np.where(alone, -1, stratum), np.arange(len(labels)), most, seed)  # rare classes are one stratum
    return np.flatnonzero(taken)[:most]
