"""Memory for activations, weights and gradients: aligned for vectors, and taken only where it is written to."""

import ctypes
import mmap
from contextlib import suppress

import torch
from torch import Tensor

# Every parameter begins at a multiple of so many bytes, in fresh and resumed runs alike: what oneDNN and MKL compute
# moves in the last bit with the alignment of their operands.
ALIGNMENT_BYTES = 64
HUGE_BYTES = 1 << 24  # memory of this size and more is asked for in pages of 2 MiB, which come faster


def give_back() -> None:
    """Return to the system what was freed but is kept by Arrow and the C library for more of the same.

    Reading and examining 100,000 rows leave 70 MiB so, on top of which a training would take its own.
    """
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    with suppress(AttributeError, OSError, TypeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def zeros(size: int, dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
    """(size,) zeros, aligned to a page or more.

    On a CPU pages that nobody writes to take no memory, where torch.zeros writes all of them.
    """
    if device is not None and device.type != "cpu":
        return torch.zeros(size, dtype=dtype, device=device)
    # On Windows there are no flags, and no need of them.
    flags = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}
    pages = mmap.mmap(-1, max(1, size) * dtype.itemsize, **flags)
    if len(pages) >= HUGE_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            pages.madvise(mmap.MADV_HUGEPAGE)
    with torch.inference_mode(False):  # what is made under it may not be written to by a training later
        return torch.frombuffer(pages, dtype=dtype, count=size) if size else torch.zeros(0, dtype=dtype)
