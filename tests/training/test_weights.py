from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from kitune.training.weights import Piecewise, whole, write_weights


def test_safetensors_reads_what_is_written(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {
        "matrix": torch.randn(7, 5),
        "across": torch.randn(5, 7).t(),
        "scalar": torch.tensor(3.0),
        "empty": torch.empty(0, 4),
        "counts": torch.arange(3),
        "half": torch.randn(3).half(),
        "rounded": torch.randn(3).bfloat16(),
        "名前": torch.tensor([True, False]),
    }
    write_weights(tmp_path / "weights", {name: whole(tensor) for name, tensor in tensors.items()})
    read = load_file(tmp_path / "weights")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(read[name], tensor)
        assert read[name].dtype == tensor.dtype
    with safe_open(tmp_path / "weights", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_table_may_be_made_slice_by_slice(tmp_path: Path) -> None:
    table = torch.randn(10, 3)
    slices = (table[begin : begin + 4] for begin in range(0, 10, 4))
    write_weights(tmp_path / "weights", {"table": Piecewise((10, 3), torch.float32, slices), "one": whole(table[0])})
    read = load_file(tmp_path / "weights")
    assert torch.equal(read["table"], table)
    assert torch.equal(read["one"], table[0])
