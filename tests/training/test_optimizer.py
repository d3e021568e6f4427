import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from kitune.config import TrainOptions
from kitune.model.kernels import kernels
from kitune.model.memory import ALIGNMENT_BYTES
from kitune.training.optimizer import FlatAdamW

CPU = torch.device("cpu")
OPTIONS = TrainOptions(weight_decay=0.1, beta1=0.85, beta2=0.98, epsilon=1e-6)


def small_network(seed: int = 0, *, frozen: torch.dtype = torch.float32, width: int = 13) -> nn.Sequential:
    """An embedding, a norm, a frozen layer, and sizes that no power of two divides."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Embedding(11, width),
        nn.Linear(width, width),
        nn.LayerNorm(width),
        nn.Linear(width, width).to(frozen),
        nn.Linear(width, width, bias=False),
    )
    network[3].requires_grad_(False)
    return network


def loss_of(network: nn.Module, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(0, 11, (4, 6), generator=generator)
    output: Tensor = network(ids)
    return output.float().square().mean() + output.float().mean()


def rate_at(step: int) -> float:
    return 1e-3 * (1 + step % 7)


def train(network: nn.Module, optimizer: FlatAdamW, steps: range) -> None:
    for step in steps:
        optimizer.zero_gradient()
        torch.autograd.backward(loss_of(network, step))
        optimizer.step(rate_at(step))


def reference(network: nn.Module, *, fused: bool) -> torch.optim.AdamW:
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": OPTIONS.weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(OPTIONS.beta1, OPTIONS.beta2), eps=OPTIONS.epsilon, fused=fused)


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def train_by_torch(network: nn.Module, *, fused: bool) -> None:
    adamw = reference(network, fused=fused)
    for step in range(20):
        adamw.zero_grad()
        torch.autograd.backward(loss_of(network, step))
        for group in adamw.param_groups:
            group["lr"] = rate_at(step)
        adamw.step()


def test_twenty_steps_are_those_of_fused_adamw_to_the_last_bit() -> None:
    # Of a width that the vector units divide: torch's scalar code for what is left over rounds differently.
    ours, theirs = small_network(width=16), small_network(width=16)
    optimizer = FlatAdamW(ours, OPTIONS, dtype=torch.float32, device=CPU)
    train(ours, optimizer, range(20))
    train_by_torch(theirs, fused=True)
    assert optimizer.step_count == 20
    assert same_weights(ours, theirs)
    assert not same_weights(ours, small_network(width=16))


@pytest.mark.parametrize("fused", [True, False])
def test_twenty_steps_are_those_of_adamw_to_rounding(fused: bool) -> None:
    ours, theirs = small_network(), small_network()
    train(ours, FlatAdamW(ours, OPTIONS, dtype=torch.float32, device=CPU), range(20))
    train_by_torch(theirs, fused=fused)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-7, atol=1e-7)


class Classifier(nn.Module):
    """An encoder with a pooler, and a head above it, named as transformers names them."""

    base_model_prefix = "encoder"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.ModuleDict({"layer": nn.Linear(16, 16), "pooler": nn.Linear(16, 16)})
        self.classifier = nn.Linear(16, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.classifier(self.encoder["pooler"](self.encoder["layer"](inputs).tanh()).tanh())
        return output


@pytest.mark.parametrize("decay", [0.1, 0.0])
def test_pooler_and_head_learn_at_their_own_rate(decay: float) -> None:
    """As torch's AdamW with a group for them."""
    options = OPTIONS.model_copy(update={"head_rate": 3.0, "weight_decay": decay})
    ours, theirs = Classifier(), Classifier()
    optimizer = FlatAdamW(ours, options, dtype=torch.float32, device=CPU)
    groups = [
        {
            "params": [parameter for parameter in module.parameters() if (parameter.ndim > 1) == is_matrix],
            "weight_decay": decay if is_matrix else 0.0,
            "multiple": multiple,
        }
        for module, multiple in ((theirs.encoder["layer"], 1), (theirs.encoder["pooler"], 3), (theirs.classifier, 3))
        for is_matrix in (True, False)
    ]
    adamw = torch.optim.AdamW(groups, betas=(options.beta1, options.beta2), eps=options.epsilon, fused=True)
    for step in range(20):
        inputs = torch.randn(8, 16, generator=torch.Generator().manual_seed(step))
        optimizer.zero_gradient()
        adamw.zero_grad()
        for network in (ours, theirs):
            torch.autograd.backward(network(inputs).square().mean())
        optimizer.step(rate_at(step))
        for group in adamw.param_groups:
            group["lr"] = rate_at(step) * group["multiple"]
        adamw.step()
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-7, atol=1e-7, msg=name)
    assert sorted({group.rate for group in optimizer.groups}) == [1.0, 3.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_parameter_gradient_and_moment_begins_at_a_multiple_of_64_bytes(dtype: torch.dtype) -> None:
    network = small_network()
    optimizer = FlatAdamW(network, OPTIONS, dtype=dtype, device=CPU)
    for slot in optimizer.slots:
        for buffer in (optimizer.master, optimizer.working, optimizer.gradient, *optimizer.moments):
            assert slot.of(buffer).data_ptr() % ALIGNMENT_BYTES == 0
    assert ALIGNMENT_BYTES == 64


def test_no_two_parameters_share_memory_and_the_network_computes_on_the_buffers() -> None:
    network = small_network()
    before = copy.deepcopy(network)
    optimizer = FlatAdamW(network, OPTIONS, dtype=torch.float32, device=CPU)
    assert same_weights(network, before)
    spans = sorted((slot.begin, slot.begin + slot.shape.numel()) for slot in optimizer.slots)
    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))
    optimizer.master.add_(1.0)
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert sorted(name for name, _ in optimizer.weights()) == sorted(trained)
    for (name, parameter), old in zip(network.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(parameter, old + 1 if name in trained else old)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_restored_optimizer_goes_on_to_the_last_bit(dtype: torch.dtype) -> None:
    unbroken = small_network(frozen=dtype)
    train(unbroken, FlatAdamW(unbroken, OPTIONS, dtype=dtype, device=CPU), range(20))
    first = small_network(frozen=dtype)
    stopped = FlatAdamW(first, OPTIONS, dtype=dtype, device=CPU)
    train(first, stopped, range(11))
    weights = {name: weight.clone() for name, weight in stopped.weights()}
    moments = {"exp_avg": stopped.moments[0].clone(), "exp_avg_sq": stopped.moments[1].clone()}
    second = small_network(seed=1, frozen=dtype)
    second[3].load_state_dict(first[3].state_dict())
    resumed = FlatAdamW(second, OPTIONS, dtype=dtype, device=CPU)
    resumed.restore(weights, moments, stopped.step_count)
    assert resumed.step_count == 11
    assert same_weights(second, first)
    train(second, resumed, range(11, 20))
    assert same_weights(second, unbroken)
    assert not same_weights(second, first)


def test_loaded_weights_reach_the_network_by_name() -> None:
    network, other = small_network(), small_network(seed=1)
    optimizer = FlatAdamW(network, OPTIONS, dtype=torch.bfloat16, device=CPU)
    optimizer.load_weights(dict(other.named_parameters()))
    for (name, parameter), wanted in zip(network.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(parameter, wanted.bfloat16()) or name.startswith("3.")


def test_a_low_precision_network_has_fp32_gradients_and_master_weights() -> None:
    network = small_network(frozen=torch.bfloat16)
    optimizer = FlatAdamW(network, OPTIONS, dtype=torch.bfloat16, device=CPU)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for step in range(3):
        optimizer.zero_gradient()
        torch.autograd.backward(loss_of(network, step))
        gradients = [parameter.grad for parameter in trained]
        assert all(gradient is not None and gradient.dtype == torch.float32 for gradient in gradients)
        assert any(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)
        before = optimizer.master.clone()
        optimizer.step(1e-3)
        assert optimizer.master.dtype == torch.float32
        assert not torch.equal(optimizer.master, before)
        assert torch.equal(optimizer.working, optimizer.master.bfloat16())
        assert not torch.equal(optimizer.working.float(), optimizer.master)
        assert all(parameter.dtype == torch.bfloat16 for parameter in trained)


def test_gradients_of_several_backward_passes_add_up_in_fp32() -> None:
    network = small_network(frozen=torch.bfloat16)
    optimizer = FlatAdamW(network, OPTIONS, dtype=torch.bfloat16, device=CPU)
    parts = []
    for step in range(8):
        optimizer.zero_gradient()
        torch.autograd.backward(loss_of(network, step))
        parts.append(optimizer.gradient.clone())
    optimizer.zero_gradient()
    for step in range(8):
        torch.autograd.backward(loss_of(network, step))
    summed = torch.zeros_like(optimizer.gradient)
    for part in parts:
        summed += part
    torch.testing.assert_close(optimizer.gradient, summed, rtol=1e-6, atol=1e-7)
    assert not torch.equal(summed, summed.bfloat16().float())


def test_decay_acts_on_matrices_and_embeddings_alone() -> None:
    network, before = small_network(), small_network()
    optimizer = FlatAdamW(network, OPTIONS, dtype=torch.float32, device=CPU)
    optimizer.zero_gradient()
    optimizer.step(0.5)
    for (name, new), old in zip(network.named_parameters(), before.parameters(), strict=True):
        factor = 1 - 0.5 * OPTIONS.weight_decay if old.ndim > 1 and not name.startswith("3.") else 1.0
        torch.testing.assert_close(new, old * factor, rtol=1e-6, atol=0)


def test_clipping_is_not_its_job() -> None:
    ended = []
    for clip in (None, 1e-3):
        network = small_network()
        optimizer = FlatAdamW(network, OPTIONS.model_copy(update={"clip": clip}), dtype=torch.float32, device=CPU)
        for step in range(3):
            optimizer.zero_gradient()
            torch.autograd.backward(1000 * loss_of(network, step))
            before = optimizer.gradient.clone()
            optimizer.step(1e-3)
            assert torch.equal(optimizer.gradient, before)
        ended.append(network)
    assert same_weights(*ended)


def test_the_norm_is_that_of_all_gradients_together() -> None:
    network, theirs = small_network(), small_network()
    optimizer = FlatAdamW(network, OPTIONS, dtype=torch.float32, device=CPU)
    torch.autograd.backward(loss_of(network, 0))
    torch.autograd.backward(loss_of(theirs, 0))
    optimizer.loss.fill_(1e6)
    norm = torch.nn.utils.clip_grad_norm_([p for p in theirs.parameters() if p.requires_grad], 1e9)
    assert optimizer.gradient_norm() == pytest.approx(float(norm), rel=1e-6)
    optimizer.zero_gradient()
    assert optimizer.gradient_norm() == 0
    assert optimizer.loss == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_no_number_is_seen_in_its_norm(dtype: torch.dtype, compiled: bool, value: float) -> None:
    found = kernels() if compiled else None
    if compiled and found is None:
        pytest.skip("no compiler here")
    network = small_network()
    optimizer = FlatAdamW(network, OPTIONS, dtype=dtype, device=CPU, kernels=found)
    optimizer.zero_gradient()
    torch.autograd.backward(loss_of(network, 1))
    assert math.isfinite(optimizer.gradient_norm())
    for place in (0, 5, len(optimizer.gradient) - 1):
        optimizer.gradient[place] = value
        assert not math.isfinite(optimizer.gradient_norm())
        optimizer.gradient[place] = 0.0
