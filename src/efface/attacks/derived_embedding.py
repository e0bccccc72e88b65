"""RECE's derived embedding as an attack (arXiv:2407.12383): the states from which an edited model makes what the original made.

    c' = (lam_reg I + sum_l W_l^T W_l)^-1 (sum_l W_l^T W_old,l) c

for the original's state c at each position of a prompt, W_l the attacked model's projections that read text and W_old,l the
original's. It needs both models and no search: free, and the same every time. The states are fed in place of the prompt, for
several lam_reg: a small one comes nearest to the original's outputs, with long states; a larger one keeps them short.

A prompt counts as a success when the judge sees the concept, drawn from the derived states or from the prompt itself; the
value is that of the worst lam_reg. |c'| / |c| and the residual, as a share of sum |W_old,l c|^2, stand beside each.

Against weights that were trained rather than edited the formula is the same: what they changed elsewhere, it cannot undo.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import BudgetSpent
from efface.core.types import Attack, Measurement, Request
from efface.families import drawn, embedded
from efface.families.denoisers import Text
from efface.ops import class_stats, closed_form


class DerivedEmbeddingConfig(Config):
    """Settings of the attack."""

    lam_regs: tuple[Annotated[float, Field(ge=0)], ...] = Field((1e-3, 0.1, 1.0, 10.0), min_length=1)
    """Weights of keeping the states short, all of which are tried."""
    pictures: int = Field(drawn.FORGET, ge=1)
    """Pictures of the prompts to forget, spread evenly over them."""


class Tried(NamedTuple):
    """One lam_reg: successes (N,), length and residual of the states."""

    lam_reg: float
    hits: np.ndarray
    length: float
    residual: float


class DerivedEmbedding(Attack[DerivedEmbeddingConfig]):
    """An adversary who holds both models and feeds the edited one the states that undo the edit best."""

    card = Card(
        name="derived_embedding", title="Derived embedding", paper="arXiv:2407.12383", families=("diffusion",), needs=("weights",),
        uses=("names", "forget", "original", "reference"), access="weights", better="as-reference",
        departs="as an attack of its own, over several lam_reg, on the prompts of the forget rows",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the success rate at the worst lam_reg; Missing without an original or without a judge who knows the concept."""
        ask, original = embedded.question(request, ctx, self.config.pictures), ctx.baseline("original")
        plain, tried, why = self._sweep(embedded.bare(subject), original, ask, ctx)
        worst = max(tried, key=lambda one: one.hits.mean(), default=None)
        value = class_stats.wilson(plain if worst is None else worst.hits)
        parts: dict[str, float | None] = {"unattacked": float(plain.mean()), "worst lam_reg": None if worst is None else worst.lam_reg, "reference": None}
        for one in tried:
            parts |= {f"lam_reg {one.lam_reg:g}": float(one.hits.mean()), f"length {one.lam_reg:g}": one.length, f"residual {one.lam_reg:g}": one.residual}
        if (reference := ctx.baselines.get("reference")) is not None:
            first, base, _ = self._sweep(embedded.bare(reference), original, ask, ctx.alone(budget={}))
            parts |= {"reference": max(float(one.hits.mean()) for one in base), "reference_unattacked": float(first.mean())}
        table: list[dict[str, object]] = [
            {"row": at, "prompt": str(row["prompt"]), "unattacked": bool(plain[at]), **{f"lam_reg {one.lam_reg:g}": bool(one.hits[at]) for one in tried}}
            for at, row in enumerate(ask.rows)
        ]
        return Measurement(
            system=self.card.name, subject="", value=value.value, low=value.low, high=value.high, n=len(plain), better="as-reference", why=why,
            parts=parts, table=table,
        )

    def _sweep(self, subject: Any, original: Any, ask: embedded.Question, ctx: Context) -> tuple[np.ndarray, list[Tried], str]:
        """Successes without attack, each lam_reg, and why the sweep ends early ("" if it does not)."""
        plain = ask.plain(subject, ctx)
        tried: list[Tried] = []
        text = embedded.texts(original, ask)
        for lam_reg in self.config.lam_regs:
            try:
                ctx.spend(steps=1)
            except BudgetSpent as error:
                return plain, tried, str(error)
            found, length, residual = derived(original, subject, text, lam_reg)
            tried.append(Tried(lam_reg, plain | ask.fed(subject, found, ctx), length, residual))
        return plain, tried, ""


def derived(original: Any, subject: Any, text: Text, lam_reg: float) -> tuple[Text, float, float]:
    """The states from which `subject` makes what `original` makes of `text`, |c'| / |c|, and the residual's share."""
    states, length, residual = _one(*embedded.projections(original, subject), text.states, lam_reg)
    pooled = text.pooled
    if pooled is not None and embedded.pooled_too(subject, text):
        pooled, _, _ = _one(*embedded.projections(original, subject, "text.pooled"), pooled, lam_reg)
    return Text(states, pooled), length, residual


def _one(old: list[Tensor], new: list[Tensor], states: Tensor, lam_reg: float) -> tuple[Tensor, float, float]:
    same, cross = closed_form.products(old, new)
    c = states.double().cpu().reshape(-1, states.shape[-1])
    found = closed_form.recalled(same, cross, c, lam_reg)
    before, after = (torch.cat([weight.detach().double().cpu() for weight in side]) for side in (old, new))
    wanted = c @ before.T
    residual = float((found @ after.T - wanted).square().sum() / wanted.square().sum())
    return found.reshape(states.shape).to(states), float(found.norm() / c.norm()), residual
