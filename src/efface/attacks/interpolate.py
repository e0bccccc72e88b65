"""Interpolation attack: where the original's weights are public, go part of the way back to them.

    theta(t) = theta_u + t (theta_o - theta_u),   0 < t < 1

At t = 1 every model is the original, so what counts is how soon its knowledge is back:

    value = mean over the grid of the mean p(answer);   half_at = smallest t at which it reaches half of the original's

half_at is read off the line through the points, from the unattacked model at 0 to the original at 1. The retrained reference
goes the same way. t counts in shares of a way that is short for a model whose weights hardly moved, and long for a retrained
one: `distance` is its length |theta_o - theta_u| / |theta_o|, and `half_distance` = half_at distance is how far the weights had
to be moved until half of the knowledge was back. There is no published value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import Unfit
from efface.core.types import Attack, Measurement, Request
from efface.families import altered, forms
from efface.families.altered import Questions, Swept
from efface.families.probing import NEW_TOKENS
from efface.ops import stats


class InterpolateConfig(Config):
    """Settings of the attack."""

    shares: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field((0.1, 0.25, 0.5, 0.75), min_length=1)
    """Shares t of the way to the original."""
    rows: int = Field(20, ge=1)
    """Most forget rows to measure, evenly spaced."""
    max_new: int = Field(NEW_TOKENS, ge=0)
    """Most tokens of an answer at the t nearest to one half; 0 measures probabilities alone."""


class Interpolate(Attack[InterpolateConfig]):
    """An adversary who has the original's weights as well."""

    card = Card(
        name="interpolate", title="Interpolation to the original", paper="", families=("causal-lm",), needs=("score", "weights"),
        uses=("forget", "original", "reference"), access="weights", better="as-reference",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the mean over the way of the answers' probability; half_at, with an interval, and each point are parts.

        Raises Missing without an original, Unfit for one of another architecture. A spent budget ends the way early.
        """
        original: Any = ctx.baseline("original")
        asked = altered.questions(forms.sample(request.rows("forget"), self.config.rows), self.config.max_new)
        candidate = altered.bare(subject)
        mine = self._way(candidate, original, asked, ctx)
        base = None
        reference = ctx.baselines.get("reference")
        if reference is not None:
            settings = [self.config.model_dump(), asked.rows, altered.named(original, ctx)]
            base = altered.stored(reference, self.card.name, settings, ctx, lambda own: self._way(reference, original, asked, own))
        found = altered.measurement(self.card, asked, candidate, mine, base, ctx)
        end = altered.chances(original, asked.rows, ctx)
        areas = {"": np.stack(list(mine.points.values())).mean(0)}
        area = stats.bootstrap(areas[""])
        parts = {**found.parts, **self._halves(candidate, original, mine, end, asked, ctx)}
        if base is not None:
            areas["reference"] = np.stack([base.points[name] for name in mine.points]).mean(0)
            gain = stats.bootstrap(areas[""] - areas["reference"])
            parts |= {"reference": float(areas["reference"].mean()), "gain": gain.value, "gain_low": gain.low, "gain_high": gain.high}
            its = self._halves(reference, original, base, end, asked, ctx)
            parts |= {f"reference {name}": value for name, value in its.items()}
        return found.model_copy(update={"value": area.value, "low": area.low, "high": area.high, "parts": parts, "why": mine.why})

    def _way(self, subject: Any, original: Any, asked: Questions, ctx: Context) -> Swept:
        altered.same_shape(subject, original, self.card.name)
        grid = {f"t {t:g}": partial(between, subject, original, t) for t in sorted(self.config.shares)}
        return altered.swept(grid, asked, ctx, f"t {min(self.config.shares, key=lambda t: abs(t - 0.5)):g}")

    def _halves(self, subject: Any, original: Any, way: Swept, end: np.ndarray, asked: Questions, ctx: Context) -> dict[str, float | None]:
        """half_at with its bootstrap interval over rows, the length of the way, and that of its part up to half_at."""
        places = [0.0, *(float(name.split()[1]) for name in way.points), 1.0]
        curve = np.stack([altered.chances(subject, asked.rows, ctx), *way.points.values(), end])
        picks = np.random.default_rng(0).integers(curve.shape[1], size=(stats.DRAWS, curve.shape[1]))
        drawn = [half_at(places, curve[:, pick].mean(1)) for pick in picks]
        low, high = map(float, np.percentile(drawn, [2.5, 97.5]))
        half, length = half_at(places, curve.mean(1)), distance(subject, original)
        return {"half_at": half, "half_at_low": low, "half_at_high": high, "distance": length, "half_distance": half * length}


@contextmanager
def between(subject: Any, original: Any, t: float) -> Iterator[Any]:
    """A copy of the subject whose weights are t of the way to the original's. Raises Unfit where a weight has no counterpart."""
    copy = subject.merged()
    with torch.no_grad():
        for weight, goal in pairs(copy, original):
            # In this form t = 1 is the original to the last bit; sums are wide, as a small step would round away in half precision.
            weight.copy_((1 - t) * weight.float() + t * goal.float().to(weight.device))
    yield copy


def pairs(subject: Any, original: Any) -> list[tuple[Tensor, Tensor]]:
    """Each weight of the subject with its counterpart, adapters folded in. Raises Unfit where there is none."""
    mine, goal = (dict((model.merged() if model.adapted else model).model.named_parameters()) for model in (subject, original))
    if odd := [name for name, weight in mine.items() if name not in goal or goal[name].shape != weight.shape]:
        raise Unfit(f"the original has no weight {odd[0]} of shape {tuple(mine[odd[0]].shape)}; give the original that the candidate was made from")
    return [(weight, goal[name]) for name, weight in mine.items()]


@torch.no_grad()
def distance(subject: Any, original: Any) -> float:
    """|theta_o - theta_u| / |theta_o| over all weights together."""
    found = [((a.float() - b.float().to(a.device)).square().sum().item(), b.float().square().sum().item()) for a, b in pairs(subject, original)]
    return float((sum(gone for gone, _ in found) / sum(whole for _, whole in found)) ** 0.5)


def half_at(places: Sequence[float], curve: Sequence[float] | np.ndarray) -> float:
    """The first place at which the line through the curve reaches half of its last value."""
    half = curve[-1] / 2
    at = next(number for number, value in enumerate(curve) if value >= half)
    if at == 0:
        return float(places[0])
    before, after = float(curve[at - 1]), float(curve[at])
    return float(places[at - 1] + (places[at] - places[at - 1]) * (half - before) / (after - before))
