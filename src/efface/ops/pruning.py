"""Which weights to keep when most are pruned: by magnitude or by SynFlow (arXiv:2006.05467), in exact numbers, over all layers at once.

A mask is True where a weight stays. Of N weights at rate p exactly round((1 - p) N) stay, at the end of several rounds as well:
each round keeps a number that is rounded from the whole, not from the round before.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from efface.core.errors import BadConfig, Unfit

Masks = dict[str, Tensor]
"""{name of a weight: True where it stays}."""
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def prunable(model: nn.Module, layers: str = "auto") -> dict[str, nn.Parameter]:
    """Weights that are pruned, by name: of convolutions ("conv"), of linear layers too ("all"), or "auto": linear ones where nothing convolves."""
    found = {kind: _weights(model, kind) for kind in (CONVOLUTIONS, (*CONVOLUTIONS, nn.Linear))}
    convolving, every = found.values()
    chosen = every if layers == "all" or (layers == "auto" and not convolving) else convolving
    if not chosen:
        raise Unfit(f"{type(model).__name__} has no {'convolution' if layers == 'conv' else 'linear or convolutional layer'} to prune")
    return chosen


def kept_count(total: int, rate: float) -> int:
    """How many of `total` weights stay at the rate: round((1 - rate) total)."""
    return round(total * round(1 - rate, 12))  # 1 - 0.9 is 0.09999999999999998


def magnitude(weights: Mapping[str, Tensor], count: int, least: float = 0.0) -> Masks:
    """The mask that keeps the `count` largest absolute values over all weights together.

    A layer whose values are small all over may be emptied by that. With `least`, the largest values of each layer, that
    share of it (rounded up), come before all others.
    """
    scores = {name: weight.detach().abs() for name, weight in weights.items()}
    floors = {name: math.ceil(least * score.numel()) for name, score in scores.items()}
    if sum(floors.values()) > count:
        raise BadConfig(f"{count} weights are to stay in all, and {sum(floors.values())} as a share of {least:g} of each layer; lower the rate or the share")
    for name, floor in floors.items():
        if floor:
            scores[name] = torch.where(_largest({name: scores[name]}, floor)[name], torch.inf, scores[name])
    return _largest(scores, count)


def schedule(total: int, rate: float, rounds: int) -> list[int]:
    """How many weights stay after each round, the same share of them going in each; exact at the last."""
    return [*(round(total * (1 - rate) ** (at / rounds)) for at in range(1, rounds)), kept_count(total, rate)]


def synflow(model: nn.Module, names: Mapping[str, Tensor], rate: float, forward: Callable[[nn.Module], Tensor], rounds: int = 100) -> Masks:
    """The mask that keeps the weights through which most flows: |w dR/dw|, R the sum of what the model gives.

    `forward` must pass an input of ones through the module that it is given: a copy in evaluation mode with absolute weights,
    in float64 as the products of many layers are large. It prunes in many rounds, since a weight counts for more once its
    neighbors are gone. What is added or subtracted (biases, the means of batch normalization) is zero in the copy: then the
    same flow passes every layer, which is what keeps a layer from being emptied; the absolute value of a mean would hold it back.
    """
    flow = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        for module in flow.modules():
            if isinstance(module, NORMS) and module.running_mean is not None:
                module.running_mean.zero_()
        for name, p in flow.named_parameters():
            if name.rpartition(".")[2] == "bias":
                p.zero_()
            else:
                p.abs_()
    flow.requires_grad_(False)
    weights = {name: p for name, p in flow.named_parameters() if name in names}
    for p in weights.values():
        p.requires_grad_(True)
    masks: Masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in weights.items()}
    for count in schedule(_size(weights), rate, rounds):
        with torch.enable_grad():
            total = forward(flow).sum()
            grads = torch.autograd.grad(total, list(weights.values()))
        if not bool(torch.isfinite(total)):
            raise Unfit("the flow through the model overflows, so SynFlow cannot score its weights; prune by magnitude")
        scores = {
            name: torch.where(masks[name], (p.detach() * grad).abs(), -1.0) for (name, p), grad in zip(weights.items(), grads, strict=True)
        }
        masks = _largest(scores, count)
        apply(weights, masks)
    return masks


@torch.no_grad()
def apply(weights: Mapping[str, Tensor], masks: Masks) -> int:
    """Sets what a mask leaves out to zero, in place; how many entries were not zero before."""
    filled = 0
    for name, mask in masks.items():
        gone = ~mask
        filled += int(torch.count_nonzero(weights[name][gone]))
        weights[name].masked_fill_(gone, 0.0)
    return filled


def zeros_of(weights: Mapping[str, Tensor]) -> Masks:
    """The mask that a pruned model carries already: what is zero stays out."""
    return {name: weight.detach() != 0 for name, weight in weights.items()}


def collapsed(masks: Masks) -> list[str]:
    """Names of the weights of which nothing stays: such a layer gives the same for every input."""
    return [name for name, mask in masks.items() if not bool(mask.any())]


def _largest(scores: Mapping[str, Tensor], count: int) -> Masks:
    """True at the `count` highest scores of all; among equal ones those that come first."""
    flat = torch.cat([score.flatten() for score in scores.values()])
    if not 0 < count <= len(flat):
        raise BadConfig(f"{count} of {len(flat)} weights would stay; choose a rate that leaves some")
    lowest = torch.kthvalue(flat, len(flat) - count + 1).values  # of those that stay
    kept = flat > lowest
    kept[torch.nonzero(flat == lowest).flatten()[: count - int(kept.sum())]] = True
    parts = kept.split([score.numel() for score in scores.values()])
    return {name: part.reshape(score.shape) for (name, score), part in zip(scores.items(), parts, strict=True)}


def _size(weights: Mapping[str, Tensor]) -> int:
    return sum(weight.numel() for weight in weights.values())


def _weights(model: nn.Module, kinds: tuple[type, ...]) -> dict[str, nn.Parameter]:
    inside = {id(p) for module in model.modules() if isinstance(module, kinds) for name, p in module.named_parameters(recurse=False) if name == "weight"}
    return {name: p for name, p in model.named_parameters() if id(p) in inside}
