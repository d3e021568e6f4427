"""From texts to flat token ids."""

import math
import tempfile
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kitune.data.cache import cache_folder, content_key, made_once
from kitune.data.long_texts import LongTexts
from kitune.data.scratch import scratch_folder
from kitune.data.table import Table
from kitune.errors import UserError

# A slice that is tokenized at once. The Rust tokenizer itself is as fast with 300 rows as with 2,000 (44,000 rows/s of 28
# tokens on 2 cores) and slower with 10,000 (40,000); long texts take about 130 bytes a token while they are worked on.
CHUNK_ROWS = 1_000
CHUNK_BYTES = 2**20
# One thread at a time can be in Python; a third one gains nothing on 2 cores.
THREADS = 2
# `max_length` is guessed from so many rows, and cuts at most this share of them.
SAMPLE_ROWS = 2_000
CUT_SHARE = 0.01
CUT = LongTexts()

ELSEWHERE = "set HF_HOME to a folder that can be written"


@dataclass(frozen=True)
class Encoded:
    """Rows as token ids: one flat array, and where each row's sequences begin in it.

    Attributes:
        input_ids: (tokens,) int32, all sequences behind one another, without padding.
        starts: (sequences + 1,) int64; sequence i is `input_ids[starts[i]:starts[i + 1]]`.
        token_type_ids: (tokens,) uint8, or None where the tokenizer has none.
        first: (rows + 1,) int64; row i has the sequences from `first[i]` to `first[i + 1]`. None: one each.
        labels: as the task's loss takes them (see `label_array`), or None.
        weights: (rows,) float32, or None where every row weighs the same.
        fills_front: the shorter sequences of a batch are filled up in front (see `fills_front`).
    """

    input_ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    token_type_ids: NDArray[np.uint8] | None
    first: NDArray[np.int64] | None = None
    labels: NDArray[np.int64] | NDArray[np.float32] | None = None
    weights: NDArray[np.float32] | None = None
    fills_front: bool = False

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @cached_property
    def bounds(self) -> NDArray[np.int64]:
        """Where each row begins in the tokens, (rows + 1,)."""
        return self.starts if self.first is None else self.starts[self.first]

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, (rows,)."""
        return np.diff(self.bounds)

    def sequences(self) -> "Encoded":
        """Each sequence as a row of its own, without labels."""
        return Encoded(self.input_ids, self.starts, self.token_type_ids, fills_front=self.fills_front)

    def of_rows(self, outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """What each row has on the average of its sequences: (sequences, outputs) -> (rows, outputs)."""
        if self.first is None:
            return outputs
        sums = np.add.reduceat(outputs.astype(np.float64), self.first[:-1], axis=0) if len(self) else outputs
        return (sums / np.diff(self.first)[:, None]).astype(np.float32)

    def with_labels(
        self, labels: NDArray[np.int64] | NDArray[np.float32] | None, weights: NDArray[np.float32] | None = None
    ) -> "Encoded":
        """The same token ids beside these labels and weights."""
        return replace(self, labels=labels, weights=weights)


@dataclass(frozen=True)
class Ids:
    """A slice as it will lie in `Encoded`: int32 ids, uint8 types (or None), the tokens of each sequence, and where a row
    may have several the sequences of each."""

    input_ids: "array[int]"
    token_type_ids: bytes | None
    lengths: list[int]
    counts: list[int] | None = None


def slices(table: Table, text: Sequence[str]) -> Iterator[Table]:
    """The text columns in slices of at most CHUNK_ROWS rows, and fewer where texts are long."""
    size = table.data.select(list(dict.fromkeys(text))).nbytes
    yield from table.slices(text, max(1, min(CHUNK_ROWS, CHUNK_BYTES * len(table) // max(1, size))))


def tokenize(tokenizer: Any, texts: list[list[str]], max_length: int | None, **told: bool) -> Any:
    """transformers' own way for a slice of one or two text columns; a pair is a true pair, cut at its longer side first."""
    return tokenizer(
        *texts,
        truncation=max_length is not None,
        max_length=max_length,
        padding=False,
        return_attention_mask=False,
        verbose=False,  # "longer than the maximum": `max_length` is chosen and said by us
        **told,
    )


def plain_ids(tokenizer: Any, texts: list[list[str]], max_length: int | None) -> Ids:
    """The ids of a slice as transformers gives them."""
    batch = tokenize(tokenizer, texts, max_length)
    types = batch.get("token_type_ids")
    return Ids(
        array("i", chain.from_iterable(batch["input_ids"])),
        None if types is None else bytes(chain.from_iterable(types)),
        [len(row) for row in batch["input_ids"]],
    )


