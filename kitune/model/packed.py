"""The fast forward and backward of BERT's family on a CPU: no padding, fused kernels, gradients straight into flat buffers.

The layer is Vaswani et al. 2017 (arXiv:1706.03762) as BERT has it: LayerNorm after each residual sum, exact GELU. The plain
twin is transformers' own forward; `families.fits` says which networks this one stands for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from kitune.model.families import FAMILIES, Layer, Matrix, Norm, Store, layer_of, norm_of, vector_of
from kitune.model.kernels import Kernels
from kitune.model.products import products_for
from kitune.model.rooms import Kept, Learning, Rooms, Shared, cut
from kitune.model.vocabulary import RowsInUse


@dataclass(frozen=True)
class Packed:
    """A batch without its padding.

    Attributes:
        ids, positions, types: (tokens,) int32; types may be None.
        starts: (rows + 1,) int64, where each row begins.
        longest: tokens of the longest row.
    """

    ids: Tensor
    positions: Tensor
    types: Tensor | None
    starts: Tensor
    longest: int

    @property
    def num_tokens(self) -> int:
        return len(self.ids)

    @property
    def num_rows(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def row_numbers(self) -> Tensor:
        """(rows + 1,): `starts` of a batch whose rows have one token each."""
        return torch.arange(len(self.starts))


def pack(input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None, padding_id: int | None) -> Packed:
    """Real tokens of a padded batch, (rows, length) each, behind one another.

    Args:
        padding_id: position ids count from it (RoBERTa); None: from 0.
    """
    real = attention_mask.bool()
    lengths = real.sum(1)
    starts = torch.zeros(len(lengths) + 1, dtype=torch.int64, device=lengths.device)
    torch.cumsum(lengths, 0, out=starts[1:])
    if padding_id is None:
        positions = real.cumsum(1) - 1
    else:  # as transformers does: a padding token inside a text has the padding position
        counted = input_ids.ne(padding_id) & real
        positions = counted.cumsum(1) * counted + padding_id
    return Packed(
        input_ids[real].int(),
        positions[real].int(),
        None if token_type_ids is None else token_type_ids[real].int(),
        starts,
        int(lengths.max()),
    )


class PackedEncoder:
    """An encoder's forward and backward over packed rows; the weights stay the network's own.

    One pass is under way at a time, and its backward comes before the next forward (see `Rooms`).
    """

    def __init__(
        self,
        network: Any,
        kernels: Kernels,
        *,
        dtype: torch.dtype,
        first_only: bool,
        store: Store,
    ) -> None:
        """
        Args:
            dtype: of activations and matrices.
            first_only: the head reads each row's first token alone, so that the last layer computes no others.
            store: where the weights and their gradients lie.
        """
        config, encoder = network.config, network.base_model
        family = FAMILIES[config.model_type]
        self.kernels, self.dtype, self.first_only = kernels, dtype, first_only
        self.products = products_for(kernels, dtype)
        self.heads, self.width = config.num_attention_heads, config.hidden_size
        self.hidden_dropout = float(getattr(config, family.hidden_dropout))
        self.attention_dropout = float(getattr(config, family.attention_dropout))
        self.output_dropout = self.hidden_dropout if family.drops_attention_output else 0.0
        embeddings = encoder.embeddings
        self.tables = {
            name: vector_of(getattr(embeddings, f"{name}_embeddings").weight, store)
            for name in ("word", "position", "token_type")
            if hasattr(embeddings, f"{name}_embeddings")
        }
        self.embedding_norm = norm_of(embeddings.LayerNorm, None, store)
        self.words = embeddings.word_embeddings
        self.padding_position = embeddings.position_embeddings.padding_idx if family.positions_from_padding else None
        self.layers = [layer_of(layer, family, dtype, store) for layer in encoder.get_submodule(family.layers)]
        self.inner = len(self.layers[0].up.weight)
        self.store = store
        self.head_dtype = network.dtype
        names = (*family.attention, family.up, family.down)
        layers = encoder.get_submodule(family.layers)
        store.hand_over([layer.get_submodule(name).weight for layer in layers for name in names])
        self.num_passes = 0
        self.rooms = Rooms(
            width=self.width,
            inner=self.inner,
            heads=self.heads,
            layers=len(self.layers),
            first_only=first_only,
            dtype=dtype,
        )

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None, *, drops: bool
    ) -> Tensor:
        """Hidden states: (rows, 1, width) where only first tokens count, else (rows, length, width), zeros behind the end."""
        batch = self.in_tables(pack(input_ids, attention_mask, token_type_ids, self.padding_position))
        keys = dropout_keys(1 + 3 * len(self.layers), drops=drops)
        if torch.is_grad_enabled():
            anchor = torch.empty(0, requires_grad=True)  # autograd calls backward only where an input asks for it
            hidden: Tensor = _Pass.apply(anchor, self, batch, keys)  # type: ignore[no-untyped-call]
        else:
            hidden = self.run(batch, keys, learns=False)
        if self.first_only:
            return hidden[:, None, :]
        real = attention_mask.bool()
        padded = torch.zeros(*real.shape, self.width, dtype=hidden.dtype)
        padded[real] = hidden
        return padded

    def in_tables(self, batch: Packed) -> Packed:
        """The batch with the row of each token in the table of words as its id; a kernel reads where it is told to.

        Raises:
            IndexError: a token or a position has no row in its table.
        """
        rows: Tensor = self.words.row_of[batch.ids].int() if isinstance(self.words, RowsInUse) else batch.ids
        if int(rows.min()) < 0 or int(rows.max()) >= len(self.words.weight):
            raise IndexError("a token id has no row among the word embeddings")
        types = self.tables.get("token_type")
        if batch.types is not None and types is not None and int(batch.types.max()) >= len(types.value):
            raise IndexError("a token type has no row among the embeddings")
        if "position" in self.tables:
            most, last = len(self.tables["position"].value), int(batch.positions.max())
            if last >= most:
                raise IndexError(f"a row of {batch.longest} tokens needs position {last}, and there are {most}")
        return replace(batch, ids=rows)

    # ---- forward ----

    def run(self, batch: Packed, keys: Sequence[int], *, learns: bool) -> Tensor:
        """Hidden states of every token, (tokens, width), or of each row's first, (rows, width)."""
        self.num_passes += 1
        shared, kept = self.rooms.of(batch.num_tokens, batch.num_rows, learns=learns)
        share = self.hidden_dropout if keys[0] else 0.0
        n, residual = batch.num_tokens, shared.residual[0]
        norm, tables = self.embedding_norm, self.tables
        positions, types = tables.get("position"), tables.get("token_type")
        normal, rstd = (None, None) if shared.learning is None else (shared.learning.normal, shared.learning.rstd)
        self.kernels.call(
            "embed", self.dtype, n, self.width, tables["word"].value, batch.ids,
            positions.value if positions else None, batch.positions, types.value if types else None, batch.types,
            norm.gamma.value, norm.beta.value, norm.epsilon, keys[0], share,
            residual, kept[0].low, normal, rstd,
        )  # fmt: skip
        for number, (layer, rooms) in enumerate(zip(self.layers, kept, strict=True)):
            following = kept[number + 1].low if number + 1 < len(kept) else None
            residual = self.run_layer(layer, rooms, shared, batch, residual, following, keys[1 + 3 * number :])
        out = batch.num_rows if self.first_only else n
        hidden: Tensor = residual[:out].to(self.head_dtype, copy=True)
        return hidden

    def run_layer(
        self,
        layer: Layer,
        rooms: Kept,
        shared: Shared,
        batch: Packed,
        residual: Tensor,
        following: Tensor | None,
        keys: Sequence[int],
    ) -> Tensor:
        """One layer; gives the residual stream behind it, and writes its rounded twin to `following`."""
        d, of_attention, share = self.width, *((self.output_dropout, self.hidden_dropout) if keys[0] else (0.0, 0.0))
        qkv, multiply = layer.qkv, self.products.forward
        n = batch.num_rows if rooms.first else batch.num_tokens
        if rooms.first:
            multiply(rooms.low, qkv[d:].weight, qkv[d:].bias, rooms.first.kv)
            firsts = batch.starts[:-1]
            torch.index_select(rooms.low, 0, firsts, out=rooms.first.low[:n])
            multiply(rooms.first.low, qkv[:d].weight, qkv[:d].bias, rooms.first.q)
            torch.index_select(residual, 0, firsts, out=shared.first[:n])
            residual, other = shared.first, shared.first
        else:
            multiply(rooms.low, qkv.weight, qkv.bias, rooms.qkv)
            other = shared.residual[1]
        attention = self.attention_of(rooms, batch, keys[0])
        self.kernels.call("attention", self.dtype, *attention, rooms.context, rooms.softmax)
        dense = cut(shared.dense, rooms.out, d)
        multiply(rooms.context, layer.out.weight, None, dense)
        self.residual_norm(
            n, dense, residual, layer.attention_norm, keys[1], of_attention, other, rooms.y_low, rooms, 0
        )
        learns = rooms.softmax is not None
        self.products.forward_gelu(n, rooms.y_low, layer, rooms.slope, rooms.inner, learns=learns)
        multiply(rooms.inner, layer.down.weight, None, dense)
        self.residual_norm(n, dense, other, layer.norm, keys[2], share, residual, following, rooms, 1)
        return residual

    def residual_norm(
        self,
        n: int,
        dense: Tensor,
        residual: Tensor,
        norm: Norm,
        key: int,
        share: float,
        out: Tensor,
        low: Tensor | None,
        rooms: Kept,
        which: int,
    ) -> None:
        """`out` = LayerNorm(residual + dropout(dense + bias)); `low` its rounded twin."""
        assert norm.bias is not None
        self.kernels.call(
            "residual_norm", self.dtype, n, self.width, dense, norm.bias.value, residual, norm.gamma.value, norm.beta.value,
            norm.epsilon, key, share, out, low, rooms.normals[which], rooms.rstds[which],
        )  # fmt: skip

    def attention_of(self, rooms: Kept, batch: Packed, key: int) -> tuple[Any, ...]:
        """The first arguments of both attention kernels."""
        d, starts = self.width, batch.starts
        share = self.attention_dropout if key else 0.0
        if rooms.first:
            kv = rooms.first.kv
            queries, q, k, v, strides = batch.row_numbers, rooms.first.q, kv, kv[:, d:], (d, 2 * d)
        else:
            queries, q, k, v, strides = starts, rooms.qkv, rooms.qkv[:, d:], rooms.qkv[:, 2 * d :], (3 * d, 3 * d)
        scale = (d // self.heads) ** -0.5
        shape = (batch.num_rows, self.heads, d // self.heads, queries, starts, batch.longest, scale)
        return *shape, q, strides[0], k, v, strides[1], key, share

    # ---- backward ----

    def run_backward(self, batch: Packed, keys: Sequence[int], dhidden: Tensor) -> None:
        """Add the gradients of all weights to theirs, from that of the hidden states."""
        shared, kept = self.rooms.of(batch.num_tokens, batch.num_rows, learns=True)
        learning, writes = learning_of(shared), self.store.begin_pass()
        dresidual = learning.dfirst if self.first_only else learning.dresidual
        dresidual[: len(dhidden)].copy_(dhidden)
        dlow: Tensor | None = None
        for number in reversed(range(len(self.layers))):
            dresidual, dlow = self.layer_backward(
                self.layers[number],
                kept[number],
                shared,
                batch,
                dresidual,
                dlow,
                keys[1 + 3 * number :],
                writes=writes,
            )
        norm, n, d = self.embedding_norm, batch.num_tokens, self.width
        share = self.hidden_dropout if keys[0] else 0.0
        self.kernels.call(
            "embed_backward", self.dtype, n, d, dresidual, dlow, learning.normal, learning.rstd, norm.gamma.value, keys[0],
            share, norm.gamma.gradient, norm.beta.gradient,
        )  # fmt: skip
        padding = -1 if self.words.padding_idx is None else int(self.words.padding_idx)
        rows = {"word": batch.ids, "position": batch.positions, "token_type": batch.types}
        for name, table in self.tables.items():
            skipped = {"word": padding, "position": -1 if self.padding_position is None else self.padding_position}
            self.kernels.call(
                "scatter_add", torch.float32, n, d, dresidual, rows[name], skipped.get(name, -1), table.gradient
            )

    def layer_backward(
        self,
        layer: Layer,
        rooms: Kept,
        shared: Shared,
        batch: Packed,
        dresidual: Tensor,
        dlow: Tensor | None,
        keys: Sequence[int],
        *,
        writes: bool,
    ) -> tuple[Tensor, Tensor]:
        """Backward of `run_layer`: the gradient of its output comes, and that of its input goes, in two streams.

        Args:
            writes: gradients of matrices are written, and not added to what is there.
        """
        d, out, call, products = self.width, rooms.out, self.kernels.call, self.products
        learning, first = learning_of(shared), rooms.first
        n = batch.num_rows if first else batch.num_tokens
        of_attention, share = (self.output_dropout, self.hidden_dropout) if keys[0] else (0.0, 0.0)
        ddense, ddense_t = cut(shared.dense, out, d), cut(learning.ddense_t, d, out)

        def norm_backward(norm: Norm, key: int, share: float, which: int, low: Tensor | None) -> None:
            assert norm.bias is not None
            call(
                "residual_norm_backward", self.dtype, n, out, d, dresidual, low, rooms.normals[which], rooms.rstds[which],
                norm.gamma.value, key, share, ddense, ddense_t, norm.gamma.gradient, norm.beta.gradient, norm.bias.gradient,
            )  # fmt: skip

        norm_backward(layer.norm, keys[2], share, 1, dlow)
        dinner, dinner_t = cut(learning.dinner, out, self.inner), cut(learning.dinner_t, self.inner, out)
        products.backward(ddense, layer.down.weight, dinner)
        products.gradient(ddense_t, rooms.inner, layer.down, writes=writes)
        call("gelu_backward", self.dtype, n, out, self.inner, dinner, rooms.slope, dinner_t, layer.up_bias.gradient)
        dy = cut(learning.dlow, out, d)
        products.backward(dinner, layer.up.weight, dy)
        products.gradient(dinner_t, rooms.y_low, layer.up, writes=writes)
        norm_backward(layer.attention_norm, keys[1], of_attention, 0, dy)
        dcontext = cut(learning.dcontext, out, d)
        products.backward(ddense, layer.out.weight, dcontext)
        products.gradient(ddense_t, rooms.context, layer.out, writes=writes)
        attention = self.attention_of(rooms, batch, keys[0])
        if first is None:
            dqkv = learning.dqkv
            call(
                "attention_backward", self.dtype, *attention, dcontext, rooms.softmax,
                dqkv, 3 * d, dqkv[:, d:], dqkv[:, 2 * d :], 3 * d,
            )  # fmt: skip
            self.through(layer.qkv, n, rooms.n, dqkv, learning.dqkv_t, rooms.low, learning.dlow, writes=writes)
            return dresidual, learning.dlow
        dkv, dkv_t = cut(learning.dqkv, rooms.n, 2 * d), cut(learning.dqkv_t, 2 * d, rooms.n)
        dq = cut(shared.dense, out, d)
        call(
            "attention_backward", self.dtype, *attention, dcontext, rooms.softmax,
            dq, d, dkv, dkv[:, d:], 2 * d,
        )  # fmt: skip
        self.through(layer.qkv[:d], n, out, dq, ddense_t, first.low, dcontext, writes=writes)
        dresidual[:n].add_(dcontext[:n])
        self.through(layer.qkv[d:], batch.num_tokens, rooms.n, dkv, dkv_t, rooms.low, learning.dlow, writes=writes)
        learning.dresidual[: batch.num_tokens].zero_()
        learning.dresidual.index_copy_(0, batch.starts[:-1], dresidual[:n])
        return learning.dresidual, learning.dlow

    def through(
        self,
        matrix: Matrix,
        n: int,
        padded: int,
        dout: Tensor,
        dout_t: Tensor,
        x: Tensor,
        dx: Tensor,
        *,
        writes: bool,
    ) -> None:
        """Backward of out = x weight.T + bias: the gradient of x in `dx`; those of weight and bias are added to theirs."""
        columns = dout.shape[1]
        self.kernels.call("transpose_and_sum", self.dtype, n, padded, columns, dout, dout_t, matrix.bias_gradient)
        self.products.backward(dout, matrix.weight, dx)
        self.products.gradient(dout_t, x, matrix, writes=writes)


class _Pass(torch.autograd.Function):
    """A pass of a `PackedEncoder` as autograd sees it: hidden states with a backward, and no inputs."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, encoder: PackedEncoder, batch: Packed, keys: Sequence[int]) -> Tensor:
        hidden = encoder.run(batch, keys, learns=True)
        ctx.told = encoder, batch, keys, encoder.num_passes
        return hidden

    @staticmethod
    def backward(ctx: Any, dhidden: Tensor) -> tuple[None, ...]:
        encoder, batch, keys, number = ctx.told
        if number != encoder.num_passes:
            raise RuntimeError("backward of a pass whose activations a later forward has replaced")
        encoder.run_backward(batch, keys, dhidden)
        return None, None, None, None


def learning_of(shared: Shared) -> Learning:
    """What a pass that learns has besides."""
    assert shared.learning is not None
    return shared.learning


def dropout_keys(count: int, *, drops: bool) -> list[int]:
    """Keys of the dropouts of a pass, drawn from torch's generator, which the loop has seeded; zeros where nothing drops."""
    if not drops:
        return [0] * count
    return [int(key) for key in torch.randint(1, 2**63 - 1, (count,))]


def first_token_only(network: Any) -> bool:
    """Whether the head reads nothing but each row's first token: so do the classification heads of all families here."""
    return type(network).__name__.endswith("ForSequenceClassification")


def use_packed(network: Any, kernels: Kernels, *, dtype: torch.dtype, store: Store) -> PackedEncoder:
    """Let the network's encoder compute over packed rows; its head stays transformers' own.

    Args:
        store: where the weights and their gradients lie.
    """
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    base = network.base_model
    encoder = PackedEncoder(network, kernels, dtype=dtype, first_only=first_token_only(network), store=store)
    pooler = getattr(base, "pooler", None)

    def forward(
        input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None, **unused: Any
    ) -> BaseModelOutputWithPooling:
        hidden = encoder.forward(input_ids, attention_mask, token_type_ids, drops=base.training)
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden, pooler_output=None if pooler is None else pooler(hidden)
        )

    base.forward = forward
    return encoder
