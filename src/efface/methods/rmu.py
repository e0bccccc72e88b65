"""Representation misdirection for unlearning, RMU (WMDP, arXiv:2403.03218): forget rows are steered to a random direction.

minimized = mse(H_after(x_forget), c u / |u|) + alpha * mse(H_after(x_keep), H_before(x_keep)),  u uniform on [0, 1)^d

H is the output of layer l; the mse of a row is the mean over dimensions and over the row's labeled tokens (S_i / n_i), and rows
are averaged. Only the matrices mlp.out of layers l-2..l are trained.

WMDP's code: l = 7 of 32, alpha 100, c 20 (6.5 and alpha 1200 for Zephyr-7B), lr 5e-5, 80 batches of 4, padding counted.
c and l depend on the model. Here the defaults adapt to it: l at the same relative depth, and c a multiple of the mean norm of H on
the forget rows (as in Adaptive RMU, arXiv:2408.06223, which multiplies it by 5). alpha is 20: keep rows that look much like the
forget rows leave no room at 100.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from efface.core.card import Card
from efface.core.config import Config, Fit, Stop
from efface.core.context import Context
from efface.core.errors import BadConfig
from efface.core.types import Method, Request
from efface.ops.anchors import PIECE, Frozen, drawn_first
from efface.ops.logprobs import IGNORE
from efface.ops.loop import descend, watch

DEPTH = 7 / 32
"""Relative depth of the steered layer in the paper's model."""


class RMUConfig(Config):
    """Settings of RMU."""

    layer: int | None = Field(None, ge=0)
    """Layer whose output is steered, from 0; none takes the paper's relative depth (7 of 32)."""
    c: float | None = Field(None, gt=0)
    """Norm of the direction that forget rows are steered to; none takes `times` the mean norm of what they have."""
    times: float = Field(5.0, gt=0)
    """Multiple of the mean norm, when c is not given."""
    alpha: float = Field(20.0, ge=0)
    """Weight of the keep term."""
    fit: Fit = Fit(lr=5e-5, steps=200, batch=8)
    """Optimizer settings; adapters (fit.rank) are not possible."""
    stop: Stop = Stop()
    """When to end."""


class RMU(Method[RMUConfig]):
    """Scrambles what the model thinks of forget rows in one layer, and holds what it thinks of keep rows."""

    card = Card(
        name="rmu", title="Representation misdirection", paper="arXiv:2403.03218", families=("causal-lm",), needs=("weights", "activations"),
        uses=("forget", "keep"),
        technique="parameter optimization", intent="remove", touches=("weights",), locality="selected layers", data=("forget rows", "keep rows"), operator="weights",
        sequence="accumulates", reversible=False, guarantee="empirical",
        departs="the mean over labeled tokens of each row, where WMDP's code counts padding and open-unlearning mixes the lengths of a "
        "batch; layer and c adapt to the model; alpha 20, where the paper has 100 or 1200; ends at the level of rows never seen, where the code always runs 80 batches",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject with edited mlp.out matrices of up to three layers. Raises BadConfig for fit.rank or an impossible layer."""
        config, forget, keep = self.config, request.rows("forget"), request.rows("keep")
        layer = _layer(config, len(subject.layers()))
        whole = subject.merged() if subject.adapted else subject
        after = whole.fork(("mlp.out",))
        after.model.requires_grad_(False)
        for weight in list(after.weights("mlp.out").values())[max(0, layer - 2) : layer + 1]:
            weight.requires_grad_(True)
        # What lies above the steered layer is neither needed nor trained, so it is not computed.
        now, then = _up_to(after, layer), _up_to(whole, layer)
        frozen = Frozen(whole.encode, keep, drawn_first(keep, "keep", ctx), lambda batch: (hidden(then, batch), batch.labels != IGNORE))
        c = config.c if config.c is not None else config.times * _mean_norm(then, ctx.random("norm").sample(forget, min(len(forget), PIECE)))
        ctx.note(layer=float(layer), c=c)
        target: Tensor | None = None

        def loss(batches: Mapping[str, Any]) -> dict[str, Tensor]:
            nonlocal target
            states = {name: (hidden(now, batch), batch.labels != IGNORE) for name, batch in batches.items()}
            here, mask = states["forget"]
            if target is None:
                target = control(here.shape[-1], c, ctx.seed_for("control")).to(here)
            there, keep_mask = states["keep"]
            return {
                "forget": distance(here, target, mask).mean(),
                "keep": config.alpha * distance(there, frozen.at(batches["keep"], keep_mask), keep_mask).mean(),
            }

        return descend(after, {"forget": forget, "keep": keep}, loss, config.fit, ctx, watch(subject, after, request, config.stop, ctx))


def control(size: int, c: float, seed: int) -> Tensor:
    """The direction (size,): entries of a uniform draw on [0, 1), scaled to the norm c; none is negative."""
    u = torch.rand(size, generator=torch.Generator().manual_seed(seed % 2**62), dtype=torch.float64)
    scaled: Tensor = c * u / u.norm()
    return scaled.float()


def distance(states: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared distance of each row (B,): over dimensions, and over the positions of `mask` (B, T)."""
    per_token = (states.float() - target.float()).square().mean(-1)  # (B, T)
    total: Tensor = (per_token * mask).sum(-1)
    return total / mask.sum(-1).clamp(min=1)


def hidden(short: Any, batch: Any) -> Tensor:
    """Output (B, L, d) of the last layer of a model that ends there."""
    caught: list[Tensor]
    with short.tap("layer", -1) as caught:
        short.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, logits_to_keep=1, use_cache=False)
    return caught[0]


def _layer(config: RMUConfig, count: int) -> int:
    layer = round(DEPTH * count) if config.layer is None else config.layer
    if layer >= count:
        raise BadConfig(f"setting layer = {layer}: the model has layers 0 to {count - 1}")
    if config.fit.rank:
        raise BadConfig(
            f"setting fit.rank = {config.fit.rank}: rmu edits the matrices mlp.out of layers {max(0, layer - 2)} to {layer} themselves "
            "and has no adapter; leave fit.rank at 0"
        )
    return layer


def _up_to(subject: Any, layer: int) -> Any:
    """A second skeleton over the same tensors that ends after `layer`."""
    short = subject.view()
    del short.layers()[layer + 1 :]
    return short


@torch.no_grad()
def _mean_norm(short: Any, rows: list[Any]) -> float:
    batch = short.encode(rows)
    return float(hidden(short, batch)[batch.labels != IGNORE].float().norm(dim=-1).mean())
