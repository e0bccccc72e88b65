"""Prune first, then unlearn (arXiv:2304.04934): a sparse model is easier to unlearn from; any other method runs under the mask.

1. A mask over the weights: the largest magnitudes once (OMP), over several rounds with training between them (IMP), or SynFlow.
2. Training under the mask on forget and keep rows together, as if the model had always been sparse.
3. The method `then` under the same mask. What is pruned stays exactly zero, whatever weight decay, momentum or noise do.

The code: 95 % of the convolutions' weights, OMP recommended as its mask depends least on what will be forgotten; after pruning the
weights of epoch 8 come back and training runs anew from there. IMP takes 20 % a round, SynFlow 100 rounds without data.

The mask was found with the forget rows, so that even `then` = a way of training anew is not exact unlearning.
"""

from __future__ import annotations

import math
import weakref
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from efface.core import registry
from efface.core.capabilities import check
from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import BadConfig, Unfit
from efface.core.types import Method, Request, Row
from efface.ops.loop import descend
from efface.ops.pruning import Masks, apply, collapsed, kept_count, magnitude, prunable, schedule, synflow, zeros_of

EACH = 0.2
"""Share of the remaining weights that a round of IMP takes."""


class SparseConfig(Config):
    """Settings of pruning before unlearning."""

    by: Literal["omp", "imp", "synflow", "zeros"] = "omp"
    """How the mask is found; zeros takes that of a model pruned before, so that several requests are served under one mask."""
    rate: float = Field(0.9, gt=0, lt=1)
    """Share of the weights that are pruned."""
    layers: Literal["auto", "conv", "all"] = "auto"
    """Whose weights: of convolutions (auto: of linear layers where there are none), or of linear layers too."""
    least: float = Field(0.01, ge=0, lt=1)
    """Share of each layer's weights that omp and imp leave in any case, lest small ones empty a layer."""
    then: str = "finetune"
    """Name of the method that unlearns under the mask."""
    settings: dict[str, Any] = {}
    """Its settings, with dotted names: {"fit.lr": 0.01}."""
    fit: Fit = Fit(optimizer="sgd", lr=1e-2, epochs=20, batch=256, momentum=0.9, weight_decay=5e-4, clip=0, schedule="linear")
    """Training under the mask after each pruning; fit.steps and fit.epochs 0 leave it out."""


