"""Which weights of a module may move: masks over single weights, and the last layers of a stack."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from efface.core.errors import BadConfig, EffaceError


def top_share(scores: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Masks that are true for exactly round(share N) of all N scores, the largest ones over all tensors jointly.

    Of equal scores at the edge those that come first are taken.
    """
    flat = torch.cat([score.detach().flatten() for score in scores.values()])
    if not torch.isfinite(flat).all():
        raise EffaceError("a score is not finite, so the largest cannot be told; check the rows and the weights")
    count = round(share * len(flat))
    chosen = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
    if count:
        edge = flat.kthvalue(len(flat) - count + 1).values
        chosen = flat > edge
        ties = flat == edge
        chosen |= ties & (ties.cumsum(0) <= count - chosen.sum())
    pieces = chosen.split([score.numel() for score in scores.values()])
    return {name: piece.view(score.shape) for (name, score), piece in zip(scores.items(), pieces, strict=True)}


@contextmanager
def held(model: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[Callable[[], None]]:
    """A function that puts every weight outside of its mask back to what it was when the block began, bit by bit.

    Call it before each step. Momentum and weight decay move weights without a gradient; put back before every use,
    those outside behave as if they had never moved. Inside the block their gradients are zero, so that they do not count
    in a clipped norm. At the end of the block they are put back once more.
    """
    names = dict(model.named_parameters())
    kept = [(names[name], mask, names[name].detach().clone()) for name, mask in masks.items()]
    hooks = [parameter.register_post_accumulate_grad_hook(_masking(mask)) for parameter, mask, _ in kept]

    @torch.no_grad()
    def settle() -> None:
        for parameter, mask, value in kept:
            parameter.copy_(torch.where(mask, parameter, value))

    try:
        yield settle
    finally:
        for hook in hooks:
            hook.remove()
        settle()


def _masking(mask: Tensor) -> Callable[[Tensor], None]:
    def hook(parameter: Tensor) -> None:
        if parameter.grad is not None:
            parameter.grad.mul_(mask)

    return hook


def last_layers(model: nn.Module, layers: Sequence[nn.Module], k: int) -> list[nn.Module]:
    """The modules that hold the last `k` of `layers` and whatever stands after the first of those in the model's own order.

    Raises BadConfig when the model has fewer layers.
    """
    if k > len(layers):
        raise BadConfig(f"setting k = {k}: {type(model).__name__} has {len(layers)} layers")
    order = list(model.modules())
    first = next(at for at, module in enumerate(order) if module is layers[-k])
    return order[first:]  # what holds a module stands before it, so no such one is among these


def only(model: nn.Module, modules: Sequence[nn.Module]) -> Callable[[], None]:
    """Let the weights of `modules` alone train; returns a function that keeps normalization statistics of all others still.

    Call it before each forward pass in training: the training mode of the whole model would wake them.
    """
    own = {id(parameter) for module in modules for parameter in module.parameters()}
    chosen = {id(part) for module in modules for part in module.modules()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in own)
    still = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm) and id(module) not in chosen]

    def settle() -> None:
        for module in still:
            module.eval()

    return settle
