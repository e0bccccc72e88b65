"""Latent drift: how much a generator's pictures change where the original did not show the concept.

value = mean over such latents of d(G(z), G0(z)) / mean of d(G0(z), G0(z')) over random pairs of them,
d = mean absolute difference of pixels

0 = nothing else moved, 1 = as different as two pictures of two latents. Edited generators keep their latents, and users of published
methods find that all pictures change. A generator retrained from nothing has another latent space and comes out near 1 by
construction: for it the number says nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import Missing
from efface.core.types import Measurement, Metric, Request
from efface.families import concept_chances
from efface.ops import stats


class LatentDriftConfig(Config):
    """Settings of the latent drift."""

    latents: int = Field(concept_chances.LATENTS, ge=10)
    """Latents to look at."""


class LatentDrift(Metric[LatentDriftConfig]):
    """Change of the pictures that had nothing to do with the concept."""

    card = Card(
        name="latent_drift", title="Drift on unrelated latents", paper="", families=("gan",), uses=("names", "original"), better="lower",
        departs="mean absolute difference of pixels where papers use LPIPS, so that no network takes part",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the drift with a bootstrap interval over latents. Raises Missing without original or judge, or when all latents show the concept."""
        count, original = self.config.latents, ctx.baseline("original")
        showing = concept_chances.shows(original, request, ctx, count)
        if (~showing).sum() < 2:
            raise Missing(f"of {count} latents of the original fewer than two draw anything but the concept, so there is nothing else to keep")
        before, now = (concept_chances.pictures(s, ctx, count).astype(float) / 255 for s in (original, subject))
        apart = np.abs(now - before).mean((1, 2, 3))
        others = before[~showing]
        scale = max(pairs(others), 1e-12)
        drift = stats.bootstrap(apart[~showing] / scale)
        parts: dict[str, float | None] = {
            "pixels": float(apart[~showing].mean()), "random_pairs": scale, "on_concept": float(apart[showing].mean()) / scale if showing.any() else None,
        }
        return Measurement(
            system=self.card.name, subject="", value=drift.value, low=drift.low, high=drift.high, n=int((~showing).sum()), better="lower", parts=parts,
            table=[{"seed": concept_chances.FIRST + int(at), "value": float(apart[at] / scale)} for at in np.flatnonzero(~showing)],
        )


def pairs(pictures: np.ndarray) -> float:
    """Mean absolute difference of random pairs of pictures: each with the one that a fixed random turn puts beside it."""
    order = np.random.default_rng(0).permutation(len(pictures))
    return float(np.abs(pictures[order] - pictures[np.roll(order, 1)]).mean())
