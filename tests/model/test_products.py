"""Matrix products in tile registers against torch's, over shapes that cut them into rows, panels and groups differently."""

import pytest
import torch
import torch.nn.functional as F

from kitune.model.kernels import Kernels, kernels
from kitune.model.memory import zeros

BF16 = torch.bfloat16
SHAPES = [  # rows, depth, columns
    (32, 32, 32),
    (96, 64, 160),
    (64, 384, 1536),
    (64, 1024, 96),  # rows 2 KiB apart
    (32, 4096, 320),  # four panels of 256 KiB are a group
    (832, 96, 64),
]


@pytest.fixture(params=[1, 2, 3])
def tiles(request: pytest.FixtureRequest) -> Kernels:
    found = kernels()
    if found is None or not found.has_tiles:
        pytest.skip("no compiler or no tile registers here")
    found.threads = request.param
    return found


@pytest.mark.parametrize(("rows", "depth", "columns"), SHAPES)
@pytest.mark.parametrize("across", [True, False])
def test_products_are_torch_s(tiles: Kernels, rows: int, depth: int, columns: int, across: bool) -> None:
    torch.manual_seed(0)
    a, b, bias = torch.randn(rows, depth).to(BF16), torch.randn(depth, columns).to(BF16), torch.randn(columns).to(BF16)
    laid = b.t().contiguous() if across else b
    exact = a.float() @ b.float()
    out = torch.full((rows, columns), torch.nan, dtype=BF16)
    tiles.call("product", BF16, rows, columns, depth, a, laid, int(across), bias, out)
    torch.testing.assert_close(out.float(), exact + bias.float(), rtol=2**-8, atol=1e-3)
    tiles.call("product", BF16, rows, columns, depth, a, laid, int(across), None, out)
    torch.testing.assert_close(out.float(), exact, rtol=2**-8, atol=1e-3)
    if across:
        weight_bias, slope = torch.randn(columns), torch.full_like(out, torch.nan)
        tiles.call("product_gelu", BF16, rows, columns, depth, a, laid, weight_bias, slope, out)
        inner = (exact + weight_bias).requires_grad_()
        value = F.gelu(inner)
        (derivative,) = torch.autograd.grad(value.sum(), inner)
        torch.testing.assert_close(out.float(), value.detach(), rtol=2**-8, atol=2e-3)
        torch.testing.assert_close(slope.float(), derivative, rtol=2**-8, atol=2e-3)
    else:
        total = torch.ones(rows, columns)
        tiles.call("product_fp32", BF16, rows, columns, depth, a, b, 1, total)
        torch.testing.assert_close(total, exact + 1, rtol=1e-5, atol=2e-3)
        tiles.call("product_fp32", BF16, rows, columns, depth, a, b, 0, total)
        torch.testing.assert_close(total, exact, rtol=1e-5, atol=2e-3)


def test_the_number_of_threads_changes_no_bit() -> None:
    found = kernels()
    if found is None or not found.has_tiles:
        pytest.skip("no compiler or no tile registers here")
    torch.manual_seed(0)
    a, b = torch.randn(96, 832).to(BF16), torch.randn(832, 352).to(BF16)
    seen = []
    for threads in (1, 2, 4):
        found.threads = threads
        out = torch.zeros(96, 352)
        found.call("product_fp32", BF16, 96, 352, 832, a, b, 0, out)
        seen.append(out)
    assert all(torch.equal(out, seen[0]) for out in seen)


def test_zeros_take_memory_only_where_they_are_written_to() -> None:
    def resident() -> int:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * 4096

    before = resident()
    made = zeros(100_000_000, torch.float32)
    assert resident() - before < 50_000_000
    assert made.data_ptr() % 4096 == 0
    assert float(made[12_345_678:12_345_700].sum()) == 0.0
    assert zeros(0, torch.float32).shape == (0,)
