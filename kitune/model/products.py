"""The matrix products of the packed path: torch's, and in bf16 on processors with tile registers (AMX) our own.

oneDNN prepares its products anew for each number of tokens and keeps them; ours need no preparation, share out every shape
between the threads, and let bias and GELU ride along.
"""

from typing import Protocol

import torch
from torch import Tensor

from kitune.model.families import Layer, Matrix
from kitune.model.kernels import Kernels


class Products(Protocol):
    """Products of activations, (tokens, width) with a multiple of 32 tokens, and weights, (out, in)."""

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
        """`out` = x weight.T + bias."""

    def forward_gelu(self, tokens: int, x: Tensor, layer: Layer, slope: Tensor, out: Tensor, *, learns: bool) -> None:
        """`out` = gelu(x up.T + bias) of the first `tokens` rows at least, and `slope`, which backward needs, GELU's there."""

    def backward(self, dout: Tensor, weight: Tensor, dx: Tensor) -> None:
        """`dx` = dout weight."""

    def gradient(self, dout_t: Tensor, x: Tensor, matrix: Matrix, *, writes: bool) -> None:
        """Add `dout_t` x, (out, in), to a matrix's gradient, or write it there in an update's first pass.

        The transposed operand lies ready, because reading it across takes twice as long.
        """


class TorchProducts:
    """oneDNN's and MKL's products, which torch calls."""

    def __init__(self, kernels: Kernels, dtype: torch.dtype) -> None:
        self.kernels, self.dtype = kernels, dtype
        self._part = torch.empty(0, dtype=dtype)

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
        if bias is None:
            torch.mm(x, weight.t(), out=out)
        else:
            torch.addmm(bias, x, weight.t(), out=out)

    def forward_gelu(self, tokens: int, x: Tensor, layer: Layer, slope: Tensor, out: Tensor, *, learns: bool) -> None:
        torch.mm(x, layer.up.weight.t(), out=slope)
        self.kernels.call("gelu", self.dtype, tokens, out.shape[1], slope, layer.up_bias.value, out, int(learns))

    def backward(self, dout: Tensor, weight: Tensor, dx: Tensor) -> None:
        torch.mm(dout, weight, out=dx)

    def gradient(self, dout_t: Tensor, x: Tensor, matrix: Matrix, *, writes: bool) -> None:
        gradient = matrix.gradient
        assert gradient is not None
        if writes:
            torch.mm(dout_t, x, out=gradient if matrix.low_gradient is None else matrix.low_gradient)
        elif self.dtype == torch.float32:
            torch.addmm(gradient, dout_t, x, out=gradient)
        else:
            if self._part.numel() < gradient.numel():
                self._part = torch.empty(gradient.numel(), dtype=self.dtype)
            part = self._part[: gradient.numel()].view(gradient.shape)
            torch.mm(dout_t, x, out=part)
            self.kernels.call("add_gradient", self.dtype, gradient.numel(), part, gradient)


class TileProducts:
    """Products of bf16 in tile registers, by the kernels."""

    def __init__(self, kernels: Kernels) -> None:
        self.kernels = kernels

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
        rows, depth = x.shape
        self.kernels.call("product", torch.bfloat16, rows, len(weight), depth, x, weight, 1, bias, out)

    def forward_gelu(self, tokens: int, x: Tensor, layer: Layer, slope: Tensor, out: Tensor, *, learns: bool) -> None:
        (rows, depth), columns = x.shape, out.shape[1]
        kept = slope if learns else None
        self.kernels.call(
            "product_gelu", torch.bfloat16, rows, columns, depth, x, layer.up.weight, layer.up_bias.value, kept, out
        )

    def backward(self, dout: Tensor, weight: Tensor, dx: Tensor) -> None:
        rows, depth = dout.shape
        columns = weight.shape[1]
        self.kernels.call("product", torch.bfloat16, rows, columns, depth, dout, weight, 0, None, dx)

    def gradient(self, dout_t: Tensor, x: Tensor, matrix: Matrix, *, writes: bool) -> None:
        rows, depth = dout_t.shape
        columns = x.shape[1]
        low = matrix.low_gradient if writes else None
        if low is not None:
            self.kernels.call("product", torch.bfloat16, rows, columns, depth, dout_t, x, 0, None, low)
        else:
            out, adds = matrix.gradient, int(not writes)
            self.kernels.call("product_fp32", torch.bfloat16, rows, columns, depth, dout_t, x, adds, out)


def products_for(kernels: Kernels, dtype: torch.dtype) -> Products:
    """The faster products that this processor has in `dtype`."""
    if dtype == torch.bfloat16 and kernels.has_tiles:
        return TileProducts(kernels)
    return TorchProducts(kernels, dtype)
