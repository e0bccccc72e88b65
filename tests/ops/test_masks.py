"""Masks: exact counts, weights that stay bit for bit, and the last layers of a stack."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from efface.core.errors import BadConfig, EffaceError
from efface.families.networks import SmallCNN
from efface.ops.masks import held, last_layers, only, top_share

NUMBERS = st.lists(st.integers(0, 3), min_size=1, max_size=20)


def test_the_largest_over_all_tensors():
    """Scores 5 1 | 4 4 2, share .6 of 5 = 3: 5 and both 4; at .4 it is 5 and the first 4."""
    scores = {"a": torch.tensor([5.0, 1.0]), "b": torch.tensor([[4.0], [4.0], [2.0]])}
    found = top_share(scores, 0.6)
    assert found["a"].tolist() == [True, False] and found["b"].tolist() == [[True], [True], [False]]
    assert top_share(scores, 0.4)["b"].tolist() == [[True], [False], [False]]


@given(NUMBERS, NUMBERS, st.floats(0, 1))
def test_count_and_order(one, two, share):
    """round(share N) are chosen, ties or not, and none that is left out is larger than one that is in."""
    scores = {"a": torch.tensor(one, dtype=torch.float), "b": torch.tensor(two, dtype=torch.float)}
    masks = top_share(scores, share)
    chosen = torch.cat([masks[name] for name in scores])
    values = torch.cat(list(scores.values()))
    assert int(chosen.sum()) == round(share * len(values))
    assert not chosen.any() or chosen.all() or values[chosen].min() >= values[~chosen].max()


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(EffaceError, match="not finite"):
        top_share({"a": torch.tensor([1.0, float("nan")])}, 0.5)


def test_held_weights_stay_bit_for_bit():
    """Momentum and weight decay move what has no gradient; putting it back before each use undoes that."""
    layer = nn.Linear(3, 1, bias=False)
    start = layer.weight.detach().clone()
    mask = torch.tensor([[True, False, True]])
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    with held(layer, {"weight": mask}) as settle:
        for _ in range(3):
            settle()
            assert torch.equal(layer.weight[~mask], start[~mask])
            layer(torch.ones(3)).sum().backward()
            assert layer.weight.grad.tolist() == [[1.0, 0.0, 1.0]]  # what is held does not count in a clipped norm
            optimizer.step()
            optimizer.zero_grad()
        assert not torch.equal(layer.weight[~mask], start[~mask])
    assert torch.equal(layer.weight[~mask], start[~mask]) and not torch.equal(layer.weight[mask], start[mask])
    layer(torch.ones(3)).sum().backward()
    assert layer.weight.grad.tolist() == [[1.0, 1.0, 1.0]]


def test_a_mask_of_ones_changes_nothing():
    layer = nn.Linear(2, 1, bias=False)
    moved = layer.weight.detach() - 1
    with held(layer, {"weight": torch.ones(1, 2, dtype=torch.bool)}) as settle, torch.no_grad():
        layer.weight.copy_(moved)
        settle()
    assert torch.equal(layer.weight, moved)


def test_last_layers_take_what_stands_behind_them():
    net = SmallCNN(side=8, widths=(4, 6), embedding=8)
    layers = [module for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert [type(part).__name__ for part in last_layers(net, layers, 1)] == ["Linear"]
    third = last_layers(net, layers, 3)
    assert third[0] is layers[1] and sum(isinstance(part, nn.BatchNorm2d) for part in third) == 1
    with pytest.raises(BadConfig, match="k = 5: SmallCNN has 4 layers"):
        last_layers(net, layers, 5)


def test_only_the_chosen_train_and_the_rest_keeps_its_statistics():
    net = SmallCNN(side=8, widths=(4, 6), embedding=8)
    layers = [module for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    settle = only(net, last_layers(net, layers, 3))
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    assert trained == {"body.4.weight", "body.5.weight", "body.5.bias", "body.9.weight", "body.9.bias", "head.weight", "head.bias"}
    net.train()
    settle()
    before = {name: tensor.clone() for name, tensor in net.named_buffers()}
    net(torch.rand(5, 1, 8, 8))
    moved = {name for name, tensor in net.named_buffers() if not torch.equal(tensor, before[name])}
    assert moved == {"body.5.running_mean", "body.5.running_var", "body.5.num_batches_tracked"}
