"""Near duplicates by MinHash over the bytes of texts, in bounded memory.

Broder 1997, "On the resemblance and containment of documents"; one hash function over many bins with rotation for the empty
ones (Shrivastava and Li 2014, arXiv:1406.4784); banding as in Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets",
section 3.4. Candidates are checked by their true resemblance, so that hashing decides speed alone.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kitune.data.scratch import scratch_array
from kitune.data.table import Rows, Table, arrow_column

# Bytes in a shingle, and the least share of shingles that two texts have in common (their Jaccard index).
SHINGLE, RESEMBLANCE = 8, 0.8
# A pair of 0.8 is found with probability 1 - (1 - 0.8 ** 3) ** 10 = 0.9992.
BANDS, ROWS_OF_A_BAND = 10, 3
BINS = BANDS * ROWS_OF_A_BAND
# Share of a signature in which candidates agree at least: three standard deviations below RESEMBLANCE.
LEAST_ALIKE = 0.57
# Shorter texts are near to nothing: one word more or less is another text.
LEAST_BYTES = 40
BLOCK_ROWS, MOST_ROWS, MOST_PAIRS = 8_192, 2_000_000, 200_000
EMPTY = np.uint32(2**32 - 1)


def near_duplicates(table: Table, text: Sequence[str], wanted: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Pairs of rows that resemble each other, capital letters aside.

    Args:
        text: the column with the texts, or two for pairs.
        wanted: the rows to look at, (rows,): no exact duplicates. Short ones are left out, and those after `MOST_ROWS`.

    Returns:
        The later row of each pair and an earlier one, in the order of the later ones.
    """
    most = min(int(wanted.sum()), MOST_ROWS)
    rows, signed, begin = np.empty(most, dtype=np.int64), 0, 0
    with scratch_array((most, BINS), np.uint32) as signatures:
        for texts in blocks(table, text):
            starts = np.frombuffer(texts.buffers()[1], np.int64, len(texts) + 1, 8 * texts.offset)
            content = np.frombuffer(texts.buffers()[2] or b"", np.uint8)[starts[0] : starts[-1]]
            starts = starts - starts[0]
            own = np.flatnonzero(wanted[begin : begin + len(texts)] & (np.diff(starts) >= LEAST_BYTES))
            own = own[: most - signed]
            if len(own):
                rows[signed : signed + len(own)] = begin + own
                signatures[signed : signed + len(own)] = signatures_of(content, starts, own)
            signed, begin = signed + len(own), begin + len(texts)
            if signed == most:
                break
        pairs = candidates(signatures[:signed]).tolist()

    def texts_of(row: int) -> list[str]:
        cells = Table(table.data.slice(row, 1), table.source)
        return [cells.texts(name)[0].lower() for name in text]

    found: dict[int, int] = {}
    for earlier, later in pairs:
        one, other = int(rows[earlier]), int(rows[later])
        # Each text of a pair: three questions about one passage are three rows, however long the passage is.
        if other not in found and min(map(resemblance, texts_of(one), texts_of(other))) >= RESEMBLANCE:
            found[other] = one
    return [(later, found[later]) for later in sorted(found)]


def blocks(table: Table, text: Sequence[str]) -> Iterator[pa.LargeStringArray]:
    """The text of each row, or both of a pair one after the other, in small letters; a few thousand rows at once."""
    for part in table.slices(text, BLOCK_ROWS):
        texts = map("\0".join, zip(*(part.texts(name) for name in text), strict=True))
        yield pc.utf8_lower(arrow_column(list(texts)).cast(pa.large_string()))


def shingles(content: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """A hash of each byte and its followers, (bytes - SHINGLE + 1,)."""
    count = len(content) - SHINGLE + 1
    hashed = np.zeros(max(count, 0), dtype=np.uint64)
    for offset in range(SHINGLE):
        hashed = (hashed << np.uint64(8)) | content[offset : offset + max(count, 0)]
    return np.asarray((hashed * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32), dtype=np.uint32)


def signatures_of(content: NDArray[np.uint8], starts: NDArray[np.int64], rows: Rows) -> NDArray[np.uint32]:
    """The least hash of each row's shingles in each bin, (rows, BINS)."""
    hashed = shingles(content)
    counts = starts[rows + 1] - starts[rows] - SHINGLE + 1
    # The place of every shingle that lies within one of the rows, and the row's number.
    number = np.repeat(np.arange(len(rows)), counts)
    place = np.arange(int(counts.sum())) + np.repeat(starts[rows] - (np.cumsum(counts) - counts), counts)
    own = hashed[place]
    least = np.full(len(rows) * BINS, EMPTY)
    np.minimum.at(least, number * BINS + own % np.uint32(BINS), own // np.uint32(BINS))
    signature = least.reshape(len(rows), BINS)
    filled = signature != EMPTY
    borrowed = signature.copy()
    for distance in range(1, BINS):
        empty = borrowed == EMPTY
        if not empty.any():
            break
        from_next = np.roll(signature, -distance, axis=1)
        usable = empty & np.roll(filled, -distance, axis=1)
        borrowed[usable] = from_next[usable] + np.uint32(distance * 0x01000193)
    return borrowed


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


def resemblance(one: str, other: str) -> float:
    """The Jaccard index of two texts' shingles; texts shorter than one are equal or not."""
    sets = [
        {content[i : i + SHINGLE] for i in range(len(content) - SHINGLE + 1)}
        for content in (one.encode("utf-8", "surrogatepass"), other.encode("utf-8", "surrogatepass"))
    ]
    either = sets[0] | sets[1]
    return len(sets[0] & sets[1]) / len(either) if either else float(one == other)
