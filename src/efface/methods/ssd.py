"""Selective synaptic dampening, SSD (arXiv:2308.07707): shrinks the weights that matter more to the forget rows than to all rows.

I_S[i] = mean over rows n of S of (d loss_n / d theta_i)^2
selected:  I_forget[i] > alpha * I_all[i];        theta_i <- theta_i * min(lam * I_all[i] / I_forget[i], 1)

All rows hold the forget rows, so I_forget / I_all never exceeds n / n_forget: alpha is better thought of as a share of that
bound, and at or above it nothing is selected. The authors' code squares the gradient of a mini-batch's mean loss
instead (`fisher` = batch), which knows no such bound and depends on the batch size; their alpha = 10 (5 to 25), lam = 1 and
batches of 128 belong to that form.

Variants: without labels (LFSSD, arXiv:2402.19308, `signal` = outputs), |d |f(x)|^2 / d theta_i| stands for the square of the loss's
gradient; without alpha (ASSD, arXiv:2402.10098, `adaptive`), I_all is measured on the keep rows alone and alpha is the percentile
100 - ln(1 + 100 n_forget / n) of I_forget / I_keep.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import Unfit
from efface.core.types import Method, Request, Row
from efface.ops.importance import Importance, batch_squares, per_sample_squares, weights_of
from efface.ops.loop import mean_loss

PUBLISHED = 10.0
"""The authors' alpha, for the form that they compute."""
CHECKED = 128
"""Most keep rows on which the damage is measured."""


class SSDConfig(Config):
    """Settings of selective synaptic dampening."""

    alpha: float | None = Field(None, gt=0)
    """A weight is damped when it matters this many times as much to forget rows as to all; none takes share * n / n_forget, or 10 for the batch form."""
    share: float = Field(0.35, gt=0)
    """Alpha as a share of n / n_forget, the most that it can be; when alpha is not given."""
    lam: float = Field(1.0, ge=0)
    """Lambda of the paper: a damped weight is multiplied by lam * I_all / I_forget, at most by 1."""
    fisher: Literal["sample", "batch"] = "sample"
    """Gradients of single rows, or of a mini-batch's mean as in the authors' code."""
    signal: Literal["loss", "outputs"] = "loss"
    """What is differentiated: the loss (SSD), or the squared norm of the outputs, which needs no labels (LFSSD)."""
    adaptive: bool = False
    """Find alpha from the distribution of importances (ASSD); alpha and share are not read then."""
    batch: int = Field(64, ge=1)
    """Rows of one pass; it changes the result of the batch form alone, whose authors take 128."""


