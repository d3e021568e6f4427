"""A safetensors file written piece by piece: no tensor needs a second copy in memory, and a table may be made as it is written.

Format: https://github.com/huggingface/safetensors#format, the length of a JSON header, the header, the bytes of all tensors.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kitune.training.direct import NewFile

NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Piecewise:
    """A tensor that is written: its shape and type, and its slices in order."""

    shape: Sequence[int]
    dtype: torch.dtype
    slices: Iterable[Tensor]

    @property
    def num_bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def whole(tensor: Tensor) -> Piecewise:
    """A tensor in one slice."""
    return Piecewise(tensor.shape, tensor.dtype, [tensor])


def write_weights(path: Path, tensors: dict[str, Piecewise]) -> None:
    """Write `tensors` by name to a new file that safetensors reads."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, tensor in tensors.items():
        end = begin + tensor.num_bytes
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with NewFile(path) as file:
        file.write(memoryview(len(text).to_bytes(8, "little") + text))
        for tensor in tensors.values():
            for part in tensor.slices:
                file.write(part.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
