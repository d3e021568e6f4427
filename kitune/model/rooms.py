"""Memory of a packed pass: activations, what backward needs of them, and gradients; made once and used again by every pass.

Freshly mapped memory costs a third of the time of the work on it. So one pass is under way at a time, and its backward comes
before the next forward.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kitune.model.memory import zeros

# Tokens of a forward pass are rounded up to a multiple of this: the products work on blocks of 32 rows a thread, and each
# shape costs oneDNN, where it makes them, a set-up.
TOKEN_STEP = 64
# Rooms are laid out for so many times the tokens of the first pass; what is never written to takes no memory.
SPARE = 8


@dataclass(frozen=True)
class Learning:
    """What a pass that learns shares among its layers besides: gradients, some of them transposed too (`_t`), and what backward
    needs of the embeddings' norm.

    Attributes:
        dresidual, dfirst: of the residual stream, fp32: of all tokens, (n, width), or of each row's first, (rows, width).
        ddense, dlow, dcontext, dinner, dqkv: of what these are the gradients of, for `n` tokens.
        normal, rstd: the embeddings without their norm's scale, and the inverse of their deviation.
    """

    dresidual: Tensor
    dfirst: Tensor
    ddense_t: Tensor
    dlow: Tensor
    dcontext: Tensor
    dinner: Tensor
    dinner_t: Tensor
    dqkv: Tensor
    dqkv_t: Tensor
    normal: Tensor
    rstd: Tensor


@dataclass(frozen=True)
class Shared:
    """What all layers of a pass use one after the other.

    Attributes:
        residual: the residual stream before and behind attention, fp32, (n, width) each.
        dense: what a product leaves for the norm behind it, (n, width).
        first: the residual stream of each row's first token, fp32, (rows, width).
        learning: None where nothing is learned.
    """

    residual: tuple[Tensor, Tensor]
    dense: Tensor
    first: Tensor
    learning: Learning | None


@dataclass(frozen=True)
class First:
    """Of a layer that computes each row's first token alone: its input, its queries, and the keys and values of all tokens."""

    low: Tensor
    q: Tensor
    kv: Tensor


@dataclass(frozen=True)
class Kept:
    """What a layer leaves for its backward; without one all layers use the same.

    Attributes:
        n, out: rows of memory of its input and of its output: tokens, or rows of the batch.
        low: its input, rounded, (n, width).
        qkv: (n, 3 width). context: attention's result. y_low: the input of its second half, rounded. All (out, width).
        slope, inner: GELU's slope and result, (out, inner width).
        first: where only first tokens count.
        softmax: greatest score and sum of each softmax, (out, 2 heads) fp32.
        normals, rstds: of both norms, as `Learning` has them of the embeddings'.
    """

    n: int
    out: int
    low: Tensor
    qkv: Tensor
    context: Tensor
    y_low: Tensor
    slope: Tensor
    inner: Tensor
    first: First | None
    softmax: Tensor | None
    normals: tuple[Tensor | None, Tensor | None]
    rstds: tuple[Tensor | None, Tensor | None]


