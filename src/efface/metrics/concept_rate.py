"""Concept rate: how often a generator still draws the concept, as a judge that took no part in the forgetting says.

value = share of latents whose picture the judge puts into the concept's class, with its Wilson interval

A generator that draws nothing at all has a rate of 0 too: `likeness` says how near its pictures lie to sound ones, those of the
original without the concept and of the reference (1 = the same, 0 = as far as two random ones); compare it with `reference_likeness`.

The original and a retrained reference are parts; a reference need not be at 0, for judges err. Pictures at equal latents are not
compared with the reference's: a retrained generator has a latent space of its own.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.types import Measurement, Metric, Request
from efface.families import concept_chances
from efface.ops import class_stats


class ConceptRateConfig(Config):
    """Settings of the concept rate."""

    latents: int = Field(concept_chances.LATENTS, ge=10)
    """Latents to look at."""


class ConceptRate(Metric[ConceptRateConfig]):
    """Share of a generator's pictures that show the concept."""

    card = Card(
        name="concept_rate", title="Concept rate", paper="", families=("gan",), uses=("names", "original", "reference"), better="as-reference",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the rate, beside the original's and the reference's. Raises Missing when no judge knows the concept."""
        count = self.config.latents
        shown = concept_chances.shows(subject, request, ctx, count)
        rate = class_stats.wilson(shown)
        parts: dict[str, float | None] = {}
        for name in ("original", "reference"):
            other = ctx.baselines.get(name)
            parts[name] = float(concept_chances.shows(other, request, ctx, count).mean()) if other is not None else None
        parts["fall"] = 1 - rate.value / parts["original"] if parts["original"] else None
        for name, one in (("likeness", subject), ("reference_likeness", ctx.baselines.get("reference"))):
            known = one is not None and any(ctx.baselines.get(other) not in (None, one) for other in ("original", "reference"))
            parts[name] = float(concept_chances.likeness(one, request, ctx, count).mean()) if known else None
        parts |= {f"clarity_{name}": float(values.mean()) for name, values in concept_chances.clarity(subject, ctx, count).items()}
        return Measurement(
            system=self.card.name, subject="", value=rate.value, low=rate.low, high=rate.high, n=count, better="as-reference", parts=parts,
            table=[{"seed": concept_chances.FIRST + at, "value": float(one)} for at, one in enumerate(shown)],
        )
