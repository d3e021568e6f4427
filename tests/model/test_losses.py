from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from kitune.model.losses import (
    binary_cross_entropy_sum,
    cross_entropy_sum,
    squared_error_sum,
    target_weight_sum,
)
from kitune.tasks import TASKS


def some(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


LABELS = torch.tensor([0, 1, 2, 2, 1, 0, 2, 2, 2])
CLASS_WEIGHTS = torch.tensor([0.5, 1.0, 3.0])


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("class_weights", [None, CLASS_WEIGHTS], ids=["equal", "weighted"])
def test_sum_over_denominator_is_torchs_mean_cross_entropy(smoothing: float, class_weights: Tensor | None) -> None:
    logits = some(0, 9, 3)
    total = cross_entropy_sum(logits, LABELS, class_weights=class_weights, label_smoothing=smoothing)
    mean = F.cross_entropy(logits, LABELS, weight=class_weights, label_smoothing=smoothing)
    torch.testing.assert_close(total / target_weight_sum(LABELS, None, class_weights), mean, rtol=1e-6, atol=0)


@pytest.mark.parametrize("task", ["single-label", "multi-label", "regression"])
def test_the_mean_over_rows_is_the_loss_of_transformers(tiny_model: Path, task: str) -> None:
    row = TASKS[task]  # type: ignore[index]
    outputs = 1 if task == "regression" else 3
    network: Any = AutoModelForSequenceClassification.from_pretrained(
        tiny_model, num_labels=outputs, problem_type=row.problem_type
    ).eval()
    labels = {
        "single-label": LABELS,
        "multi-label": (some(1, 9, 3) > 0).float(),
        "regression": some(1, 9, 1),
    }[task]
    ids = torch.randint(5, 60, (9, 12), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        result = network(input_ids=ids, labels=labels)
    torch.testing.assert_close(row.loss(result.logits, labels) / 9, result.loss, rtol=1e-6, atol=0)


LOSSES: dict[str, tuple[Any, Tensor, Tensor]] = {
    "cross-entropy": (cross_entropy_sum, some(0, 9, 3), LABELS),
    "weighted and smoothed": (
        partial(cross_entropy_sum, class_weights=CLASS_WEIGHTS, label_smoothing=0.1),
        some(0, 9, 3),
        LABELS,
    ),
    "binary": (binary_cross_entropy_sum, some(0, 9, 4), (some(1, 9, 4) > 0).float()),
    "squared": (squared_error_sum, some(0, 9, 1), some(1, 9, 1)),
}
ROW_WEIGHTS = torch.tensor([0.0, 1.0, 2.0, 0.5, 1.0, 1.0, 3.0, 0.25, 1.0])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("weights", [None, ROW_WEIGHTS], ids=["equal", "weighted"])
@pytest.mark.parametrize("parts", [[9], [4, 5], [1, 2, 6], [1] * 9])
def test_a_loss_adds_up_over_any_parts_of_the_rows(name: str, weights: Tensor | None, parts: list[int]) -> None:
    loss, logits, labels = LOSSES[name]
    whole = loss(logits, labels, weights)
    ends = [*accumulate(parts)]
    slices = [slice(end - size, end) for end, size in zip(ends, parts, strict=True)]
    summed = sum(loss(logits[part], labels[part], None if weights is None else weights[part]) for part in slices)
    torch.testing.assert_close(summed, whole, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_a_row_of_weight_two_counts_as_two_rows_and_one_of_weight_zero_as_none(name: str) -> None:
    loss, logits, labels = LOSSES[name]
    counts = torch.tensor([2, 0, 1, 3, 1, 1, 0, 1, 2])
    repeated = torch.repeat_interleave(torch.arange(9), counts)
    torch.testing.assert_close(
        loss(logits, labels, counts.float()), loss(logits[repeated], labels[repeated]), rtol=1e-6, atol=0
    )
    if labels.ndim == 1:
        assert target_weight_sum(labels, counts.float(), CLASS_WEIGHTS) == pytest.approx(
            target_weight_sum(labels[repeated], None, CLASS_WEIGHTS)
        )


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_low_precision_logits_are_summed_in_fp32(name: str) -> None:
    loss, logits, labels = LOSSES[name]
    total = loss(logits.bfloat16(), labels)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, loss(logits.bfloat16().float(), labels))


def test_the_denominator_is_the_rows_their_weights_or_their_classes() -> None:
    assert target_weight_sum(LABELS, None, None) == 9
    assert target_weight_sum(LABELS, ROW_WEIGHTS, None) == pytest.approx(9.75)
    assert target_weight_sum(LABELS, None, CLASS_WEIGHTS) == pytest.approx(2 * 0.5 + 2 * 1 + 5 * 3)
    assert target_weight_sum(LABELS, ROW_WEIGHTS, CLASS_WEIGHTS) == pytest.approx(
        float((ROW_WEIGHTS * CLASS_WEIGHTS[LABELS]).sum())
    )