class Rooms:
    """The memory of an encoder's passes.

    Attributes:
        width, inner, heads, layers: of the encoder.
        first_only: the last layer computes each row's first token alone.
        dtype: of activations.
    """

    def __init__(
        self, *, width: int, inner: int, heads: int, layers: int, first_only: bool, dtype: torch.dtype
    ) -> None:
        self.width, self.inner, self.heads, self.layers = width, inner, heads, layers
        self.first_only, self.dtype = first_only, dtype
        self._learned = False
        self._rooms: dict[str, Tensor] = {}
        self._laid_out: dict[tuple[int, int], tuple[Shared, list[Kept]]] = {}

    def of(self, num_tokens: int, num_rows: int, *, learns: bool) -> tuple[Shared, list[Kept]]:
        """What all layers of a pass share, and what each keeps.

        Passes that learn give theirs back before others take any: an evaluation needs memory of its own, for its metrics.
        """
        if learns != self._learned:
            self._rooms.clear()
            self._laid_out.clear()
            self._learned = learns
        shape = rounded(num_tokens), rounded(num_rows)
        if shape not in self._laid_out:
            found = (
                self._shared(*shape, learns=learns),
                [self._kept(i, *shape, learns=learns) for i in range(self.layers)],
            )
            self._laid_out[shape] = found
        return self._laid_out[shape]

    def _room(self, name: str, rows: int, columns: int, dtype: torch.dtype | None = None) -> Tensor:
        """(rows, columns) of memory that keeps its place from pass to pass; what it holds is of an earlier one.

        Zeros at first, because the rows behind the last token are multiplied too, by zeros: they may hold anything but NaN.
        """
        size = rows * columns
        held = self._rooms.get(name)
        if held is None or len(held) < size:
            try:
                held = zeros(SPARE * size, dtype or self.dtype)
            except OSError:  # a limit on mapped memory, which the spare part counts against
                held = zeros(size, dtype or self.dtype)
            self._rooms[name] = held
            self._laid_out.clear()
        return held[:size].view(rows, columns)

    def _shared(self, n: int, rows: int, *, learns: bool) -> Shared:
        d, inner, fp32, room = self.width, self.inner, torch.float32, self._room
        residual = room("residual 0", n, d, fp32), room("residual 1", n, d, fp32)
        learning = None
        if learns:
            learning = Learning(
                dresidual=room("dresidual", n, d, fp32),
                dfirst=room("dfirst", rows, d, fp32),
                ddense_t=room("ddense_t", d, n),
                dlow=room("dlow", n, d),
                dcontext=room("dcontext", n, d),
                dinner=room("dinner", n, inner),
                dinner_t=room("dinner_t", inner, n),
                dqkv=room("dqkv", n, 3 * d),
                dqkv_t=room("dqkv_t", 3 * d, n),
                normal=room("normal", n, d),
                rstd=room("rstd", n, 1, fp32),
            )
        return Shared(residual, room("dense", n, d), room("first", rows, d, fp32), learning)

    def _kept(self, number: int, n: int, rows: int, *, learns: bool) -> Kept:
        d, inner, fp32, room = self.width, self.inner, torch.float32, self._room
        mine = number if learns else 0
        few = self.first_only and number == self.layers - 1
        out = rows if few else n
        qkv = room(f"qkv {mine}", n, 3 * d)
        first = None
        if few:
            first = First(
                room("first low", rows, d), room("first q", rows, d), qkv.view(-1)[: n * 2 * d].view(n, 2 * d)
            )
        normals: tuple[Tensor | None, Tensor | None] = None, None
        rstds: tuple[Tensor | None, Tensor | None] = None, None
        if learns:
            normals = room(f"normal {mine} 0", out, d), room(f"normal {mine} 1", out, d)
            rstds = room(f"rstd {mine} 0", out, 1, fp32), room(f"rstd {mine} 1", out, 1, fp32)
        return Kept(
            n=n,
            out=out,
            low=room(f"low {number if learns else number % 2}", n, d),
            qkv=qkv,
            context=room(f"context {mine}", out, d),
            y_low=room(f"y {mine}", out, d),
            slope=room(f"slope {mine}", out, inner),
            inner=room(f"inner {mine}", out, inner),
            first=first,
            softmax=room(f"softmax {mine}", out, 2 * self.heads, fp32) if learns else None,
            normals=normals,
            rstds=rstds,
        )


def rounded(count: int) -> int:
    """`count` rounded up to a multiple of `TOKEN_STEP`."""
    return -(-count // TOKEN_STEP) * TOKEN_STEP


def cut(room: Tensor, rows: int, columns: int) -> Tensor:
    """The beginning of a room in another shape."""
    return room.view(-1)[: rows * columns].view(rows, columns)
