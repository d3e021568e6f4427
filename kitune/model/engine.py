"""Which fast pieces a network gets: the one place where they are chosen, and where it is said why not."""

from typing import Any

import torch

from kitune.config import EngineOptions
from kitune.model.families import Store, fits
from kitune.model.kernels import SUFFIX, Kernels, kernels, why_not
from kitune.model.packed import use_packed
from kitune.model.unpadded import suits, use_unpadded


def kernels_for(options: EngineOptions, *, dtype: torch.dtype, device: torch.device, threads: int) -> Kernels | None:
    """The compiled kernels, where they are wanted, serve the device and the precision, and can be built."""
    if options.plain or device.type != "cpu" or dtype not in SUFFIX:
        return None
    found = kernels()
    return None if found is None else found.with_threads(threads)


def speed_up(
    network: Any,
    options: EngineOptions,
    *,
    kernels: Kernels | None,
    dtype: torch.dtype,
    store: Store,
) -> str | None:
    """Let the network take the fast path of where it computes; the reason where it cannot, unless that was asked for.

    Args:
        kernels: as `kernels_for` gave them.
        dtype: of activations and matrices.
        store: where the weights and their gradients lie.
    """
    if options.plain:
        return None
    device = next(network.parameters()).device.type
    if device not in ("cpu", "cuda") or (device == "cuda" and dtype == torch.float32):
        return None  # FlashAttention has no fp32: nothing would be gained
    if options.gradient_checkpointing:
        reason: str | None = "engine.gradient_checkpointing was asked for"
    elif device == "cuda":
        reason = suits(network)
        if reason is None:
            use_unpadded(network)
            return None
    elif dtype not in SUFFIX:
        reason = "there is no other in fp16 on a CPU"
    elif kernels is None:
        reason = why_not()
    else:
        reason = fits(network)
        if reason is None:
            use_packed(network, kernels, dtype=dtype, store=store)
            return None
    return f"the slower plain path is taken: {reason}"


def slow_down(network: Any) -> None:
    """Give the network its own forward back: a fast one refers to the network, whose memory would wait for the collector."""
    vars(network.base_model).pop("forward", None)
