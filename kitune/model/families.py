"""Where each family of encoders keeps the weights of a layer, as the packed path reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

WIDTH_STEP = 32  # of all widths, because the kernels take 32 numbers at a time


@dataclass(frozen=True)
class Family:
    """Where a family of encoders keeps the parts of a layer, below the base model.

    Attributes:
        positions_from_padding: position ids count from the padding id + 1, as RoBERTa's do.
        drops_attention_output: what attention gives is dropped from too before it is added, as in all but DistilBERT.
    """

    layers: str
    attention: tuple[str, str, str, str]
    attention_norm: str
    up: str
    down: str
    norm: str
    hidden_dropout: str
    attention_dropout: str
    activation: str
    positions_from_padding: bool = False
    drops_attention_output: bool = True


BERT = Family(
    "encoder.layer",
    ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"),
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "hidden_act",
)
ROBERTA = Family(**{**vars(BERT), "positions_from_padding": True})
DISTILBERT = Family(
    "transformer.layer",
    ("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"),
    "sa_layer_norm",
    "ffn.lin1",
    "ffn.lin2",
    "output_layer_norm",
    "dropout",
    "attention_dropout",
    "activation",
    drops_attention_output=False,
)
FAMILIES = {
    "bert": BERT,
    "electra": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "camembert": ROBERTA,
    "distilbert": DISTILBERT,
}


def fits(network: Any) -> str | None:
    """Why this network cannot take the packed path; None where it can."""
    config, encoder = network.config, network.base_model
    family = FAMILIES.get(config.model_type)
    if family is None:
        return f"{config.model_type} models have no packed path yet"
    if getattr(config, family.activation) != "gelu":
        return f"its activation is {getattr(config, family.activation)}"
    if getattr(config, "is_decoder", False):
        return "it is a decoder"
    if hasattr(encoder, "embeddings_project"):
        return "its embeddings are narrower than its layers"
    widths = {config.hidden_size, encoder.get_submodule(family.layers)[0].get_submodule(family.up).out_features}
    if any(width % WIDTH_STEP for width in widths) or config.hidden_size // config.num_attention_heads % 16:
        return "its widths are no multiples of 32, or its heads' none of 16"
    if len({parameter.requires_grad for parameter in encoder.parameters()}) > 1:
        return "some of its weights are frozen"
    return None


class Store(Protocol):
    """Where the weights of an encoder lie, and the gradients that its backward writes."""

    def master_of(self, parameter: nn.Parameter) -> Tensor:
        """The fp32 values of a parameter."""

    def low_gradient_of(self, parameter: nn.Parameter) -> Tensor | None:
        """Where the only pass of an update writes a matrix's gradient in low precision; None where it writes fp32."""

    def hand_over(self, parameters: Sequence[nn.Parameter]) -> None:
        """Matrices whose gradients the first pass of an update writes, instead of adding to zeros."""

    def begin_pass(self) -> bool:
        """A backward begins; whether it is the first of its update."""


class OwnWeights:
    """The store of a network that only answers: its own weights, and no gradients."""

    def master_of(self, parameter: nn.Parameter) -> Tensor:
        return parameter.detach().float()

    def low_gradient_of(self, parameter: nn.Parameter) -> Tensor | None:
        return None

    def hand_over(self, parameters: Sequence[nn.Parameter]) -> None:
        pass

    def begin_pass(self) -> bool:
        raise RuntimeError("this network learns nothing")


@dataclass(frozen=True)
class Matrix:
    """A weight matrix as the products take it, and where its gradient gathers.

    Attributes:
        weight: (out, in), in the type that products are computed in.
        bias: (out,), in that type too.
        gradient: (out, in) fp32, or None where nothing is learned.
        low_gradient: (out, in) in that type, where one pass alone makes an update; None where that is fp32.
        bias_gradient: (out,) fp32.
    """

    weight: Tensor
    bias: Tensor
    gradient: Tensor | None
    low_gradient: Tensor | None
    bias_gradient: Tensor | None

    def __getitem__(self, rows: slice) -> "Matrix":
        """Some of its outputs."""
        return Matrix(
            self.weight[rows],
            self.bias[rows],
            None if self.gradient is None else self.gradient[rows],
            None if self.low_gradient is None else self.low_gradient[rows],
            None if self.bias_gradient is None else self.bias_gradient[rows],
        )


@dataclass(frozen=True)
class Vector:
    """An fp32 vector, table or bias that the kernels read, and its gradient."""

    value: Tensor
    gradient: Tensor | None


@dataclass(frozen=True)
class Norm:
    """A LayerNorm, with the bias of the matrix before it, which the same kernel adds."""

    gamma: Vector
    beta: Vector
    bias: Vector | None
    epsilon: float


@dataclass(frozen=True)
class Layer:
    """The weights of one layer; `qkv` are three matrices in one."""

    qkv: Matrix
    out: Matrix
    attention_norm: Norm
    up: Matrix
    up_bias: Vector
    down: Matrix
    norm: Norm


def layer_of(layer: Any, family: Family, dtype: torch.dtype, store: Store) -> Layer:
    """The weights of one layer."""
    query, key, value, out = (layer.get_submodule(name) for name in family.attention)
    up, down = layer.get_submodule(family.up), layer.get_submodule(family.down)
    return Layer(
        matrix_of([query, key, value], dtype, store),
        matrix_of([out], dtype, store),
        norm_of(layer.get_submodule(family.attention_norm), out, store),
        matrix_of([up], dtype, store),
        vector_of(up.bias, store),
        matrix_of([down], dtype, store),
        norm_of(layer.get_submodule(family.norm), down, store),
    )


def norm_of(norm: Any, before: Any, store: Store) -> Norm:
    """A LayerNorm with the bias of the linear module before it."""
    bias = None if before is None else vector_of(before.bias, store)
    return Norm(vector_of(norm.weight, store), vector_of(norm.bias, store), bias, float(norm.eps))


def vector_of(parameter: nn.Parameter, store: Store) -> Vector:
    """A parameter in fp32, and its gradient where it has one."""
    return Vector(store.master_of(parameter), parameter.grad)


def matrix_of(linears: Sequence[nn.Linear], dtype: torch.dtype, store: Store) -> Matrix:
    """One or more linear modules of equal input as one matrix: a view where their weights lie side by side."""
    weights: list[Any] = [linear.weight for linear in linears]
    biases = [linear.bias for linear in linears]
    learns = weights[0].grad is not None
    low = [store.low_gradient_of(weight) for weight in weights]
    return Matrix(
        side_by_side([weight.detach().to(dtype) for weight in weights]),
        side_by_side([bias.detach().to(dtype) for bias in biases]),
        one_view([weight.grad for weight in weights]) if learns else None,
        one_view(low) if low[0] is not None else None,
        one_view([bias.grad for bias in biases]) if learns else None,
    )


def side_by_side(parts: Sequence[Tensor]) -> Tensor:
    """The parts behind one another along the first dimension, without a copy where they lie so in memory."""
    first = parts[0]
    at = first.data_ptr()
    for part in parts:
        if part.data_ptr() != at or part.untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
            return torch.cat(list(parts))
        at += part.numel() * part.element_size()
    shape = (sum(len(part) for part in parts), *first.shape[1:])
    return first.as_strided(shape, first.stride())


def one_view(parts: Sequence[Tensor | None]) -> Tensor:
    """The parts behind one another, which is where a gradient is to be written: no copy would do."""
    there = [part for part in parts if part is not None]
    joined = side_by_side(there)
    assert joined.data_ptr() == there[0].data_ptr()  # the slots of a layer's parameters follow each other
    return joined
