"""Pruning: golden masks, exact counts, and layers that magnitude empties where SynFlow does not."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from efface.core.errors import BadConfig, Unfit
from efface.families.networks import MLP, SmallCNN, seeded
from efface.ops.pruning import apply, collapsed, kept_count, magnitude, prunable, schedule, synflow, zeros_of


def ones(*shape):
    return lambda model: model(torch.ones(1, *shape, dtype=torch.float64))


def kept(masks):
    return sum(int(mask.sum()) for mask in masks.values())


def test_magnitude_golden():
    """Of |.1 -5 3| and |2 -.2| the three largest are 5, 3 and 2; with half of each layer in any case, 5, 3 and 2 as well; with the two largest
    of five and a quarter of each, 5 and 2 come before 3."""
    weights = {"a": torch.tensor([0.1, -5.0, 3.0]), "b": torch.tensor([2.0, -0.2])}
    assert {name: mask.tolist() for name, mask in magnitude(weights, 3).items()} == {"a": [False, True, True], "b": [True, False]}
    assert {name: mask.tolist() for name, mask in magnitude(weights, 2).items()} == {"a": [False, True, True], "b": [False, False]}
    assert collapsed(magnitude(weights, 2)) == ["b"]
    assert {name: mask.tolist() for name, mask in magnitude(weights, 2, 0.25).items()} == {"a": [False, True, False], "b": [True, False]}
    with pytest.raises(BadConfig, match="share of 0.9"):
        magnitude(weights, 3, 0.9)
    for count in (0, 6):
        with pytest.raises(BadConfig, match=f"{count} of 5 weights"):
            magnitude(weights, count)


@settings(max_examples=50, deadline=None)
@given(st.integers(10, 5000), st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.99]), st.integers(1, 100), st.integers(0, 10))
def test_counts_are_exact(total, rate, rounds, seed):
    """Also among equal values, and at the end of any number of rounds."""
    count = kept_count(total, rate)
    assert abs(count - (1 - rate) * total) <= 0.5 + 1e-6
    plan = schedule(total, rate, rounds)
    assert len(plan) == rounds and plan[-1] == count and plan == sorted(plan, reverse=True)
    if count:
        values = torch.randint(-3, 4, (total,), generator=torch.Generator().manual_seed(seed)).float()
        masks = magnitude({"a": values[: total // 2], "b": values[total // 2 :]}, count)
        assert kept(masks) == count
        stays = torch.cat([masks["a"], masks["b"]])
        assert values[stays].abs().min() >= (values[~stays].abs().max() if not bool(stays.all()) else 0)


def test_round_of_a_tenth():
    """1 - 0.9 is a little less than 0.1 in floating point; a tenth of 2935 is rounded to even like 293.5 all the same."""
    assert [kept_count(total, 0.9) for total in (2920, 2930, 2935)] == [round(0.1 * total) for total in (2920, 2930, 2935)] == [292, 293, 294]


def test_synflow_golden():
    """Two inputs, two hidden, one output. First layer rows (1, 2) and (3, .5), second (4, -.1): with ones the hidden are 3 and 3.5,
    R = 12.35. Scores: first 1*4, 2*4, 3*.1, .5*.1 = 4 8 .3 .05; second 4*3, .1*3.5 = 12 .35. Three of six: 12, 8, 4.
    Biases add nothing to a flow, however large."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 0.5]]))
        model[0].bias.fill_(100.0)
        model[2].weight.copy_(torch.tensor([[4.0, -0.1]]))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for rounds in (1, 5):
        masks = synflow(model, prunable(model), 0.5, ones(2), rounds)
        assert {name: mask.tolist() for name, mask in masks.items()} == {"0.weight": [[True, True], [False, False]], "2.weight": [[True, False]]}
    assert all(bool((model.state_dict()[name] == value).all()) for name, value in before.items())


def test_layer_collapse():
    """At 95 % magnitude empties layers of a fresh network of uneven widths (wide layers draw small weights); SynFlow empties none, and the
    exact number stays on both sides."""
    fell = 0
    for seed, hidden in ((0, (8, 512)), (1, (300, 20)), (2, (64, 64, 64))):
        model = seeded(MLP, seed, inputs=64, hidden=hidden)
        weights = prunable(model)
        count = kept_count(sum(weight.numel() for weight in weights.values()), 0.95)
        plain, flow = magnitude(weights, count), synflow(model, weights, 0.95, ones(64))
        assert kept(plain) == kept(flow) == count
        fell += bool(collapsed(plain))
        assert not collapsed(flow)
        assert not collapsed(magnitude(weights, count, 0.01)) and kept(magnitude(weights, count, 0.01)) == count
        sparse = seeded(MLP, seed, inputs=64, hidden=hidden)
        apply(dict(sparse.named_parameters()), flow)
        assert float(sparse(torch.rand(8, 64)).std(0).min()) > 0
    assert fell >= 1


def test_synflow_needs_its_rounds():
    """Scores of a single round empty a layer that many rounds leave alive."""
    model = seeded(MLP, 0, inputs=64, hidden=(8, 512))
    once, often = (synflow(model, prunable(model), 0.99, ones(64), rounds) for rounds in (1, 100))
    assert collapsed(once) and not collapsed(often)


def test_normalization_carries_no_flow():
    """The means that batch normalization subtracts do not change a mask, whatever their sign; the exact count holds on a small network."""
    masks = []
    for mean in (0.0, 5.0, -5.0):
        model = seeded(SmallCNN, 0, side=8, widths=(4, 8), embedding=16)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.fill_(mean)
        masks.append(synflow(model, prunable(model), 0.9, ones(1, 8, 8)))
        total = sum(mask.numel() for mask in masks[-1].values())
        assert kept(masks[-1]) == round(0.1 * total) and not collapsed(masks[-1])
    assert all(bool((mask == masks[0][name]).all()) for other in masks[1:] for name, mask in other.items())


def test_whose_weights():
    pictures = seeded(SmallCNN, 0, side=8)
    assert all("body" in name for name in prunable(pictures)) and len(prunable(pictures)) == 3
    assert len(prunable(pictures, "all")) == 5
    assert list(prunable(MLP())) == ["stack.0.weight", "stack.2.weight", "stack.4.weight"]
    with pytest.raises(Unfit, match="no convolution"):
        prunable(MLP(), "conv")
    with pytest.raises(Unfit, match="no linear or convolutional"):
        prunable(nn.Sequential(nn.BatchNorm1d(3)))


def test_apply_and_zeros():
    weights = {"a": torch.tensor([1.0, -0.0, -3.0, 4.0])}
    masks = {"a": torch.tensor([True, False, False, True])}
    assert apply(weights, masks) == 1 and weights["a"].tolist() == [1, 0, 0, 4]
    assert not torch.signbit(weights["a"]).any()
    assert apply(weights, masks) == 0
    assert zeros_of(weights)["a"].tolist() == masks["a"].tolist()
