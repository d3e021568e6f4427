"""One vector for a text, from the hidden states of its tokens."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn


def mean_pooled(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """The mean over each text's tokens, scaled to unit length.

    Args:
        hidden: (texts, tokens, width).
        attention_mask: (texts, tokens), 1 where a token is, 0 where padding is.

    Returns:
        (texts, width).

    Source: Reimers and Gurevych 2019, arXiv:1908.10084, section 3.
    """
    mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
    return torch.nn.functional.normalize((hidden * mask).sum(dim=1).float(), dim=-1)


class Pooled(nn.Module):
    """An encoder whose output, where a classifier has logits, is one vector of unit length for each text."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, attention_mask: Tensor, **inputs: Tensor) -> SimpleNamespace:
        hidden = self.encoder(attention_mask=attention_mask, **inputs).last_hidden_state
        return SimpleNamespace(logits=mean_pooled(hidden, attention_mask))