def fast_ids(backend: Any, texts: list[list[str]], types: Literal["none", "zero", "own"]) -> Ids:
    """The same from the Rust tokenizer as it is set, without offsets and dicts.

    Args:
        types: what the tokenizer's token types are; reading those of each row takes 1 us.
    """
    rows = texts[0] if len(texts) == 1 else list(zip(*texts, strict=True))
    ids, own_types, lengths = array("i"), [], []
    for encoding in backend.encode_batch_fast(rows):
        own = encoding.ids
        ids.fromlist(own)  # 0.4 us a row of 28 tokens; np.fromiter 0.5, np.asarray 0.9
        lengths.append(len(own))
        if types == "own":
            own_types.append(bytes(encoding.type_ids))
    flat = {"none": None, "zero": bytes(len(ids)), "own": b"".join(own_types)}
    return Ids(ids, flat[types], lengths)


def fitted_ids(tokenizer: Any, texts: list[list[str]], max_length: int, long_texts: LongTexts) -> Ids:
    """The ids of a slice, where of a long text another part than its beginning is read."""
    batch = tokenize(tokenizer, texts, None, return_special_tokens_mask=True)
    all_types = batch.get("token_type_ids")
    ids, types, lengths, counts = array("i"), bytearray(), [], []
    for row, own in enumerate(batch["input_ids"]):
        sequences = long_texts.places(np.asarray(batch["special_tokens_mask"][row], dtype=np.bool_), max_length)
        for places in sequences:
            ids.extend(map(own.__getitem__, places))
            if all_types is not None:
                types.extend(map(all_types[row].__getitem__, places))
            lengths.append(len(places))
        counts.append(len(sequences))
    return Ids(ids, None if all_types is None else bytes(types), lengths, counts)


def none_empty(ids: Ids, filler: int) -> Ids:
    """The same with one token in each sequence that has none, as an empty text has without special tokens: it is a row too."""
    if 0 not in ids.lengths:
        return ids
    starts = np.cumsum([0, *ids.lengths])[:-1]
    places = starts[np.asarray(ids.lengths) == 0]
    filled = np.insert(np.frombuffer(ids.input_ids, np.int32), places, filler)
    types = (
        None
        if ids.token_type_ids is None
        else np.insert(np.frombuffer(ids.token_type_ids, np.uint8), places, 0).tobytes()
    )
    return replace(
        ids,
        input_ids=array("i", filled.tobytes()),
        token_type_ids=types,
        lengths=[max(1, length) for length in ids.lengths],
    )


def encoder_of(
    tokenizer: Any, text: Sequence[str], max_length: int | None, long_texts: LongTexts
) -> Callable[[Table], Ids]:
    """What turns a slice into ids: the Rust tokenizer, where transformers would do no more than call it."""

    def texts_of(part: Table) -> list[list[str]]:
        return [part.texts(name) for name in text]

    if max_length is not None and long_texts.how != "cut":
        return lambda part: fitted_ids(tokenizer, texts_of(part), max_length, long_texts)
    if not calls_backend_only(tokenizer):
        return lambda part: plain_ids(tokenizer, texts_of(part), max_length)
    # transformers sets truncation and the like on the Rust tokenizer, and shows what types there are. Those of a single
    # text are the same in every row: one for the special tokens at each place, one for all of its own.
    probe = plain_ids(tokenizer, [["", "a"]] * len(text), max_length)
    types: Literal["none", "zero", "own"] = "own"
    if probe.token_type_ids is None:
        types = "none"
    elif len(text) == 1 and not any(probe.token_type_ids) and probe.lengths[1] > probe.lengths[0]:
        types = "zero"
    return lambda part: fast_ids(tokenizer.backend_tokenizer, texts_of(part), types)


def calls_backend_only(tokenizer: Any) -> bool:
    """Whether the tokenizer is a fast one whose class changes nothing on the way from texts to ids."""
    from transformers import PreTrainedTokenizerFast

    steps = ("__call__", "_encode_plus", "_convert_encoding", "set_truncation_and_padding")
    return isinstance(tokenizer, PreTrainedTokenizerFast) and all(
        getattr(type(tokenizer), step) is getattr(PreTrainedTokenizerFast, step) for step in steps
    )


def encoded_slices(
    table: Table, text: Sequence[str], tokenizer: Any, max_length: int | None, long_texts: LongTexts = CUT
) -> Iterator[Ids]:
    """The ids of each slice, in order; while Python reads those of one, Rust is at work on the next."""
    read_slice, filler = encoder_of(tokenizer, text, max_length, long_texts), tokenizer.unk_token_id
    filler = (tokenizer.pad_token_id or 0) if filler is None else filler

    def encode_slice(part: Table) -> Ids:
        return none_empty(read_slice(part), filler)

    threads = THREADS if calls_backend_only(tokenizer) else 1
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[Ids]] = deque()
        for part in slices(table, text):
            pending.append(pool.submit(encode_slice, part))
            if len(pending) > 2 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def sample_lengths(table: Table, text: Sequence[str], tokenizer: Any, *, cache: bool = True) -> NDArray[np.int64]:
    """Tokens of each whole text, without special ones, of rows that are spread evenly over the table, (sampled rows, texts).

    With `cache` they are kept as the token ids are.
    """
    step = max(1, math.ceil(len(table) / SAMPLE_ROWS))
    sample = table.take(np.arange(0, len(table), step))

    def lengths() -> NDArray[np.int64]:
        added = tokenizer.num_special_tokens_to_add(pair=False)
        columns = [[ids.lengths for ids in encoded_slices(sample, [name], tokenizer, None)] for name in text]
        whole: NDArray[np.int64] = np.stack([np.concatenate(column) for column in columns], axis=1) - added
        return whole

    if not cache:
        return lengths()
    key = content_key(sample.fingerprint(text), tokenizer_content(tokenizer), "lengths of whole texts")
    folder = kept_ids(key, lambda staging: lengths().tofile(staging / "lengths.bin"))
    return np.fromfile(folder / "lengths.bin", np.int64).reshape(-1, len(text))


