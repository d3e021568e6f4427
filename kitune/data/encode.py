"""From texts to flat token ids."""

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kitune.data.cache import cache_folder, content_key, made_once
from kitune.data.table import Rows, Table
from kitune.errors import UserError

CHUNK_ROWS = 2_000
# `max_length` is guessed from so many rows, and cuts at most this share of them.
SAMPLE_ROWS = 2_000
CUT_SHARE = 0.01


@dataclass(frozen=True)
class Encoded:
    """Rows as token ids: one flat array, and where each row begins in it.

    Attributes:
        input_ids: (tokens,) int32, all rows behind one another, without padding.
        starts: (rows + 1,) int64; row i is `input_ids[starts[i]:starts[i + 1]]`.
        token_type_ids: (tokens,) uint8, or None where the tokenizer has none.
        labels: as the task's loss takes them (see `label_array`), or None.
        weights: (rows,) float32, or None where every row weighs the same.
    """

    input_ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    token_type_ids: NDArray[np.uint8] | None
    labels: NDArray[np.int64] | NDArray[np.float32] | None = None
    weights: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, (rows,)."""
        return np.diff(self.starts)

    def with_labels(
        self, labels: NDArray[np.int64] | NDArray[np.float32] | None, weights: NDArray[np.float32] | None = None
    ) -> "Encoded":
        """The same token ids beside these labels and weights."""
        return replace(self, labels=labels, weights=weights)


def batches_of_texts(table: Table, text: Sequence[str], rows: int = CHUNK_ROWS) -> Iterator[list[list[str]]]:
    """The text columns in slices: each a list of one or two lists of strings."""
    for begin in range(0, len(table), rows):
        part = Table(table.data.slice(begin, rows), table.source)
        yield [part.texts(name) for name in text]


def tokenize(tokenizer: Any, texts: list[list[str]], max_length: int | None) -> Any:
    """The tokenizer's ids for a slice of one or two text columns; a pair is a true pair, cut at its longer side first."""
    return tokenizer(
        *texts,
        truncation=max_length is not None,
        max_length=max_length,
        padding=False,
        return_attention_mask=False,
        verbose=False,  # "longer than the maximum": `max_length` is chosen and said by us
    )


def guess_max_length(table: Table, text: Sequence[str], tokenizer: Any, most: int) -> tuple[int, float, int]:
    """The shortest length, a multiple of 8, that cuts at most one text in a hundred.

    Returns:
        The length, the share of texts that it cuts, and the longest text's tokens: all from a sample of rows.
    """
    step = max(1, math.ceil(len(table) / SAMPLE_ROWS))
    sample = table.take(np.arange(0, len(table), step))
    lengths = np.asarray(
        [len(ids) for texts in batches_of_texts(sample, text) for ids in tokenize(tokenizer, texts, None)["input_ids"]]
    )
    enough = int(np.quantile(lengths, 1 - CUT_SHARE, method="higher"))
    chosen = min(most, max(16, 8 * math.ceil(enough / 8)))
    return chosen, float((lengths > chosen).mean()), int(lengths.max())


def encode(table: Table, text: Sequence[str], tokenizer: Any, *, max_length: int, cache: bool = True) -> Encoded:
    """The texts of `table` as token ids, special tokens included, each at most `max_length` long.

    With `cache` they are memory-mapped from a folder that is named by the texts, the tokenizer and `max_length`.
    """
    if not cache:
        with tempfile.TemporaryDirectory() as place:
            write_ids(table, text, tokenizer, max_length, Path(place))
            return read_ids(Path(place), mapped=False)
    key = content_key(table.fingerprint(text), tokenizer_content(tokenizer), str(max_length))
    try:
        folder = made_once(
            cache_folder() / "encoded" / key, lambda staging: write_ids(table, text, tokenizer, max_length, staging)
        )
    except OSError as error:
        raise UserError(
            f"{cache_folder()}: token ids cannot be kept there: {error.strerror or error}",
            fix="set HF_HOME to a folder that can be written, or --set engine.cache=false",
        ) from None
    return read_ids(folder, mapped=True)


def tokenizer_content(tokenizer: Any) -> str:
    """All that decides a tokenizer's ids, as one string."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        forget_last_call(tokenizer)
        return repr((backend.to_str(), tokenizer.truncation_side, tokenizer.model_input_names))
    return repr(
        (
            type(tokenizer).__name__,
            sorted(tokenizer.get_vocab().items()),
            sorted(tokenizer.init_kwargs.items(), key=str),
        )
    )


def forget_last_call(tokenizer: Any) -> None:
    """Drop truncation and padding of the last call, which a fast tokenizer keeps in its state and would save."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_truncation()
        backend.no_padding()


def write_ids(table: Table, text: Sequence[str], tokenizer: Any, max_length: int, folder: Path) -> None:
    """Write ids.bin, types.bin (where the tokenizer has types) and starts.bin, slice by slice."""
    lengths: list[int] = []
    with (folder / "ids.bin").open("wb") as ids_file, (folder / "types.bin").open("wb") as types_file:
        for texts in batches_of_texts(table, text):
            batch = tokenize(tokenizer, texts, max_length)
            lengths.extend(map(len, batch["input_ids"]))
            np.asarray([i for row in batch["input_ids"] for i in row], dtype=np.int32).tofile(ids_file)
            if "token_type_ids" in batch:
                np.asarray([i for row in batch["token_type_ids"] for i in row], dtype=np.uint8).tofile(types_file)
    forget_last_call(tokenizer)
    np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64).tofile(folder / "starts.bin")


def read_ids(folder: Path, *, mapped: bool) -> Encoded:
    """What `write_ids` wrote, memory-mapped or in memory."""

    def read(name: str, dtype: Any) -> Any:
        path = folder / name
        if not path.stat().st_size:
            return np.empty(0, dtype)
        return np.memmap(path, dtype, mode="r") if mapped else np.fromfile(path, dtype)

    ids, types = read("ids.bin", np.int32), read("types.bin", np.uint8)
    return Encoded(ids, read("starts.bin", np.int64), types if len(types) == len(ids) else None)


def take(encoded: Encoded, rows: Rows) -> Encoded:
    """These rows of `encoded`, copied, in this order."""
    lengths = encoded.lengths[rows]
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    flat = np.repeat(encoded.starts[rows] - starts[:-1], lengths) + np.arange(starts[-1])
    return Encoded(
        encoded.input_ids[flat],
        starts,
        None if encoded.token_type_ids is None else encoded.token_type_ids[flat],
        None if encoded.labels is None else encoded.labels[rows],
        None if encoded.weights is None else encoded.weights[rows],
    )
