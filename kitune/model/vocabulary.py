"""Word embeddings of the tokens that the data has, and no others: XLM-R has 192 of its 278 million parameters there.

A row of a token that never occurs has no gradient; nothing but weight decay moves it, and that in closed form. So the network
learns with the rows in use, and the rest is written from the original, decayed, when weights are saved.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from kitune.errors import UserError

# Where more of the vocabulary than this is in use, nothing is gained.
MOST_IN_USE = 0.8
# Rows of the whole table that are made at a time.
CHUNK_ROWS = 8_192
# Token ids that are looked at at a time.
CHUNK_IDS = 1_000_000


class RowsInUse(nn.Module):
    """Stands in for an `nn.Embedding`; takes the same token ids.

    Attributes:
        weight: (rows in use, width).
        rows: (rows in use,) int64: their token ids, ascending.
        row_of: (vocabulary,) int64: the row of a token id, -1 for one that is not in use.
        original: (vocabulary, width): the table before training; as transformers loads it, mapped from the model's file.
    """

    row_of: Tensor

    def __init__(self, embedding: nn.Embedding, token_ids: NDArray[np.int64]) -> None:
        super().__init__()
        self.rows = torch.from_numpy(np.unique(token_ids))
        self.original = embedding.weight.detach()
        self.weight = nn.Parameter(self.original[self.rows])
        row_of = torch.full((embedding.num_embeddings,), -1, dtype=torch.int64)
        row_of[self.rows] = torch.arange(len(self.rows))
        self.register_buffer("row_of", row_of, persistent=False)
        padding = embedding.padding_idx
        self.padding_idx = None if padding is None or row_of[padding] < 0 else int(row_of[padding])

    def forward(self, input_ids: Tensor) -> Tensor:
        """Embeddings of token ids of any shape, (*, width).

        Raises:
            IndexError: a token id is not among those in use.
        """
        return F.embedding(self.row_of[input_ids], self.weight, self.padding_idx)

    def whole(self, weight: Tensor, unused_decay: float) -> Iterator[Tensor]:
        """The table with all rows, fp32, slice by slice.

        Args:
            weight: (rows in use, width), the present ones.
            unused_decay: the product over all updates of 1 - learning rate x weight decay.
        """
        for begin in range(0, len(self.original), CHUNK_ROWS):
            part = self.original[begin : begin + CHUNK_ROWS].float() * unused_decay
            first, last = np.searchsorted(self.rows.numpy(), [begin, begin + CHUNK_ROWS])
            part[self.rows[first:last] - begin] = weight[first:last].cpu()
            yield part


def word_embedding(encoder: Any) -> nn.Embedding | None:
    """The table of word embeddings; None of an encoder that has another kind (CANINE, Perceiver, I-BERT)."""
    try:
        found = encoder.get_input_embeddings()
    except NotImplementedError:
        return None
    return found if isinstance(found, nn.Embedding) else None


def require_rows(network: Any, token_ids: Iterable[NDArray[Any]]) -> None:
    """Refuse token ids that the network has no embedding of: tokens were added, and the table was not made larger."""
    embedding = word_embedding(network.base_model)
    most = max((int(ids.max(initial=-1)) for ids in token_ids), default=-1)
    if embedding is not None and most >= (there := embedding.num_embeddings):
        raise UserError(
            f"the tokenizer gives the id {most}, and the model has embeddings of {there} tokens",
            fix="save the model after network.resize_token_embeddings(len(tokenizer))",
        )


def use_rows(network: Any, token_ids: Iterable[NDArray[Any]]) -> bool:
    """Let the network's word embeddings have rows for these token ids alone, where that leaves much out; whether it does.

    A special token may have no embedding, if no text holds it. A table that scales what it gives (Gemma's, mBART's), or that
    other layers share (BART's), stays whole.
    """
    embedding = word_embedding(network.base_model)
    if type(embedding) is not nn.Embedding or not embedding.weight.requires_grad:
        return False
    weights = [weight for _, weight in network.named_parameters(remove_duplicate=False)]
    if sum(weight is embedding.weight for weight in weights) > 1:
        return False
    seen = np.zeros(embedding.num_embeddings, dtype=bool)
    for ids in token_ids:
        for begin in range(0, len(ids), CHUNK_IDS):  # numpy takes them as 8 bytes each
            some = ids[begin : begin + CHUNK_IDS]
            seen[some[some < len(seen)]] = True
    if seen.mean() > MOST_IN_USE:
        return False
    network.base_model.set_input_embeddings(RowsInUse(embedding, np.flatnonzero(seen)))
    return True


def tables_in_use(network: nn.Module) -> dict[str, RowsInUse]:
    """The parameter name of each table of rows in use, and its module."""
    return {f"{name}.weight": module for name, module in network.named_modules() if isinstance(module, RowsInUse)}


def rows_in_use(network: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Saved weights by name, of whole tables the rows that the network has."""
    tables = tables_in_use(network)
    return {name: weight[tables[name].rows] if name in tables else weight for name, weight in weights.items()}
