"""Transformers' forward without padding against the same with it: every family, forward and backward."""

import copy
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from transformers import ModernBertConfig, ModernBertForSequenceClassification

import kitune
from kitune.config import EngineOptions
from kitune.model.engine import speed_up
from kitune.model.families import OwnWeights
from kitune.model.unpadded import suits, use_unpadded
from tests.model.test_packed import FAMILIES, batch_of, distance, gradients, network_of

MODERN: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 2, "vocab_size": 300,
    "num_labels": 3, "pad_token_id": 0, "local_attention": 16, "attn_implementation": "eager",
}  # fmt: skip


def modern(**changes: Any) -> Any:
    torch.manual_seed(0)
    return ModernBertForSequenceClassification(ModernBertConfig(**MODERN | changes)).eval()


def unpadded(network: Any) -> Any:
    other = copy.deepcopy(network)
    use_unpadded(other)
    return other


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_padded_forward_and_backward(family: str) -> None:
    network = network_of(family)
    assert_same(network, unpadded(network))


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("local", [16, 512])
def test_sliding_windows_are_kept(pooling: str, local: int) -> None:
    network = modern(classifier_pooling=pooling, local_attention=local)
    assert_same(network, unpadded(network))


class Named(TorchFunctionMode):
    """Fails where a tensor is made without saying on which device: on a CPU such a slip is not seen."""

    MAKERS = (torch.zeros, torch.ones, torch.empty, torch.full, torch.arange, torch.tensor)

    made = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.made += func in self.MAKERS
        if func in self.MAKERS and "device" not in (kwargs or {}):
            caller = traceback.extract_stack()[-2]
            assert not Path(caller.filename).is_relative_to(Path(kitune.__file__).parent), f"{caller}"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("windows", [False, True])
def test_every_tensor_that_is_made_is_told_its_device(windows: bool) -> None:
    fast = unpadded(modern(local_attention=16) if windows else network_of("bert"))
    batch = batch_of(fast, 5, 45)
    with Named() as named:
        gradients(fast, batch)
    assert named.made


def assert_same(network: Any, fast: Any) -> None:
    for shape in ((5, 45), (7, 130), (3, 3), (1, 64)):
        batch = batch_of(network, *shape)
        logits, exact = gradients(network, batch)
        ours, found = gradients(fast, batch)
        torch.testing.assert_close(ours, logits, rtol=1e-4, atol=1e-5)
        size = sum(float(gradient.square().sum()) for gradient in exact.values()) ** 0.5
        assert distance(found, exact) < 1e-5 * size


def test_dropout_drops_attention_too_and_keeps_the_mean() -> None:
    network = network_of("bert")
    network.config.hidden_dropout_prob = 0.0
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for layer in network.base_model.encoder.layer:
        layer.attention.self.dropout.p = 0.3
    fast = unpadded(network)
    batch = batch_of(network, 6, 40)
    with torch.inference_mode():
        still = fast(**batch).logits
        fast.train()
        drawn = torch.stack([fast(**batch).logits for _ in range(400)])
    assert float(drawn.std(0).min()) > 0
    error = (drawn.mean(0) - still).abs() / (drawn.std(0) / 20)
    assert float(error.mean()) < 6  # the layers behind bend the mean a little


def test_a_saved_model_does_not_know_of_it(tmp_path: Path) -> None:
    unpadded(network_of("bert")).save_pretrained(tmp_path)
    assert "kitune" not in (tmp_path / "config.json").read_text(encoding="utf-8")


def test_what_cannot_leave_its_padding_is_named() -> None:
    assert suits(network_of("bert")) is None
    assert suits(modern()) is None
    assert suits(modern(attention_dropout=0.1)) == "attention over a sliding window has no dropout"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_takes_it() -> None:
    for network in (network_of("bert"), modern()):
        padded = copy.deepcopy(network).cuda().bfloat16()
        fast = copy.deepcopy(padded)
        said = speed_up(fast, EngineOptions(), kernels=None, dtype=torch.bfloat16, store=OwnWeights())
        assert said is None
        batch = {name: value.cuda() for name, value in batch_of(network, 7, 130).items()}
        exact = network(**{name: value.cpu() for name, value in batch.items()}).logits
        far = float((padded(**batch).logits.cpu().float() - exact).norm())
        assert float((fast(**batch).logits.cpu().float() - exact).norm()) < 1.5 * far + 1e-3
        torch.autograd.backward(F.cross_entropy(fast(**batch).logits.float(), torch.arange(7).cuda() % 3))
