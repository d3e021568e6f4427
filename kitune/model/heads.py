"""The classification head: mapped from an earlier run by label names, or started at the shares of the labels."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from kitune.config import TaskName
from kitune.errors import UserError, numbered


def output_layer(network: Any) -> tuple[str, nn.Linear]:
    """The last linear layer outside the encoder, with its name: the one that has an output per label."""
    prefix = network.base_model_prefix + "."
    layers = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(prefix) and module.out_features == network.num_labels
    ]
    if not layers:
        raise UserError(
            f"a {type(network).__name__} has no linear output layer that kitune knows", fix="choose another encoder"
        )
    return layers[-1]


def above_encoder(network: nn.Module, name: str) -> bool:
    """Whether a parameter lies above the layers of the network's encoder: in its head, or in the pooler below that."""
    prefix = getattr(network, "base_model_prefix", "")
    return bool(prefix) and (not name.startswith(f"{prefix}.") or name.startswith(f"{prefix}.pooler."))


def map_head(network: Any, old_names: Sequence[str], new_names: Sequence[str], seed: int) -> list[str]:
    """Replace the output layer by one for `new_names`: rows of names that both have are kept, the others start anew.

    Returns:
        The sentence that says what was kept, where anything was.
    """
    name, old = output_layer(network)
    generator = torch.Generator().manual_seed(seed)
    new = nn.Linear(old.in_features, len(new_names), bias=old.bias is not None)
    spread = float(getattr(network.config, "initializer_range", 0.02))
    positions = {label: i for i, label in enumerate(old_names)}
    with torch.no_grad():
        new.weight.normal_(0.0, spread, generator=generator)
        if new.bias is not None:
            new.bias.zero_()
        for row, label in enumerate(new_names):
            if label in positions:
                new.weight[row] = old.weight[positions[label]]
                if new.bias is not None:
                    new.bias[row] = old.bias[positions[label]]
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, new)
    network.num_labels = len(new_names)
    kept = [label for label in new_names if label in positions]
    fresh = [label for label in new_names if label not in positions]
    if not kept:
        return []
    said = f"the head keeps {numbered(len(kept), 'label')} of the earlier run"
    return [
        said + (f" and starts {', '.join(fresh[:5])}{', ...' if len(fresh) > 5 else ''} anew" if fresh else ", by name")
    ]


def start_at_priors(network: Any, task: TaskName, shares: Sequence[float]) -> None:
    """Set a new output layer's bias so that, before the first step, it predicts what train holds on average.

    Saves the steps in which a network only learns how frequent its labels are (Lin et al. 2017, arXiv:1708.02002, section 3.3).

    Args:
        shares: share of each label in train, or the mean score of a regression.
    """
    _, layer = output_layer(network)
    if layer.bias is None:
        return
    values = torch.tensor(list(shares), dtype=torch.float64)
    if task == "single-label":
        values = values.clamp(min=1e-4).log()
    elif task == "multi-label":
        values = values.clamp(1e-4, 1 - 1e-4).logit()
    with torch.no_grad():
        layer.bias.copy_(values)
