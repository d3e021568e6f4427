"""Transformers' own forward over rows without their padding, behind one another: the fast path on a GPU.

Layers, heads and autograd stay transformers' and torch's; only attention must know where a row ends. It is torch's
`scaled_dot_product_attention` over jagged tensors (FlashAttention-2, arXiv:2307.08691, on CUDA), with the model's dropout;
sliding windows (ModernBERT, arXiv:2412.13663) go to `varlen_attn`, which has windows but no dropout.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from kitune.model.packed import Packed, pack

NAME = "kitune_unpadded"
# Families whose position ids can be given and whose layers hand unknown arguments on to their attention.
FAMILIES = {"bert", "camembert", "distilbert", "electra", "modernbert", "roberta", "xlm-roberta"}


def suits(network: Any) -> str | None:
    """Why this network cannot leave its padding out; None where it can."""
    config = network.config
    if config.model_type not in FAMILIES:
        return f"{config.model_type} models keep their padding"
    if getattr(config, "is_decoder", False):
        return "it is a decoder"
    if config.model_type == "modernbert" and config.attention_dropout:
        return "attention over a sliding window has no dropout"
    return None


def use_unpadded(network: Any) -> None:
    """Let the network's encoder compute over real tokens alone."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, no_mask)
    network.set_attn_implementation(NAME)
    base = network.base_model
    plain, pooler = base.forward, getattr(base, "pooler", None)
    embeddings = getattr(base.embeddings, "position_embeddings", None)
    counts_from = None if embeddings is None else embeddings.padding_idx

    def forward(
        input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None, **unused: Any
    ) -> BaseModelOutputWithPooling:
        rows = pack(input_ids, attention_mask, token_type_ids, counts_from)
        types = {} if rows.types is None else {"token_type_ids": rows.types[None].long()}
        packed = plain(input_ids=rows.ids[None].long(), position_ids=rows.positions[None].long(), rows=rows, **types)
        real = attention_mask.bool()
        hidden = packed.last_hidden_state.new_zeros(*real.shape, packed.last_hidden_state.shape[-1])
        hidden[real] = packed.last_hidden_state[0]
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden, pooler_output=None if pooler is None else pooler(hidden)
        )

    base.forward = forward


def no_mask(**unused: Any) -> None:
    """No row sees another one, so that nothing is to be masked."""


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    rows: Packed,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Attention within each row, as transformers calls it.

    Args:
        query, key, value: (1, heads, tokens, width) of all rows behind one another.
        rows: where each begins.
        sliding_window: a token sees those less than so many places away.

    Returns:
        (1, tokens, heads, width), and no weights.
    """
    q, k, v = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
    if sliding_window is not None and sliding_window < rows.longest:
        return windowed(q, k, v, rows, sliding_window - 1, scaling, dropout)[None], None
    q, k, v = (jagged(x, rows) for x in (q, k, v))
    out: Any = scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling)
    return out.transpose(1, 2).values()[None], None


def jagged(x: Tensor, rows: Packed) -> Tensor:
    """(tokens, heads, width) as (rows, heads, tokens of the row, width)."""
    found: Tensor = torch.nested.nested_tensor_from_jagged(x, rows.starts, max_seqlen=rows.longest)
    return found.transpose(1, 2)


def windowed(
    query: Tensor, key: Tensor, value: Tensor, rows: Packed, reach: int, scaling: float | None, dropout: float
) -> Tensor:
    """Attention in which a token sees those at most `reach` places away; all tensors (tokens, heads, width)."""
    if query.is_cuda and not dropout:
        from torch.nn.attention.varlen import varlen_attn

        starts = rows.starts.int()
        out = varlen_attn(
            query, key, value, starts, starts, rows.longest, rows.longest, scale=scaling, window_size=(reach, reach)
        )
        assert isinstance(out, Tensor)
        return out
    places = torch.arange(rows.longest, device=query.device)
    near = (places[:, None] - places).abs() <= reach
    parts = []
    for begin, end in rows.starts.unfold(0, 2, 1).tolist():
        q, k, v = (x[begin:end].transpose(0, 1)[None] for x in (query, key, value))
        mask = near[: end - begin, : end - begin]
        parts.append(scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scaling)[0])
    return torch.cat([part.transpose(0, 1) for part in parts])
