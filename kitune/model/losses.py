"""Losses as sums over rows: the engine divides once per update, over all micro-batches and processes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kitune.model.heads import LabelScale


def cross_entropy_sum(
    logits: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    *,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Summed cross-entropy of single-label rows.

    Args:
        logits: (rows, classes).
        labels: (rows,) positions.
        weights: (rows,) weight of each row, or None.
        class_weights: (classes,), or None.
        label_smoothing: share of the target that is spread over all classes.

    Returns:
        Scalar in fp32. Divided by `target_weight_sum` of the same rows it equals
        `F.cross_entropy(..., reduction="mean")` for rows of equal weight.

    Source: label smoothing as Szegedy et al. 2016, arXiv:1512.00567, section 7.
    """
    losses = F.cross_entropy(
        logits.float(), labels, weight=class_weights, label_smoothing=label_smoothing, reduction="none"
    )
    return losses.sum() if weights is None else (losses * weights).sum()


def binary_cross_entropy_sum(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Summed binary cross-entropy of multi-label rows: logits and labels (rows, labels); the mean of a row over its labels."""
    losses = F.binary_cross_entropy_with_logits(logits.float(), labels, reduction="none").mean(dim=1)
    return losses.sum() if weights is None else (losses * weights).sum()


def squared_error_sum(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, *, scale: LabelScale | None = None
) -> Tensor:
    """Summed squared error of regression rows: logits and labels (rows, 1).

    Args:
        scale: in which the labels are learned.
    """
    losses = (logits.float() - (labels if scale is None else scale.learned(labels))).square().mean(dim=1)
    return losses.sum() if weights is None else (losses * weights).sum()


def target_weight_sum(labels: Tensor, weights: Tensor | None, class_weights: Tensor | None) -> float:
    """The rows' weights together, times their classes' in a single-label task."""
    each = torch.ones(len(labels)) if weights is None else weights
    if class_weights is not None:
        each = each * class_weights[labels]
    return float(each.double().sum())
