"""The most that this machine multiplies: the floor under a training's time.

`python bench/peak.py` prints it, shape by shape.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from machine import device, fast_bf16

# (rows, in, out): the layers of the models trained here at 16 to 64 texts of 64 tokens, and a square that flatters the
# machine most.
SHAPES = ((1024, 384, 1536), (1024, 1536, 384), (4096, 384, 1536), (4096, 1536, 384), (2048, 2048, 2048))
REPEATS, CALLS = 5, 10


def gemm_peak() -> dict[str, Any]:
    """The fastest linear layer of SHAPES, in the precision that the machine is fast at; all of it takes about a second.

    Returns:
        `peak_gflops` of the best, `peak_precision`, and every shape's figure.
    """
    dtype = torch.bfloat16 if fast_bf16() else torch.float32
    figures = {"x".join(map(str, shape)): linear_gflops(*shape, dtype=dtype) for shape in SHAPES}
    return {
        "peak_gflops": max(figures.values()),
        "peak_precision": str(dtype).removeprefix("torch."),
        "gflops_by_shape": {shape: round(value) for shape, value in figures.items()},
    }


def linear_gflops(rows: int, width: int, outputs: int, *, dtype: torch.dtype) -> float:
    """Billions of floating-point operations a second of `F.linear`, the best of a few repeats."""
    inputs = torch.randn(rows, width, device=device()).to(dtype)
    weight = torch.randn(outputs, width, device=device()).to(dtype)
    with torch.inference_mode():
        seconds = best_seconds(lambda: torch.nn.functional.linear(inputs, weight))
    return 2 * rows * width * outputs / seconds / 1e9


def best_seconds(call: Callable[[], object]) -> float:
    """Of one call, in the best of REPEATS rounds of CALLS."""
    best = float("inf")
    for _ in range(REPEATS + 1):  # the first round warms up
        settle()
        began = time.perf_counter()
        for _ in range(CALLS):
            call()
        settle()
        best = min(best, (time.perf_counter() - began) / CALLS)
    return best


def settle() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    print(gemm_peak())