class SSD(Method[SSDConfig]):
    """Damps what the forget rows need more than the rest does, without a training step."""

    card = Card(
        name="ssd", title="Selective synaptic dampening", paper="arXiv:2308.07707", families=("classifier", "regressor"), needs=("losses",),
        uses=("forget", "keep"),
        technique="closed form", intent="remove", touches=("weights",), locality="selected parameters", data=("forget rows", "keep rows"), operator="weights",
        sequence="accumulates", reversible=False, guarantee="empirical",
        departs="gradients of single rows, where the code squares those of a mini-batch's mean (fisher=batch); that form weighs each "
        "batch by its rows, where the code counts a last batch of three like a full one; fails when nothing is selected, where the code gives the model back unchanged",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject with damped weights; its buffers stay. Raises Unfit when no weight is selected."""
        config = self.config
        after = subject.trainable(0, ctx.seed_for("adapter"))
        after.model.requires_grad_(False)
        forget, whole = self._importances(subject, after, request, ctx)
        rows = {"forget": len(request.rows("forget")), "all": len(request.rows("forget")) + len(request.rows("keep"))}
        of_forget, of_all = forget.mean(), whole.mean()
        alpha = self._alpha(of_forget, of_all, rows["all"] / rows["forget"])
        checked = ctx.random("damage").sample(request.rows("keep"), min(CHECKED, len(request.rows("keep"))))
        before = _state(after, checked)
        selected = 0
        weights = weights_of(after.model)
        for name, weight in weights.items():
            selected += damp(weight, of_forget[name], of_all[name], alpha, config.lam)
        count = sum(weight.numel() for weight in weights.values())
        largest = _largest(of_forget, of_all)
        ctx.note(alpha=alpha, selected=selected / count, largest_ratio=largest, bound=rows["all"] / rows["forget"], importance=forget.way)
        if not selected:
            raise Unfit(
                f"ssd selects none of the {count} weights: alpha = {alpha:g}, and the largest I_forget / I_all is {largest:.4g} (it cannot exceed "
                f"n / n_forget = {rows['all'] / rows['forget']:.4g} with gradients of single rows); lower alpha, or give a share below 1"
            )
        ctx.note(**{f"keep_{name}_{when}": value for when, state in (("before", before), ("after", _state(after, checked))) for name, value in state.items()})
        return after

    def _importances(self, subject: Any, after: Any, request: Request, ctx: Context) -> tuple[Importance, Importance]:
        """Of the forget rows and of all rows (of the keep rows, when adaptive); measured once for all runs of one context."""
        config, forget, keep = self.config, request.rows("forget"), request.rows("keep")
        losses = after.losses if config.signal == "loss" else lambda batch: after.raw(batch).float().reshape(len(batch.index), -1).square().sum(1)
        power: Literal[1, 2] = 2 if config.signal == "loss" else 1

        def over(name: str, rows: Sequence[Row], way: Any = "auto") -> Importance:
            def measure() -> Importance:
                starts = ctx.progress(range(0, len(rows), config.batch), f"importance for {name} rows", math.ceil(len(rows) / config.batch))
                batches = (after.encode(rows[at : at + config.batch]) for at in starts)
                if config.fisher == "batch":
                    return batch_squares(after.model, batches, losses, power)
                return per_sample_squares(after.model, batches, losses, power, way)

            return ctx.once(("importance", subject, name, request.digest, config.fisher, config.signal, config.batch), measure)

        of_forget = over("forget", forget)
        if config.fisher == "batch" and not config.adaptive:
            return of_forget, over("all", [*keep, *forget])
        of_keep = over("keep", keep, of_forget.way)
        # Sums over single rows add up, so no row is read twice.
        return of_forget, of_keep if config.adaptive else of_forget + of_keep

    def _alpha(self, of_forget: dict[str, Tensor], of_all: dict[str, Tensor], bound: float) -> float:
        config = self.config
        if config.adaptive:
            return adaptive_alpha(of_forget, of_all, 1 / bound)
        if config.alpha is not None:
            return config.alpha
        return config.share * bound if config.fisher == "sample" else PUBLISHED


@torch.no_grad()
def damp(weight: Tensor, forget: Tensor, whole: Tensor, alpha: float, lam: float) -> int:
    """How many entries of `weight` were selected; they are damped in place and no other bit changes."""
    chosen = forget > alpha * whole
    beta = (lam * whole[chosen] / forget[chosen]).clamp(max=1.0)
    weight[chosen] = (weight[chosen] * beta).to(weight.dtype)
    return int(chosen.sum())


def adaptive_alpha(of_forget: dict[str, Tensor], of_keep: dict[str, Tensor], share: float) -> float:
    """The percentile 100 - ln(1 + 100 share) of I_forget / I_keep over all weights that have such a ratio."""
    ratios = torch.cat([(of_forget[name] / of_keep[name]).flatten() for name in of_forget]).cpu().numpy()
    ratios = ratios[np.isfinite(ratios)]
    if not len(ratios):
        raise Unfit("ssd finds no weight that matters to keep rows, so there is no ratio to choose alpha from; look whether the model is trained")
    return float(np.percentile(ratios, 100 - math.log(1 + 100 * share)))


def _largest(of_forget: dict[str, Tensor], of_all: dict[str, Tensor]) -> float:
    """The largest I_forget / I_all where I_all is above zero."""
    return max(float(torch.where(whole > 0, of_forget[name] / whole, 0.0).max()) for name, whole in of_all.items())


def _state(subject: Any, rows: Sequence[Row]) -> dict[str, float]:
    """Mean loss on the rows and, for a classifier, how many of them it gets right."""
    if subject.family != "classifier":
        return {"loss": mean_loss(subject, rows)}
    right, found = np.array([row["y"] for row in rows]), subject.predict(rows)
    return {"loss": float(-np.log(found[np.arange(len(rows)), right] + 1e-30).mean()), "accuracy": float(np.mean(found.argmax(1) == right))}
