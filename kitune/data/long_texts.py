"""What becomes of a text with more tokens than the model reads: its end or its middle is left out, or it is read in windows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kitune.config import DataOptions

Places: TypeAlias = NDArray[np.int64]

# Of what is kept of a text, the share that is from its beginning: 128 of 510 tokens in Sun et al. 2019, arXiv:1905.05583,
# section 5.3.1.
HEAD_SHARE = 0.25
# Of a window, the share that the one before it has too, or more: what stands at the edge of one is in the middle of another.
OVERLAP = 0.25


@dataclass(frozen=True)
class LongTexts:
    """How a long text is read.

    Attributes:
        how: `cut` leaves out its end, `head-tail` its middle; `windows` reads it in several sequences.
        most_windows: of one row; where they would be more, so many are spread over the text, with gaps.
    """

    how: Literal["cut", "head-tail", "windows"] = "cut"
    most_windows: int = 16

    @classmethod
    def asked(cls, options: DataOptions) -> "LongTexts":
        """As the options say."""
        return cls(options.long_texts, options.most_windows)

    def windows(self, length: int, room: int) -> int:
        """How many sequences a text of `length` tokens is read in, where each has room for so many."""
        if self.how != "windows" or length <= room:
            return 1
        step = max(1, room - math.ceil(OVERLAP * room))
        return min(self.most_windows, 1 + math.ceil((length - room) / step))

    def plan(self, lengths: Sequence[int], room: int) -> tuple[list[int], int]:
        """How many tokens of each text of a row a sequence has, where it has room for so many in all; and its sequences."""
        rooms = shared(lengths, max(0, room))
        return rooms, max(self.windows(length, own) for length, own in zip(lengths, rooms, strict=True))

    def read(self, lengths: Sequence[int], room: int) -> int:
        """How many tokens of a row's texts are read."""
        rooms, count = self.plan(lengths, room)
        return sum(min(length, own * count) for length, own in zip(lengths, rooms, strict=True))

    def places(self, special: NDArray[np.bool_], max_length: int) -> list[Places]:
        """Which tokens of a row make each of its sequences.

        Args:
            special: (tokens,) whether a token is the model's own, such as [CLS]; each sequence has all of them.

        Returns:
            Positions in ascending order, at most `max_length` of them: (tokens of the sequence,) each.
        """
        if len(special) <= max_length:
            return [np.arange(len(special))]
        texts = runs(~special)
        rooms, count = self.plan([end - begin for begin, end in texts], max_length - int(special.sum()))
        own = np.flatnonzero(special)
        sequences = []
        for number in range(count):
            kept = [self.kept(begin, end, room, number, count) for (begin, end), room in zip(texts, rooms, strict=True)]
            sequences.append(np.sort(np.concatenate([own, *kept])))
        return sequences

    def kept(self, begin: int, end: int, room: int, number: int, count: int) -> Places:
        """The tokens of a text at `begin` to `end` that its sequence `number` of `count` has."""
        left_out = end - begin - room
        if left_out <= 0:
            return np.arange(begin, end)
        if self.how == "head-tail":
            head = int(HEAD_SHARE * room)
            return np.concatenate([np.arange(begin, begin + head), np.arange(end - (room - head), end)])
        # The first window begins with the text, the last ends with it.
        first = begin + (round(left_out * number / (count - 1)) if count > 1 else 0)
        return np.arange(first, first + room)


def runs(present: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Begin and end of each run of true values: the texts between the special tokens."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], present, [False]]).astype(np.int8)))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]


def shared(lengths: Sequence[int], room: int) -> list[int]:
    """Tokens that each text may have of `room`: short ones all of theirs, the longer ones equal parts of what is left."""
    rooms = [0] * len(lengths)
    for left, place in enumerate(sorted(range(len(lengths)), key=lengths.__getitem__)):
        rooms[place] = min(lengths[place], room // (len(lengths) - left))
        room -= rooms[place]
    return rooms