class Sparse(Method[SparseConfig]):
    """Prunes a model and lets another method unlearn from what is left."""

    card = Card(
        name="sparse", title="Pruning before unlearning", paper="arXiv:2304.04934", families=("classifier", "regressor"), needs=("losses",),
        uses=("forget", "keep"),
        technique="pruning", intent="remove", touches=("weights",), locality="all", data=("forget rows", "keep rows"), operator="weights",
        sequence="accumulates", reversible=False, guarantee="empirical",
        departs="prunes the trained model that is given and trains on from its own weights, where the code goes back to a checkpoint of epoch 8; "
        "SynFlow scores the trained weights, ends at the exact count, and leaves out what is added to a flow; linear layers are pruned where nothing convolves; "
        "one percent of each layer stays in any case",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the pruned subject after `then`. Raises Unfit when a layer would lose all weights, BadConfig when `then` cannot run under a mask."""
        config = self.config
        system = _under_mask(config.then, config.settings)
        check(system, subject, request)
        pruned = subject.trainable(0, ctx.seed_for("adapter"))
        pruned.model.requires_grad_(False)
        rows = [*request.rows("forget"), *request.rows("keep")]
        masks = self._prune(pruned, rows, ctx)
        pruned.fresh = partial(_fresh, pruned, masks)
        after = system.run(pruned, request, ctx)
        vars(after).pop("fresh", None)
        _release(after.model)
        weights = dict(after.model.named_parameters())
        if lost := [name for name, mask in masks.items() if name not in weights or weights[name].shape != mask.shape]:
            raise Unfit(f"{config.then} gives a model without {lost[0]} as it was pruned, so the mask cannot be kept; choose another method")
        filled = apply(weights, masks)
        total, left = sum(mask.numel() for mask in masks.values()), sum(int(mask.sum()) for mask in masks.values())
        ctx.note(then=config.then, pruned=1 - left / total, kept_weights=float(left), pruned_layers=float(len(masks)), filled=float(filled))
        after.origin = ""
        return after

    def _prune(self, pruned: Any, rows: list[Row], ctx: Context) -> Masks:
        """Prune and train in place; the mask, which the model now keeps by itself."""
        config = self.config
        weights = prunable(pruned.model, config.layers)
        total = sum(weight.numel() for weight in weights.values())
        if config.by == "imp":
            rounds = max(1, math.ceil(math.log(1 - config.rate) / math.log(1 - EACH)))
            counts = schedule(total, config.rate, rounds)
        else:
            counts = [kept_count(total, config.rate)]
        masks: Masks = {}
        for number, count in enumerate(counts, start=1):
            masks = self._mask(pruned, weights, count, rows)
            if empty := collapsed(masks):
                raise Unfit(f"at rate {config.rate:g} nothing would be left of {', '.join(empty)}; lower rate, raise least, or prune by synflow")
            apply(weights, masks)
            _hold(pruned.model, masks)
            if config.by != "zeros" and (config.fit.steps or config.fit.epochs):
                self._train(pruned, rows, ctx, number)
        return masks

    def _mask(self, pruned: Any, weights: dict[str, nn.Parameter], count: int, rows: list[Row]) -> Masks:
        if self.config.by == "zeros":
            masks = zeros_of(weights)
            if all(bool(mask.all()) for mask in masks.values()):
                raise Unfit("by = zeros takes the mask of a pruned model, and none of this model's weights is zero; prune it by omp, imp or synflow")
            return masks
        if self.config.by == "synflow":
            example = pruned.encode(rows[:1]).x
            if not isinstance(example, Tensor):
                raise Unfit("SynFlow sends an input of ones through the model, and a text model reads tokens; prune by omp or imp")
            ones = torch.ones_like(example, dtype=torch.float64)
            return synflow(pruned.model, weights, self.config.rate, lambda model: _output(model(ones)))
        return magnitude(weights, count, self.config.least)

    def _train(self, pruned: Any, rows: list[Row], ctx: Context, number: int) -> None:
        """Train on all rows under the mask, with a log and a seed of its own."""
        own = ctx.alone(seed=ctx.seed_for("pruned", number), curve=[], notes={}, budget={}, folder=None)
        pruned.model.requires_grad_(True)
        descend(pruned, {"all": rows}, lambda batches: {"all": pruned.losses(batches["all"]).mean()}, self.config.fit, own)
        ctx.note(pruned_loss=own.curve[-1]["all"])


class _Mask:
    """A forward hook that keeps one weight of a module at zero where it is pruned; copies of the module carry it along."""

    def __init__(self, keep: Tensor) -> None:
        self.keep = keep
        self.handle: Any = None
        self.hooked: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> _Mask:
        return _Mask(self.keep)

    def __call__(self, module: nn.Module, given: Any) -> None:
        weight = module.weight
        if not isinstance(weight, nn.Parameter):  # a stand-in of one call, as torch.func makes
            return
        if bool((weight.detach() * ~self.keep).any()):  # only then: a write between two passes would spoil the first one's gradient
            apply({"": weight}, {"": self.keep})
        if weight.requires_grad and (self.hooked is None or self.hooked() is not weight):
            self.handle, self.hooked = weight.register_hook(lambda grad: grad * self.keep), weakref.ref(weight)

    def release(self) -> None:
        """Let the weight's gradient alone again."""
        if self.handle is not None:
            self.handle.remove()


def _hold(model: nn.Module, masks: Masks) -> None:
    """Let the model keep its pruned weights at zero through training, and its copies too."""
    _release(model)
    names = {id(p): name for name, p in model.named_parameters()}
    for module in model.modules():
        name = names.get(id(getattr(module, "weight", None)), "")
        if name in masks:
            module.register_forward_pre_hook(_Mask(masks[name]))


def _release(model: nn.Module) -> None:
    for module in model.modules():
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, _Mask):
                hook.release()
                del module._forward_pre_hooks[key]


def _fresh(pruned: Any, masks: Masks, seed: int) -> Any:
    """New random weights under the same mask, for a method that trains anew."""
    other = type(pruned).fresh(pruned, seed)
    _hold(other.model, masks)
    apply(dict(other.model.named_parameters()), masks)
    return other


def _under_mask(then: str, settings: dict[str, Any]) -> Any:
    """The method that unlearns; BadConfig for one that cannot keep a mask."""
    if then == "sparse":
        raise BadConfig("setting then = 'sparse': pruning is done once; name the method that unlearns afterwards, such as finetune")
    system = registry.load("method", then).set(settings)
    if getattr(getattr(system.config, "fit", None), "rank", 0):
        raise BadConfig(f"setting settings = {settings}: an adapter (fit.rank) would fill what is pruned; leave fit.rank at 0")
    return system


def _output(given: Any) -> Tensor:
    return getattr(given, "logits", given)  # type: ignore[no-any-return]
