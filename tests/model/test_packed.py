"""The packed path against transformers' own forward and backward: every family, both precisions; and its dropout."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    CamembertConfig,
    CamembertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from kitune.config import EngineOptions, TrainOptions
from kitune.model import kernels as kernels_module
from kitune.model.engine import kernels_for, speed_up
from kitune.model.families import OwnWeights, fits
from kitune.model.kernels import SIGNATURES, Kernels, kernels
from kitune.training.optimizer import FlatAdamW

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 300,
    "num_labels": 3,
    "attn_implementation": "eager",
}
DISTIL: dict[str, Any] = {
    "dim": 64, "n_layers": 3, "n_heads": 2, "hidden_dim": 128, "vocab_size": 300, "num_labels": 3,
    "attn_implementation": "eager",
}  # fmt: skip
FAMILIES: dict[str, tuple[Any, Any]] = {
    "bert": (BertForSequenceClassification, BertConfig(**SIZES)),
    "bert of one layer": (BertForSequenceClassification, BertConfig(**{**SIZES, "num_hidden_layers": 1})),
    "bert with heads of 16": (BertForSequenceClassification, BertConfig(**{**SIZES, "num_attention_heads": 4})),
    "electra": (ElectraForSequenceClassification, ElectraConfig(**SIZES, embedding_size=64)),
    "roberta": (RobertaForSequenceClassification, RobertaConfig(**SIZES, type_vocab_size=1)),
    "xlm-roberta": (XLMRobertaForSequenceClassification, XLMRobertaConfig(**SIZES, type_vocab_size=1)),
    "camembert": (CamembertForSequenceClassification, CamembertConfig(**SIZES, type_vocab_size=1)),
    "distilbert": (DistilBertForSequenceClassification, DistilBertConfig(**DISTIL)),
}
SHAPES = [(5, 45), (7, 130), (3, 3), (1, 64)]  # rows, tokens of the longest


def need_kernels() -> Kernels:
    found = kernels()
    if found is None:
        pytest.skip("no C++ compiler here")
    found.threads = 1
    return found


def network_of(family: str) -> Any:
    """A random network whose answers and gradients are large enough to compare, dropout off."""
    torch.manual_seed(0)
    kind, config = FAMILIES[family]
    network = kind(copy.deepcopy(config)).eval()
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(3)
        elif "norm" not in name.lower():
            parameter.data.normal_(0, 0.1)
    return network


def batch_of(network: Any, rows: int, length: int) -> dict[str, Tensor]:
    """Rows of different lengths with padding behind them."""
    generator = torch.Generator().manual_seed(rows)
    lengths = torch.randint(2, length + 1, (rows,), generator=generator)
    lengths[-1] = length
    real = torch.arange(length) < lengths[:, None]
    ids = torch.where(real, torch.randint(5, 300, (rows, length), generator=generator), network.config.pad_token_id)
    batch = {"input_ids": ids, "attention_mask": real.long()}
    if getattr(network.config, "type_vocab_size", 1) > 1:
        batch["token_type_ids"] = (torch.arange(length) >= lengths[:, None] // 2).long() * real
    return batch


def packed(network: Any, dtype: torch.dtype) -> Any:
    """A copy of `network` on the packed path, with gradients in the buffers of its `optimizer`."""
    fast = copy.deepcopy(network)
    optimizer = FlatAdamW(fast, TrainOptions(), dtype=dtype, device=CPU)
    assert speed_up(fast, EngineOptions(), kernels=need_kernels(), dtype=dtype, store=optimizer) is None
    fast.optimizer = optimizer
    return fast


def gradients(network: Any, batch: Mapping[str, Tensor], *, autocast: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and the gradient of every parameter."""
    optimizer = getattr(network, "optimizer", None)
    (network.zero_grad if optimizer is None else optimizer.zero_gradient)()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = network(**batch).logits
    torch.autograd.backward(F.cross_entropy(logits.float(), torch.arange(len(logits)) % 3))
    if optimizer is not None:
        optimizer.gather_gradient()
    return logits.detach().float(), {name: p.grad.float().clone() for name, p in network.named_parameters()}


def distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    return float(sum((one[name] - other[name]).double().square().sum() for name in one) ** 0.5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_in_fp32_it_is_the_same_function(family: str, shape: tuple[int, int]) -> None:
    network = network_of(family)
    batch = batch_of(network, *shape)
    logits, theirs = gradients(network, batch)
    fast_logits, ours = gradients(packed(network, torch.float32), batch)
    torch.testing.assert_close(fast_logits, logits, rtol=1e-5, atol=1e-6)
    norm = sum(float(gradient.double().square().sum()) for gradient in theirs.values()) ** 0.5
    assert distance(ours, theirs) < 1e-5 * norm
    for name, gradient in theirs.items():
        floor = max(float(gradient.norm()), 1e-4 * norm)  # the true gradient of key.bias is zero
        assert float((ours[name] - gradient).norm()) < 1e-5 * floor, name


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_in_bf16_it_is_as_near_to_fp32_as_autocast_is(family: str) -> None:
    network = network_of(family)
    ours = theirs = logits_ours = logits_theirs = 0.0
    for shape in SHAPES:
        batch = batch_of(network, *shape)
        exact_logits, exact = gradients(network, batch)
        fast_logits, fast = gradients(packed(network, torch.bfloat16), batch)
        cast_logits, cast = gradients(network, batch, autocast=True)
        norm = sum(float(gradient.double().square().sum()) for gradient in exact.values()) ** 0.5
        ours, theirs = ours + distance(fast, exact) / norm, theirs + distance(cast, exact) / norm
        logits_ours += float((fast_logits - exact_logits).norm())
        logits_theirs += float((cast_logits - exact_logits).norm())
    assert ours < 1.5 * theirs
    assert logits_ours < 1.5 * logits_theirs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_answers_are_the_same_whether_gradients_are_asked_for_or_not(dtype: torch.dtype) -> None:
    fast = packed(network_of("bert"), dtype)
    batch = batch_of(fast, 7, 130)
    with_gradients = fast(**batch).logits
    with torch.inference_mode():
        without = fast(**batch).logits
    torch.testing.assert_close(without, with_gradients, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_passes_of_one_update_add_up_and_the_next_update_begins_anew(dtype: torch.dtype) -> None:
    fast = packed(network_of("bert"), dtype)
    batches = [batch_of(fast, *shape) for shape in SHAPES]
    apart = [gradients(fast, batch)[1] for batch in batches]
    fast.optimizer.zero_gradient()
    for batch in batches:
        logits = fast(**batch).logits
        torch.autograd.backward(F.cross_entropy(logits.float(), torch.arange(len(logits)) % 3))
    fast.optimizer.gather_gradient()
    for name, parameter in fast.named_parameters():
        parts = [part[name] for part in apart]
        # In bf16 the only pass of an update rounds its gradients, and one of several need not.
        rounding = 1e-6 if dtype == torch.float32 else 2**-8 * max(float(part.abs().max()) for part in parts)
        torch.testing.assert_close(parameter.grad, sum(parts), rtol=1e-5, atol=rounding)


def test_one_pass_makes_the_same_update_whether_its_gradients_are_gathered_or_not() -> None:
    one, other = packed(network_of("bert"), torch.bfloat16), packed(network_of("bert"), torch.bfloat16)
    batch = batch_of(one, 5, 45)
    for fast in (one, other):
        fast.optimizer._kernels = need_kernels()
        gradients(fast, batch)
        fast.optimizer.zero_gradient()
        torch.autograd.backward(fast(**batch).logits.float().sum())
    other.optimizer.gather_gradient()
    assert one.optimizer.gradient_norm() == pytest.approx(other.optimizer.gradient_norm(), rel=1e-6)
    one.optimizer.step(1e-3, scale=0.5)
    other.optimizer.step(1e-3, scale=0.5)
    assert torch.equal(one.optimizer.master, other.optimizer.master)


def test_a_process_without_rows_adds_nothing() -> None:
    fast = packed(network_of("bert"), torch.bfloat16)
    gradients(fast, batch_of(fast, 5, 45))
    fast.optimizer.zero_gradient()
    fast.optimizer.gather_gradient()
    assert not fast.optimizer.exchanged.any()
    fast.optimizer.exchanged.fill_(1.0)  # what the other processes have
    assert fast.optimizer.gradient_norm() == pytest.approx(len(fast.optimizer.gradient) ** 0.5)
    assert bool((fast.optimizer.gradient == 1).all())


def test_an_encoder_alone_gives_every_token_and_zeros_behind_the_end() -> None:
    need_kernels()
    torch.manual_seed(0)
    network = BertModel(BertConfig(**SIZES)).eval()
    batch = batch_of(network, 5, 45)
    expected = network(**batch)
    real = batch["attention_mask"].bool()
    fast = packed(network, torch.float32)
    found = fast(**batch)
    torch.testing.assert_close(found.last_hidden_state[real], expected.last_hidden_state[real], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.pooler_output, expected.pooler_output, rtol=1e-5, atol=1e-5)
    assert not found.last_hidden_state[~real].any()


def test_a_backward_after_a_later_forward_is_refused() -> None:
    fast = packed(network_of("bert"), torch.float32)
    batch = batch_of(fast, 3, 3)
    first = fast(**batch).logits.sum()
    fast(**batch)
    with pytest.raises(RuntimeError, match="a later forward has replaced"):
        first.backward()


# Dropout


def mask_of(key: int, share: float, *, rows: int = 400, width: int = 384) -> Tensor:
    """Which numbers a kernel keeps: through LayerNorm the kept ones of equal numbers come out positive."""
    ones, zeros = torch.ones(rows, width), torch.zeros(rows, width)
    out = torch.empty(rows, width)
    need_kernels().call(
        "residual_norm", torch.float32, rows, width, ones, zeros[0].clone(), zeros, ones[0].clone(), zeros[0].clone(),
        1e-12, key, share, out, None, None, None,
    )  # fmt: skip
    return out > 0


def test_dropout_keeps_the_right_share_of_everything() -> None:
    for share in (0.1, 0.5):
        kept = mask_of(12345678901234, share).float()
        error = (share * (1 - share) / kept.numel()) ** 0.5
        assert float(kept.mean()) == pytest.approx(1 - share, abs=4 * error)
        columns, rows = kept.mean(0), kept.mean(1)
        assert float(columns.std()) == pytest.approx((share * (1 - share) / len(kept)) ** 0.5, rel=0.15)
        assert float(rows.std()) == pytest.approx((share * (1 - share) / kept.shape[1]) ** 0.5, rel=0.15)


def test_masks_of_neighbouring_keys_places_and_lags_are_not_correlated() -> None:
    torch.manual_seed(1)
    keys = [1, 2, 3, 1 << 32, (1 << 32) + 1, *torch.randint(1, 2**63 - 1, (8,)).tolist()]
    masks = torch.stack([mask_of(key, 0.1).float().flatten() for key in keys])
    bound = 5 / masks.shape[1] ** 0.5
    between = torch.corrcoef(masks) - torch.eye(len(keys))
    assert float(between.abs().max()) < bound
    for lag in (1, 16, 384, 385):
        assert abs(float(torch.corrcoef(torch.stack([masks[5, lag:], masks[5, :-lag]]))[0, 1])) < bound
        assert abs(float(torch.corrcoef(torch.stack([masks[5, lag:], masks[6, :-lag]]))[0, 1])) < bound


def test_every_dropout_of_every_pass_has_masks_of_its_own() -> None:
    network = network_of("bert").train()
    fast = packed(network, torch.float32)
    batch = batch_of(fast, 5, 45)

    def answer(seed: int) -> Tensor:
        torch.manual_seed(seed)
        logits: Tensor = fast(**batch).logits.detach()
        return logits

    assert torch.equal(answer(1), answer(1))
    assert not torch.equal(answer(1), answer(2))
    many = torch.stack([answer(seed) for seed in range(400)])
    theirs = []
    for seed in range(400):
        torch.manual_seed(seed)
        theirs.append(network(**batch).logits.detach())
    reference = torch.stack(theirs)
    spread = reference.std(0) / 400**0.5
    assert float(((many.mean(0) - reference.mean(0)) / spread).abs().max()) < 5
    assert float((many.std(0) / reference.std(0)).mean()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("family", "shares"), [("bert", (0.3, 0.3)), ("distilbert", (0.0, 0.3))])
def test_a_layer_drops_where_its_family_does(
    family: str, shares: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attention's output and the whole layer's: DistilBERT has no dropout at the first (transformers, TransformerBlock)."""
    network, found = network_of(family), []
    for name in ("hidden_dropout_prob", "dropout"):
        if hasattr(network.config, name):
            setattr(network.config, name, 0.3)
    call, share = Kernels.call, SIGNATURES["residual_norm"].index("k") + 1

    def noted(self: Kernels, name: str, dtype: torch.dtype, *values: Any) -> Any:
        if name.startswith("residual_norm"):
            place = share if name == "residual_norm" else SIGNATURES[name].index("k") + 1
            found.append((name, values[place]))
        return call(self, name, dtype, *values)

    monkeypatch.setattr(Kernels, "call", noted)
    fast = packed(network.train(), torch.float32)
    gradients(fast, batch_of(fast, 3, 9))
    layers = len(found) // 4
    assert (
        found
        == [("residual_norm", share) for share in shares] * layers
        + [("residual_norm_backward", share) for share in reversed(shares)] * layers
    )


def test_a_token_type_without_an_embedding_is_refused() -> None:
    fast = packed(network_of("bert"), torch.float32)
    batch = batch_of(fast, 3, 9)
    with pytest.raises(IndexError, match="a token type has no row"):
        fast(**batch | {"token_type_ids": batch["token_type_ids"] + 1})


# AdamW


@pytest.mark.parametrize("head_rate", [1.0, 7.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_makes_the_updates_of_torchs_adamw(dtype: torch.dtype, head_rate: float) -> None:
    options = TrainOptions(weight_decay=0.1, head_rate=head_rate)
    network = network_of("bert")
    ours, theirs = copy.deepcopy(network), copy.deepcopy(network)
    fast = FlatAdamW(ours, options, dtype=dtype, device=CPU, kernels=need_kernels())
    plain = FlatAdamW(theirs, options, dtype=dtype, device=CPU)
    for step in range(20):
        noise = torch.randn(len(fast.gradient), generator=torch.Generator().manual_seed(step))
        fast.gradient.copy_(noise)
        plain.gradient.copy_(noise)
        assert fast.gradient_norm() == pytest.approx(plain.gradient_norm(), rel=1e-5)
        fast.step(1e-3, scale=0.25)
        plain.step(1e-3, scale=0.25)
    assert fast.step_count == plain.step_count == 20
    torch.testing.assert_close(fast.master, plain.master, rtol=2e-6, atol=2e-7 * head_rate)
    assert torch.equal(fast.working, fast.master.to(dtype))


# Where it does not apply


def test_what_does_not_fit_goes_the_plain_way_and_says_why() -> None:
    deberta = DebertaV2ForSequenceClassification(DebertaV2Config(**{**SIZES, "attn_implementation": None}))
    relu = BertForSequenceClassification(BertConfig(**SIZES, hidden_act="relu"))
    odd = BertForSequenceClassification(BertConfig(**{**SIZES, "hidden_size": 48}))
    frozen = network_of("bert")
    frozen.bert.encoder.layer[0].requires_grad_(False)
    assert fits(deberta) == "deberta-v2 models have no packed path yet"
    assert fits(relu) == "its activation is relu"
    assert "multiples of 32" in str(fits(odd))
    assert fits(frozen) == "some of its weights are frozen"
    told = speed_up(deberta, EngineOptions(), kernels=need_kernels(), dtype=torch.float32, store=OwnWeights())
    assert told == "the slower plain path is taken: deberta-v2 models have no packed path yet"


def test_plain_switches_it_off_without_a_word() -> None:
    network = network_of("bert")
    options = EngineOptions(plain=True)
    assert kernels_for(options, dtype=torch.float32, device=CPU, threads=1) is None
    assert speed_up(network, options, kernels=need_kernels(), dtype=torch.float32, store=OwnWeights()) is None
    assert "forward" not in vars(network.base_model)


def test_without_a_compiler_the_plain_way_is_taken_and_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(kernels_module, "built", kernels_module.built.__wrapped__)
    assert kernels() is None
    said = speed_up(network_of("bert"), EngineOptions(), kernels=None, dtype=torch.float32, store=OwnWeights())
    assert said == "the slower plain path is taken: no C++ compiler (g++) is here that builds the kernels"
    half = speed_up(network_of("bert"), EngineOptions(), kernels=None, dtype=torch.float16, store=OwnWeights())
    assert half == "the slower plain path is taken: there is no other in fp16 on a CPU"


def test_a_compiler_that_fails_leaves_the_plain_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "false")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    found = kernels_module.built.__wrapped__()
    assert found == "false does not build the kernels: it says nothing"
    assert not list((tmp_path / "kitune" / "kernels").iterdir())
    monkeypatch.setenv("CXX", "g++ --no-such-flag")
    said = str(kernels_module.built.__wrapped__())
    assert said.startswith("g++ does not build the kernels: ")
    assert "no-such-flag" in said


def test_the_openmp_of_torch_is_found_beside_another_and_in_a_path_with_spaces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = "7f46b0c00000-7f46b0c37000 r-xp 00000000 fe:00 5408323                    "
    place = Path("/home/me/my project/.venv/site-packages")
    maps = f"{line}{place}/scikit_learn.libs/libgomp-1.so.1\n{line}{place}/torch/lib/libgomp.so.1\n"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: maps)
    monkeypatch.setattr(torch, "__file__", str(place / "torch" / "__init__.py"))
    assert kernels_module.loaded_openmp() == place / "torch/lib/libgomp.so.1"


def test_networks_of_other_threads_leave_each_other_alone() -> None:
    need_kernels()
    one, two = (kernels_for(EngineOptions(), dtype=torch.float32, device=CPU, threads=count) for count in (1, 2))
    assert one is not None
    assert two is not None
    assert (one.threads, two.threads) == (1, 2)


def test_a_row_with_more_tokens_than_positions_is_refused() -> None:
    need_kernels()
    fast = packed(network_of("bert"), torch.float32)
    ids = torch.full((1, fast.config.max_position_embeddings + 1), 5)
    with pytest.raises(IndexError, match="a row of"):
        fast(input_ids=ids, attention_mask=torch.ones_like(ids))