def choose_max_length(lengths: NDArray[np.int64], most: int) -> int:
    """The shortest length, a multiple of 8, that cuts at most one text in a hundred."""
    enough = int(np.quantile(lengths, 1 - CUT_SHARE, method="higher"))
    return min(most, max(16, 8 * math.ceil(enough / 8)))


def encode(
    table: Table,
    text: Sequence[str],
    tokenizer: Any,
    *,
    max_length: int,
    long_texts: LongTexts = CUT,
    cache: bool = True,
) -> Encoded:
    """The texts of `table` as token ids, special tokens included, each sequence at most `max_length` long.

    They are memory-mapped, with `cache` from a folder that is named by all that decides them.
    """

    front = fills_front(tokenizer)

    def write(folder: Path) -> None:
        write_ids(encoded_slices(table, text, tokenizer, max_length, long_texts), folder)
        forget_last_call(tokenizer)

    if not cache:
        # A mapped file keeps its bytes when it has lost its name; Windows keeps the name too: `kitune cache` shows it.
        with tempfile.TemporaryDirectory(dir=scratch_folder(), ignore_cleanup_errors=True) as place:
            try:
                write(Path(place))
            except OSError as error:
                raise not_written(Path(place).parent, error, fix=f"make room there, or {ELSEWHERE}") from None
            return replace(read_ids(Path(place)), fills_front=front)
    fit = str(max_length) if long_texts.how == "cut" else repr((max_length, long_texts))
    key = content_key(table.fingerprint(text), tokenizer_content(tokenizer), fit)
    return replace(read_ids(kept_ids(key, write)), fills_front=front)


def fills_front(tokenizer: Any) -> bool:
    """Whether shorter sequences are filled up in front: the tokenizer does, and the last token is the one that heads read.

    So it is with XLNet. Elsewhere they are filled up behind, whatever the tokenizer says: GPT-2 counts positions from the
    first place, filled or not, and its tokens do not see what follows them.
    """
    return bool(tokenizer.padding_side == "left" and tokenizer("")["input_ids"][-1:] == [tokenizer.cls_token_id])


def kept_ids(key: str, write: Callable[[Path], None]) -> Path:
    """The folder of the cache that is named by `key`, written where it is not there."""
    try:
        return made_once(cache_folder() / "encoded" / key, write)
    except OSError as error:
        raise not_written(cache_folder(), error, fix=f"{ELSEWHERE}, or --set engine.cache=false") from None


def not_written(folder: Path, error: OSError, *, fix: str) -> UserError:
    """The error for token ids that cannot be written."""
    return UserError(f"{folder}: token ids cannot be kept there: {error.strerror or error}", fix=fix)


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


def write_ids(encoded: Iterable[Ids], folder: Path) -> None:
    """Write ids.bin, types.bin (where the tokenizer has types), starts.bin and first.bin (where a row may have several
    sequences), slice by slice."""
    starts = first = np.zeros(1, dtype=np.int64)
    with (
        (folder / "ids.bin").open("wb") as ids_file,
        (folder / "types.bin").open("wb") as types_file,
        (folder / "starts.bin").open("wb") as starts_file,
        (folder / "first.bin").open("wb") as first_file,
    ):
        starts.tofile(starts_file)
        for number, ids in enumerate(encoded):
            ids.input_ids.tofile(ids_file)
            types_file.write(ids.token_type_ids or b"")
            starts = starts[-1] + np.cumsum(ids.lengths, dtype=np.int64)
            starts.tofile(starts_file)
            if ids.counts is not None:
                if not number:
                    first.tofile(first_file)
                first = first[-1] + np.cumsum(ids.counts, dtype=np.int64)
                first.tofile(first_file)


def read_ids(folder: Path) -> Encoded:
    """What `write_ids` wrote, memory-mapped."""

    def read(name: str, dtype: Any) -> Any:
        path = folder / name
        if not path.stat().st_size:
            return np.empty(0, dtype)
        return np.memmap(path, dtype, mode="r")

    ids, types, first = read("ids.bin", np.int32), read("types.bin", np.uint8), read("first.bin", np.int64)
    several = len(first) and first[-1] > len(first) - 1  # or each row has one after all
    return Encoded(
        ids, read("starts.bin", np.int64), types if len(types) == len(ids) else None, first if several else None
    )
