from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from kitune.errors import UserError
from kitune.model.heads import LabelScale, map_head, output_layer, start_at_priors

OLD = ("bad", "fine", "good")


def network_with(tiny_model: Path, num_labels: int = 3) -> Any:
    torch.manual_seed(3)
    network = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=num_labels)
    torch.nn.init.normal_(network.classifier.bias)
    return network


def test_the_output_layer_is_the_linear_one_outside_the_encoder(tiny_model: Path) -> None:
    network = network_with(tiny_model, num_labels=32)  # as many as the encoder is wide
    assert output_layer(network) == ("classifier", network.classifier)
    network.classifier = nn.Identity()
    with pytest.raises(UserError, match="a BertForSequenceClassification has no linear output layer"):
        output_layer(network)


@pytest.mark.parametrize("new", [*permutations(OLD), ("good", "bad"), ("good", "odd", "bad", "even")], ids=str)
def test_a_row_of_the_head_follows_its_name_whatever_the_order(tiny_model: Path, new: tuple[str, ...]) -> None:
    network = network_with(tiny_model)
    old = network.classifier
    map_head(network, OLD, new, seed=1)
    assert network.num_labels == len(new)
    assert network.classifier.weight.shape == (len(new), 32)
    for row, name in enumerate(new):
        if name in OLD:
            assert torch.equal(network.classifier.weight[row], old.weight[OLD.index(name)])
            assert network.classifier.bias[row] == old.bias[OLD.index(name)]
        else:
            assert network.classifier.bias[row] == 0
            assert not (network.classifier.weight[row] == old.weight).all(dim=1).any()


def test_a_mapped_head_gives_each_name_the_output_it_had(tiny_model: Path) -> None:
    network = network_with(tiny_model).eval()
    ids = torch.arange(10, 40).view(3, 10)
    with torch.inference_mode():
        before = network(input_ids=ids).logits
        map_head(network, OLD, ("good", "bad", "fine"), seed=1)
        after = network(input_ids=ids).logits
    torch.testing.assert_close(after, before[:, [2, 0, 1]])


def test_new_rows_of_a_head_follow_from_the_seed(tiny_model: Path) -> None:
    heads: list[torch.Tensor] = []
    for seed in (1, 1, 2):
        network = network_with(tiny_model)
        torch.manual_seed(len(heads))
        map_head(network, OLD, ("new", "bad"), seed=seed)
        heads.append(network.classifier.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0][0], heads[2][0])
    assert torch.equal(heads[0][1], heads[2][1])


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (("good", "bad", "fine"), ["the head keeps 3 labels of the earlier run, by name"]),
        (("good", *"abcdef"), ["the head keeps 1 label of the earlier run and starts a, b, c, d, e, ... anew"]),
        (("odd", "even"), []),
    ],
)
def test_what_a_head_keeps_is_said(tiny_model: Path, new: tuple[str, ...], said: list[str]) -> None:
    assert map_head(network_with(tiny_model), OLD, new, seed=1) == said


def logits_of_zero_hidden(network: Any) -> torch.Tensor:
    result: torch.Tensor = network.classifier(torch.zeros(32)).detach().double()
    return result


def test_a_new_head_of_classes_predicts_their_shares(tiny_model: Path) -> None:
    network = network_with(tiny_model)
    shares = [0.7, 0.25, 0.05]
    start_at_priors(network, "single-label", shares)
    assert logits_of_zero_hidden(network).softmax(dim=0).tolist() == pytest.approx(shares, rel=1e-6)


def test_a_new_head_of_many_labels_predicts_each_share(tiny_model: Path) -> None:
    network = network_with(tiny_model)
    shares = [0.9, 0.5, 0.01]
    start_at_priors(network, "multi-label", shares)
    assert logits_of_zero_hidden(network).sigmoid().tolist() == pytest.approx(shares, rel=1e-6)


def test_a_new_head_of_a_regression_predicts_the_mean(tiny_model: Path) -> None:
    network, labels = network_with(tiny_model, num_labels=1), np.asarray([[2000.0], [2040.0]])
    scale = LabelScale.of(network, labels, None)
    scale.begin(network, new=True)
    assert (scale.shift, scale.unit) == (2020.0, 16.0)
    assert scale.told(logits_of_zero_hidden(network).numpy()) == pytest.approx(2020.0)
    assert scale.learned(torch.from_numpy(labels)).tolist() == [[-1.25], [1.25]]


@pytest.mark.parametrize("bias", [True, False])
def test_a_head_learns_in_the_labels_scale_and_is_written_in_their_unit(tiny_model: Path, bias: bool) -> None:
    network, hidden = network_with(tiny_model, num_labels=1), torch.randn(5, 32, generator=torch.manual_seed(1))
    if not bias:
        network.classifier = nn.Linear(32, 1, bias=False)
    before, weight = network.classifier(hidden).detach(), network.classifier.weight.detach().clone()
    labels = np.random.default_rng(1).normal(3e5, 2e4, size=(50, 1))
    scale = LabelScale.of(network, labels, None)
    assert scale.unit == (2.0**14 if bias else 2.0**18), (
        "without a bias the labels' distance from zero is to be learned"
    )
    scale.begin(network, new=False)
    np.testing.assert_allclose(scale.told(network.classifier(hidden).detach().numpy()), before, atol=0.05)
    written = scale.written("classifier.weight", network.classifier.weight.detach())
    assert torch.equal(written, weight)
    assert torch.equal(scale.read("classifier.weight", written), network.classifier.weight)
    assert scale.written("bert.pooler.dense.weight", weight) is weight


@pytest.mark.parametrize("labels", [[[3.0]] * 4, [[1e30], [-1e30]], [[0.0], [1e-30]]])
def test_labels_of_every_spread_have_a_scale(tiny_model: Path, labels: list[list[float]]) -> None:
    scale = LabelScale.of(network_with(tiny_model, num_labels=1), np.asarray(labels, dtype=np.float32), None)
    learned = scale.learned(torch.tensor(labels, dtype=torch.float64)).abs()
    assert 0 <= learned.max() < 2


def test_rows_of_no_weight_have_no_say_in_the_scale(tiny_model: Path) -> None:
    network, weights = network_with(tiny_model, num_labels=1), np.asarray([1.0, 1.0, 0.0], dtype=np.float32)
    few = LabelScale.of(network, np.asarray([[1.0], [4.0]]), None)
    assert LabelScale.of(network, np.asarray([[1.0], [4.0], [-9999.0]]), weights) == few


@pytest.mark.parametrize(("task", "shares"), [("single-label", [1.0, 0.0, 0.0]), ("multi-label", [1.0, 0.0, 0.5])])
def test_a_share_of_nothing_or_all_gives_a_finite_bias(tiny_model: Path, task: Any, shares: list[float]) -> None:
    network = network_with(tiny_model)
    start_at_priors(network, task, shares)
    assert torch.isfinite(network.classifier.bias).all()
    assert network.classifier.bias.abs().max() < 10


def test_a_head_without_a_bias_stays_as_it_is(tiny_model: Path) -> None:
    network = network_with(tiny_model)
    network.classifier = nn.Linear(32, 3, bias=False)
    before = network.classifier.weight.clone()
    start_at_priors(network, "single-label", [0.5, 0.3, 0.2])
    assert network.classifier.bias is None
    assert torch.equal(network.classifier.weight, before)
