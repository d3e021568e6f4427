"""Which rows make which update, and how they become one padded batch. Both follow from (seed, epoch) alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kitune.data.encode import Encoded
from kitune.data.table import Rows
from kitune.errors import UserError

# The bucketed sampler sorts pools of so many updates by length: like lengths together, still another order every epoch.
POOL_UPDATES = 50
# Tokens that rows with windows have in one forward pass, if not a single one of them has more.
WINDOWED_TOKENS = 8_192


@dataclass(frozen=True)
class BatchPlan:
    """How rows are gathered to updates.

    Attributes:
        sampler: `bucketed` (rows of like length together) or `random`.
        rows: rows of an update, where `tokens` is None.
        tokens: tokens of an update, padding counted.
    """

    sampler: Literal["bucketed", "random"]
    rows: int
    tokens: int | None = None


def plan_epoch(plan: BatchPlan, lengths: NDArray[np.int64], *, seed: int, epoch: int) -> list[Rows]:
    """The rows of each update of one epoch; every row once.

    Args:
        lengths: (rows,) tokens of each row.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(lengths))
    if plan.sampler == "random":
        return cut(plan, order, lengths)
    pool = POOL_UPDATES * (plan.rows if plan.tokens is None else max(1, int(plan.tokens / max(1.0, lengths.mean()))))
    pools = [order[begin : begin + pool] for begin in range(0, len(order), pool)]
    updates = [rows for part in pools for rows in cut(plan, part[np.argsort(-lengths[part], kind="stable")], lengths)]
    return [updates[position] for position in generator.permutation(len(updates))]


def cut(plan: BatchPlan, order: Rows, lengths: NDArray[np.int64]) -> list[Rows]:
    """`order` cut into updates of `plan.rows` rows, or of `plan.tokens` tokens with padding (at least one row)."""
    if plan.tokens is None:
        return [order[begin : begin + plan.rows] for begin in range(0, len(order), plan.rows)]
    updates: list[Rows] = []
    begin, longest = 0, 0
    for end, row in enumerate(order):
        longest = max(longest, int(lengths[row]))
        if end > begin and longest * (end + 1 - begin) > plan.tokens:
            updates.append(order[begin:end])
            begin, longest = end, int(lengths[row])
    updates.append(order[begin:])
    return updates


def micro_batches(rows: Rows, encoded: Encoded, *, count: int) -> list[Rows]:
    """One update's rows in `count` parts, rows of like length together; parts are empty where rows are fewer.

    Rows that are read in windows make more parts, as many as a part of bounded size takes.
    """
    lengths = encoded.lengths
    by_length = rows[np.argsort(-lengths[rows], kind="stable")]
    parts = [np.asarray(part, dtype=np.int64) for part in np.array_split(by_length, count)]
    if encoded.first is None:
        return parts
    plan = BatchPlan("random", len(rows), WINDOWED_TOKENS)
    return [piece for part in parts for piece in cut(plan, part, lengths)]


@dataclass(frozen=True)
class Batch:
    """The sequences of some rows for one forward pass, padded to the longest.

    Attributes:
        input_ids, attention_mask: (sequences, length) int64.
        token_type_ids: the same, or None.
        counts: the sequences of each row, or None where each has one.
        labels: the rows' labels as the loss takes them, or None.
        weights: (rows,) float32, or None.
    """

    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor | None
    counts: list[int] | None
    labels: Tensor | None
    weights: Tensor | None

    def inputs(self) -> dict[str, Tensor]:
        """What the network's forward takes."""
        inputs = {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        return inputs if self.token_type_ids is None else inputs | {"token_type_ids": self.token_type_ids}

    def of_rows(self, logits: Tensor) -> Tensor:
        """What each row has on the average of its sequences: (sequences, outputs) -> (rows, outputs)."""
        if self.counts is None:
            return logits
        return torch.stack([part.mean(dim=0) for part in torch.split(logits.float(), self.counts)])


def padding_id(tokenizer: Any, network: Any) -> int:
    """The token that fills up shorter rows: the network's, or else the tokenizer's, of which the network is then told.

    In this order, because a decoder with a head (GPT-2) finds the last token of a row by its own; the others have a mask.

    Raises:
        UserError: neither of them has one.
    """
    known = (getattr(network.config, "pad_token_id", None), tokenizer.pad_token_id)
    found: int | None = next((token for token in known if token is not None and token >= 0), None)
    if found is None:
        raise UserError(
            f"{tokenizer.name_or_path}: neither its config.json nor its tokenizer names a padding token, and rows of a batch "
            "are filled up with one",
            fix="set config.pad_token_id to tokenizer.eos_token_id, or to another one that ends no text, and save it there",
        )
    network.config.pad_token_id = found
    return found


def collate(encoded: Encoded, rows: Sequence[int] | Rows, *, pad_id: int, device: torch.device) -> Batch:
    """`rows` as one padded batch on `device`, shorter rows filled up behind, or in front where `encoded` says so."""
    sequences, counts = np.asarray(rows), None
    if encoded.first is not None:
        begins, ends = encoded.first[sequences], encoded.first[sequences + 1]
        sequences = np.concatenate([np.arange(begin, end) for begin, end in zip(begins, ends, strict=True)])
        counts = (ends - begins).tolist()
    starts = encoded.starts[sequences]
    lengths = encoded.starts[sequences + 1] - starts
    longest = int(lengths.max())
    positions = np.arange(longest)[None, :] - (longest - lengths[:, None] if encoded.fills_front else 0)
    present = (positions >= 0) & (positions < lengths[:, None])
    where = starts[:, None] + np.where(present, positions, 0)

    def padded(flat: NDArray[np.int32] | NDArray[np.uint8], pad: int) -> Tensor:
        return torch.from_numpy(np.where(present, flat[where], pad).astype(np.int64)).to(device, non_blocking=True)

    return Batch(
        padded(encoded.input_ids, pad_id),
        torch.from_numpy(present.astype(np.int64)).to(device, non_blocking=True),
        None if encoded.token_type_ids is None else padded(encoded.token_type_ids, 0),
        counts,
        None if encoded.labels is None else torch.from_numpy(encoded.labels[rows]).to(device, non_blocking=True),
        None if encoded.weights is None else torch.from_numpy(encoded.weights[rows]).to(device, non_blocking=True),
    )
