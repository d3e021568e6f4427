"""Outputs of a network for every row, in input order, always."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kitune.config import TaskName
from kitune.data.batches import collate
from kitune.data.encode import Encoded
from kitune.data.scratch import scratch_array
from kitune.data.table import Rows
from kitune.metrics import Metrics, Threshold, best_threshold
from kitune.notebook import Block, Grid, Shown
from kitune.tasks import TASKS

# Rows are sorted by length within windows of so many, and cut into micro-batches of so many tokens, padding counted: what
# fits the cache of a CPU core runs faster than what does not, whatever the batch the network was trained with.
WINDOW_ROWS = 8_192
MICRO_BATCH_TOKENS = 2_560
# Micro-batches of more rows have a multiple of it: each number of rows costs oneDNN a set-up for the layers of the head, 2 ms
# and 0.6 MiB, which it keeps.
ROW_STEP = 8
# What a notebook shows of answers.
SHOWN_ROWS, SHOWN_LABELS = 10, 10


class Process(Protocol):
    """One process among others, and where it computes."""

    @property
    def rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def gather(self, values: Sequence[Any]) -> list[Any]: ...


@dataclass(frozen=True)
class Predictions(Shown):
    """A row of outputs for each row that went in, in the same order.

    Attributes:
        logits: (rows, outputs) float32.
        label_names: names of the outputs.
        threshold: probability from which a label of a multi-label task counts; one for all rows, or (rows, 1).
    """

    logits: NDArray[np.float32]
    label_names: tuple[str, ...]
    task: TaskName
    threshold: Threshold = 0.5

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def labels(self) -> list[Any]:
        """The answer for each row: a name, a list of names, or a number."""
        return TASKS[self.task].decode(self.logits, self.label_names, self.threshold)

    def blocks(self) -> list[Block]:
        """The first answers, with the probability of each label."""
        threshold = self.threshold if isinstance(self.threshold, float) else self.threshold[:SHOWN_ROWS]
        head = replace(self, logits=self.logits[:SHOWN_ROWS], threshold=threshold)
        more = [f"and {len(self) - SHOWN_ROWS:,} more"] if len(self) > SHOWN_ROWS else []
        answers = [", ".join(answer) if isinstance(answer, list) else answer for answer in head.labels]
        shares, names = head.probabilities, self.label_names
        if shares is None or len(names) > SHOWN_LABELS:
            return [Grid(("row", "answer"), list(enumerate(answers))), *more]
        rows = [(i, answer, *map(float, shares[i])) for i, answer in enumerate(answers)]
        return [Grid(("row", "answer", *(f"p({name})" for name in names)), rows), *more]

    @property
    def probabilities(self) -> NDArray[np.float64] | None:
        """(rows, outputs); None for a regression."""
        convert = TASKS[self.task].probabilities
        return None if convert is None else convert(self.logits)


def plan_prediction(lengths: NDArray[np.int64], *, begin: int = 0) -> list[Rows]:
    """Rows of each prediction batch. It follows from the rows alone, so that two runs give the same bytes."""
    batches: list[Rows] = []
    for window in range(begin, len(lengths), WINDOW_ROWS):
        rows = np.arange(window, min(window + WINDOW_ROWS, len(lengths)))
        order = rows[np.argsort(-lengths[rows], kind="stable")]
        while len(order):
            count = max(1, MICRO_BATCH_TOKENS // max(1, int(lengths[order[0]])))
            count -= count % ROW_STEP if count > ROW_STEP else 0
            batches.append(order[:count])
            order = order[count:]
    return batches


def outputs(
    network: nn.Module, encoded: Encoded, *, pad_id: int, machine: Process, advance: Callable[[], object] | None = None
) -> NDArray[np.float32]:
    """Logits of every row, (rows, outputs), in input order, on every process; of a row in windows, their mean.

    Args:
        machine: this process among others; the batches are dealt out over them.
        advance: called after each batch of this process, for a bar.
    """
    was_training, sequences = network.training, encoded.sequences()

    def forwarded() -> Iterator[tuple[Rows, NDArray[np.float32]]]:
        for rows in plan_prediction(sequences.lengths)[machine.rank :: machine.world_size]:
            batch = collate(sequences, rows, pad_id=pad_id, device=machine.device)
            yield rows, network(**batch.inputs()).logits.float().cpu().numpy()
            if advance is not None:
                advance()

    result: NDArray[np.float32] = np.empty((len(sequences), 0), dtype=np.float32)
    network.eval()
    with torch.inference_mode(), ExitStack() as mapped:
        for rows, logits in forwarded() if machine.world_size == 1 else machine.gather(list(forwarded())):
            if not result.size:  # large ones lie in a file that is mapped as long as somebody looks at it
                result = mapped.enter_context(scratch_array((len(sequences), logits.shape[1]), np.float32))
            result[rows] = logits
    network.train(was_training)
    return encoded.of_rows(result)


Labels: TypeAlias = NDArray[np.int64] | NDArray[np.float32]


def score(task: TaskName, logits: NDArray[np.float32], labels: Labels, *, threshold: float = 0.5) -> Metrics:
    """The loss (mean over rows, unweighted) and the metrics of `task`.

    Args:
        logits: (rows, outputs).
        labels: as `label_array` gives them.
        threshold: probability from which a label of a multi-label task counts.
    """
    row = TASKS[task]
    loss = row.loss(torch.from_numpy(logits), torch.from_numpy(labels)) / max(1, len(logits))
    told = {"threshold": threshold} if task == "multi-label" else {}
    return {"loss": float(loss), **row.metrics(logits, labels, **told)}


def threshold_of(task: TaskName, logits: NDArray[np.float32], labels: Labels) -> float:
    """From which probability a label counts: tuned on these rows where labels are many, 0.5 elsewhere."""
    return best_threshold(logits, labels.astype(np.float32)) if task == "multi-label" else 0.5
