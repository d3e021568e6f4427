"""The head: mapped from an earlier run by label names, started at the shares of the labels, or at a number's own scale."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kitune.config import TaskName
from kitune.errors import UserError, numbered


def output_layer(network: Any) -> tuple[str, nn.Linear]:
    """The last linear layer outside the encoder, with its name: the one that has an output per label."""
    prefix = network.base_model_prefix + "."
    layers = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear)
        and not name.startswith(prefix)
        and module.out_features == network.config.num_labels
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
    network.num_labels = network.config.num_labels = len(new_names)
    kept = [label for label in new_names if label in positions]
    fresh = [label for label in new_names if label not in positions]
    if not kept:
        return []
    said = f"the head keeps {numbered(len(kept), 'label')} of the earlier run"
    return [
        said + (f" and starts {', '.join(fresh[:5])}{', ...' if len(fresh) > 5 else ''} anew" if fresh else ", by name")
    ]


def start_at_priors(network: Any, task: TaskName, shares: Sequence[float]) -> None:
    """Set a new output layer's bias so that, before the first step, it predicts each label as often as train holds it.

    Saves the steps in which a network only learns how frequent its labels are (Lin et al. 2017, arXiv:1708.02002, section 3.3).

    Args:
        shares: share of each label in train.
    """
    _, layer = output_layer(network)
    if layer.bias is None:
        return
    each = torch.tensor(list(shares), dtype=torch.float64)
    values = each.clamp(min=1e-4).log() if task == "single-label" else each.clamp(1e-4, 1 - 1e-4).logit()
    with torch.no_grad():
        layer.bias.copy_(values)


@dataclass(frozen=True)
class LabelScale:
    """What a regression learns: (label - shift) / unit, because a network's rates and its bf16 suit numbers around 1.

    Its files hold outputs in the labels' own unit. `unit` is a power of two, so that weights which are written and read again
    are the same to the last bit; a bias is not, which `shift` is added to, and is therefore kept beside them.

    Attributes:
        layer: the output layer's name.
        shift: 0 where that layer has no bias.
    """

    layer: str
    shift: float
    unit: float

    @classmethod
    def of(cls, network: Any, labels: NDArray[Any], weights: NDArray[Any] | None) -> "LabelScale":
        """The scale of train's labels, (rows, 1), by the weights of its rows, (rows,): their mean, and the power of two that is
        nearest below their distance from it."""
        name, layer = output_layer(network)
        each = labels[:, 0].astype(np.float64)
        shift = 0.0 if layer.bias is None else float(np.float32(np.average(each, weights=weights)))
        spread = math.sqrt(np.average((each - shift) ** 2, weights=weights))
        return cls(name, shift, 2.0 ** math.floor(math.log2(spread)) if spread > 0 else 1.0)

    @property
    def bias(self) -> str:
        """The name of the output layer's bias."""
        return f"{self.layer}.bias"

    def begin(self, network: Any, *, new: bool) -> None:
        """Let a network whose outputs are in the labels' unit learn; a new head is in none, and starts at their mean."""
        layer = network.get_submodule(self.layer)
        with torch.no_grad():
            if not new:
                layer.weight.div_(self.unit)
            if layer.bias is not None:
                layer.bias.copy_(torch.zeros_like(layer.bias) if new else (layer.bias - self.shift) / self.unit)

    def learned(self, labels: Tensor) -> Tensor:
        """Labels as they are learned."""
        return (labels - self.shift) / self.unit

    def told(self, outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Outputs, (rows, 1), in the labels' unit."""
        return outputs * np.float32(self.unit) + np.float32(self.shift)

    def written(self, name: str, weight: Tensor) -> Tensor:
        """A weight as it is written: of the output layer, in the labels' unit."""
        if name == self.bias:
            return weight * self.unit + self.shift
        return weight * self.unit if name == f"{self.layer}.weight" else weight

    def read(self, name: str, weight: Tensor) -> Tensor:
        """The inverse of `written`, but for the bias."""
        return weight / self.unit if name == f"{self.layer}.weight" else weight
