"""Wasserstein-1 distance between the scores that pictures of the original and of the model get under a prompt.

    W1 = integral of |F_original(s) - F_model(s)| over scores s  (scipy.stats.wasserstein_distance)

Scores are a judge's probability of the class that a prompt names ("judge"), or cosines of an image-text encoder ("encoder"); an
encoder that took part in the forgetting sees less than another one. value = W1 for the erased prompt. Among the parts, `unrelated` is
the mean over prompts of other judges' classes, `neighbors` over the other classes of the concept's own judge: what is no longer red
must be drawn in some other color, so neighbors move even when a model is retrained.

The paper's own normalization could not be read, so none is made.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field
from scipy import stats

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.types import Measurement, Metric, Request
from efface.families import concept_chances, judges
from efface.families.two_towers import encoder


class ScoreW1Config(Config):
    """Settings of the distance between score distributions."""

    score: Literal["judge", "encoder"] = "judge"
    """Who scores: the judges, or the image-text encoder."""
    latents: int = Field(concept_chances.LATENTS, ge=10)
    """Latents to look at."""


class ScoreW1(Metric[ScoreW1Config]):
    """How far the scores of a generator's pictures have moved, for the erased prompt and for others."""

    card = Card(
        name="score_w1", title="Wasserstein-1 distance of prompt scores", paper="Prompting Forgetting: Unlearning in GANs via Textual Guidance",
        families=("gan",), uses=("names", "original", "reference"), better="as-reference",
        departs="the paper's normalization could not be read and is left out; a judge's probabilities stand in for the scores of vision-language models",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return W1 between original and subject with a bootstrap interval over latents. Raises Missing without original or judges."""
        original, found = ctx.baseline("original"), judges.judges(ctx)
        name, number = judges.asked(request.names, found)
        before, now = self._scores(original, ctx), self._scores(subject, ctx)
        distances = {key: w1(before[key], now[key]) for key in before}
        near = [value for (judge, at), value in distances.items() if judge == name and at != number]
        far = [value for (judge, _), value in distances.items() if judge != name]
        value, low, high = interval(before[name, number], now[name, number])
        reference = ctx.baselines.get("reference")
        parts: dict[str, float | None] = {
            "unrelated": float(np.mean(far)) if far else None, "neighbors": float(np.mean(near)) if near else None,
            "times_unrelated": value / float(np.mean(far)) if far and np.mean(far) > 0 else None,
            "reference": w1(before[name, number], self._scores(reference, ctx)[name, number]) if reference is not None else None,
        }
        for (judge, at), distance in distances.items():
            parts[f"{judge}: {judges.labels(found[judge])[at]}"] = distance
        return Measurement(
            system=self.card.name, subject="", value=value, low=low, high=high, n=self.config.latents, better="as-reference", parts=parts,
        )

    def _scores(self, subject: Any, ctx: Context) -> dict[tuple[str, int], np.ndarray]:
        """{(judge, class number): score (n,) of each picture under the class's name}."""
        found, count = judges.judges(ctx), self.config.latents
        if self.config.score == "judge":
            return {(name, at): column for name, judge in found.items() for at, column in enumerate(concept_chances.said(subject, judge, ctx, count).T)}
        drawn = concept_chances.pictures(subject, ctx, count)
        eyes = encoder(ctx)
        return {(name, at): column for name, judge in found.items() for at, column in enumerate(eyes.fits(drawn, judges.labels(judge)).T)}


def w1(one: np.ndarray, other: np.ndarray) -> float:
    """Wasserstein-1 distance between two samples of numbers."""
    return float(stats.wasserstein_distance(one, other))


def interval(one: np.ndarray, other: np.ndarray, draws: int = 200) -> tuple[float, float, float]:
    """W1, and the 95 % interval of a bootstrap that draws latents for both together; the value is always inside."""
    source = np.random.default_rng(0)
    picks = source.integers(len(one), size=(draws, len(one)))
    low, high = np.percentile([w1(one[pick], other[pick]) for pick in picks], [2.5, 97.5])
    value = w1(one, other)
    return value, min(value, float(low)), max(value, float(high))
