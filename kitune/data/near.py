"""Near duplicates by MinHash over token ids, in bounded memory.

Broder 1997, "On the resemblance and containment of documents"; banding as in Leskovec, Rajaraman and Ullman, "Mining of
Massive Datasets", section 3.4. Candidates are checked by their true resemblance, so that hashing decides speed alone.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from kitune.data.encode import Encoded
from kitune.data.table import Rows

# Tokens in a shingle, and the least share of shingles that two rows have in common (their Jaccard index).
SHINGLE, RESEMBLANCE = 3, 0.8
# A pair of 0.8 is found with probability 1 - (1 - 0.8 ** 3) ** 10 = 0.9992.
BANDS, ROWS_OF_A_BAND = 10, 3
# Share of a signature in which candidates agree at least: three standard deviations below RESEMBLANCE.
LEAST_ALIKE = 0.57
# Rows with fewer shingles are near to nothing: one word more or less is another text.
LEAST_SHINGLES = 5
BLOCK_TOKENS, MOST_ROWS, MOST_PAIRS = 2**20, 2_000_000, 200_000


def near_duplicates(parts: Sequence[tuple[Encoded, Rows, NDArray[np.bool_]]]) -> list[tuple[int, int]]:
    """Pairs of rows that resemble each other.

    Args:
        parts: token ids, the rows of a table that they are, and which of them to look at (no exact duplicates); `MOST_ROWS`
            at most are.

    Returns:
        The later row of each pair and an earlier one, in the order of the later ones.
    """
    chosen = [
        np.flatnonzero(wanted & (encoded.lengths >= SHINGLE + LEAST_SHINGLES - 1)) for encoded, _, wanted in parts
    ]
    place = np.concatenate([np.stack([np.full(len(own), i), own], axis=1) for i, own in enumerate(chosen)])
    order = np.argsort(
        np.concatenate([rows[own] for (_, rows, _), own in zip(parts, chosen, strict=True)]), kind="stable"
    )
    order = order[:MOST_ROWS]
    if len(order) < 2:
        return []
    signatures = np.concatenate(
        [block for (encoded, _, _), own in zip(parts, chosen, strict=True) for block in signatures_of(encoded, own)]
    )[order]
    place = place[order]

    def ids(number: int) -> NDArray[np.int32]:
        part, own = place[number]
        encoded = parts[part][0]
        return np.asarray(encoded.input_ids[encoded.starts[own] : encoded.starts[own + 1]])

    def row(number: int) -> int:
        part, own = place[number]
        return int(parts[part][1][own])

    found: dict[int, int] = {}
    for earlier, later in candidates(signatures).tolist():
        if later not in found and resemblance(ids(later), ids(earlier)) >= RESEMBLANCE:
            found[later] = earlier
    return [(row(later), row(found[later])) for later in sorted(found)]


def shingles(ids: NDArray[np.int32]) -> NDArray[np.uint32]:
    """A hash of each token and its followers, (tokens - SHINGLE + 1,)."""
    wide = ids.astype(np.uint32)
    hashed = wide[: len(wide) - SHINGLE + 1] * np.uint32(0x9E3779B1)
    for offset in range(1, SHINGLE):
        hashed = (hashed ^ (hashed >> np.uint32(15))) * np.uint32(0x85EBCA6B)
        hashed = hashed + wide[offset : len(wide) - SHINGLE + 1 + offset] * np.uint32(0xC2B2AE35)
    return np.asarray((hashed ^ (hashed >> np.uint32(13))) * np.uint32(0x27D4EB2F), dtype=np.uint32)


def signatures_of(encoded: Encoded, rows: Rows) -> Iterator[NDArray[np.uint32]]:
    """The least hash of each row's shingles under each of the hash functions, (rows, hash functions), block by block."""
    yield np.empty((0, BANDS * ROWS_OF_A_BAND), dtype=np.uint32)
    generator = np.random.default_rng(0)
    factors = generator.integers(0, 2**32, BANDS * ROWS_OF_A_BAND, dtype=np.uint32) | np.uint32(1)
    starts, begin = np.asarray(encoded.starts), 0
    while begin < len(rows):
        end = int(np.searchsorted(starts[rows + 1], starts[rows[begin]] + BLOCK_TOKENS, side="right"))
        block = rows[begin : max(end, begin + 1)]
        first = starts[block[0]]
        hashed = shingles(np.asarray(encoded.input_ids[first : starts[block[-1] + 1]]))
        # Where each row's shingles begin and end; those across two rows lie between them.
        bounds = np.stack([starts[block], starts[block + 1] - SHINGLE + 1], axis=1).reshape(-1) - first
        signature = np.empty((len(block), len(factors)), dtype=np.uint32)
        for number, factor in enumerate(factors):
            signature[:, number] = np.minimum.reduceat(hashed * factor, bounds[:-1])[::2]
        yield signature
        begin += len(block)


def candidates(signatures: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Pairs (earlier, later) that agree in a whole band and in most of the signature, (pairs, 2), without repeats.

    Each row of a bucket is paired with its first one.
    """
    pairs = np.empty((0, 2), dtype=np.int64)
    for band in range(BANDS):
        columns = signatures[:, band * ROWS_OF_A_BAND : (band + 1) * ROWS_OF_A_BAND].astype(np.uint64)
        key = columns[:, 0]
        for column in range(1, ROWS_OF_A_BAND):
            key = key * np.uint64(0x9E3779B97F4A7C15) + columns[:, column]
        _, first, bucket = np.unique(key, return_index=True, return_inverse=True)
        later = np.flatnonzero(first[bucket] != np.arange(len(key)))
        both = np.stack([first[bucket[later]], later], axis=1)
        for begin in range(0, len(both), MOST_PAIRS):  # bounded memory
            part = both[begin : begin + MOST_PAIRS]
            alike = (signatures[part[:, 0]] == signatures[part[:, 1]]).mean(axis=1)
            pairs = np.unique(np.concatenate([pairs, part[alike >= LEAST_ALIKE]]), axis=0)
    return pairs[:MOST_PAIRS]


def resemblance(one: NDArray[np.int32], other: NDArray[np.int32]) -> float:
    """The Jaccard index of two rows' shingles."""
    sets = [set(shingles(ids).tolist()) for ids in (one, other)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])
