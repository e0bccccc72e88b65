"""Relearning attack (arXiv:2406.13356, and OPTML-Group's and ETH's protocols): teach half of what was forgotten, ask the other half.

The forget rows are split into F_a and F_b (by author where rows name one). A copy of the model is fine-tuned on F_a for a
few steps, and the probability of the answers of F_b is taken on the way. What was removed must come back no faster than
in the retrained reference, which goes through the same steps on the same rows; what was only hidden comes back at once.

    area = mean over the curve's points of mean p(F_b);   gain = area - area of the reference
    s* = first step at which p(F_b) reaches half of the original's
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import BudgetSpent, Missing
from efface.core.types import Attack, Measurement, Request, Row
from efface.families import passes
from efface.ops import stats
from efface.ops.loop import Watch, descend


class RelearnConfig(Config):
    """Settings of the attack."""

    lrs: tuple[Annotated[float, Field(gt=0)], ...] = Field((1e-3,), min_length=1, max_length=3)
    """Learning rates to try; the one that brings back most counts."""
    steps: int = Field(8, ge=1)
    """Optimizer steps of the adversary."""
    every: int = Field(4, ge=1)
    """Steps between two points of the curve."""
    batch: int = Field(4, ge=1)
    """Rows of F_a in a step."""
    rank: int = Field(8, ge=0)
    """Rank of the adversary's LoRA adapter; 0 trains all weights."""
    rows: int = Field(20, ge=1)
    """Most rows of F_a, and of F_b."""


class Curve(NamedTuple):
    """Probability of each F_b answer (points, rows) at some steps, and why the curve ends early ("" if it does not)."""

    steps: tuple[int, ...]
    values: np.ndarray
    why: str

    def area(self, points: int) -> np.ndarray:
        """Mean over the first `points` points, for each row."""
        mean: np.ndarray = self.values[:points].mean(0)
        return mean


class Relearn(Attack[RelearnConfig]):
    """An adversary who fine-tunes the weights on part of the forgotten rows."""

    card = Card(
        name="relearn", title="Relearning", paper="arXiv:2406.13356", families=("causal-lm",), needs=("losses", "weights"),
        uses=("forget", "reference", "original"), access="weights", better="as-reference",
        departs="eight steps of LoRA at 1e-3 by default, and answers are measured by probability, so that it takes about a minute on a CPU",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the area under the curve of F_b at the worst learning rate; gain over the reference, s* and the points are parts.

        A budget of steps or seconds binds the adversary: when it is spent, the curve ends there and counts as it is.
        """
        taught, asked = split(request.rows("forget"), self.config.rows, ctx.random("relearn"))
        reference = ctx.baselines.get("reference")
        tried: dict[float, tuple[Curve, Curve | None]] = {}
        for lr in self.config.lrs:
            mine = self._curve(subject.unguarded(), taught, asked, lr, ctx)
            tried[lr] = mine, self._stored(reference, taught, asked, lr, ctx) if reference is not None else None
            if mine.why:
                break
        lr = max(tried, key=lambda rate: float(gains(*tried[rate]).mean()))
        return self._measurement(lr, *tried[lr], self._half(ctx, asked))

    def _measurement(self, lr: float, mine: Curve, base: Curve | None, half: float | None) -> Measurement:
        area = stats.bootstrap(mine.area(len(mine.steps)))
        parts: dict[str, float | None] = {f"step {step}": float(p) for step, p in zip(mine.steps, mine.values.mean(1), strict=True)}
        parts |= {"lr": lr, "s_star": first(mine, half), "gain": None, "gain_low": None, "gain_high": None}
        if base is not None:
            gain = stats.bootstrap(gains(mine, base))
            parts |= {"gain": gain.value, "gain_low": gain.low, "gain_high": gain.high, "reference_s_star": first(base, half)}
            points = len(mine.steps)
            parts["reference_area"] = parts["reference"] = float(base.area(points).mean())
            parts |= {f"reference step {step}": float(p) for step, p in zip(base.steps[:points], base.values.mean(1), strict=False)}
        table: list[dict[str, object]] = [
            {"row": at, "step": step, "value": float(p), "reference": float(base.values[number, at]) if base else None}
            for number, step in enumerate(mine.steps)
            for at, p in enumerate(mine.values[number])
        ]
        return Measurement(
            system=self.card.name, subject="", value=area.value, low=area.low, high=area.high, n=mine.values.shape[1], better="as-reference",
            why=mine.why, parts=parts, table=table,
        )

    def _curve(self, subject: Any, taught: Sequence[Row], asked: Sequence[Row], lr: float, ctx: Context) -> Curve:
        """Teach a copy and take the points; ends early, with the reason, when the context's budget is spent."""
        apart = ctx.alone(folder=None, spent=ctx.spent, began=ctx.began)
        rank = self.config.rank
        # Folded in, so that every model, adapter or not, is attacked through an adapter of the same kind.
        copy = (subject.merged() if rank and subject.adapted else subject).trainable(rank, ctx.seed_for("relearn adapter"))
        points: list[np.ndarray] = []

        def look() -> float:
            points.append(probabilities(copy, asked))
            return 0.0

        fit = Fit(lr=lr, steps=self.config.steps, batch=self.config.batch, rank=rank)
        why = ""
        try:
            descend(copy, {"taught": taught}, lambda batch: {"loss": copy.losses(batch["taught"]).mean()}, fit, apart, Watch(look, math.inf, self.config.every, ""))
        except BudgetSpent as error:
            why = str(error)
        steps = [*range(0, self.config.steps, self.config.every), self.config.steps][: len(points)]
        return Curve(tuple(steps), np.stack(points), why)

    def _stored(self, reference: Any, taught: Sequence[Row], asked: Sequence[Row], lr: float, ctx: Context) -> Curve:
        """The reference's curve, without any budget: it is a yardstick, not the adversary. Made once, and kept beside the passes."""
        settings = [list(taught), list(asked), lr, self.config.model_dump(exclude={"lrs"}), ctx.seed]

        def compute() -> object:
            curve = self._curve(reference, taught, asked, lr, ctx.alone(budget={}))
            return {"steps": curve.steps, "values": curve.values.tolist()}

        found = passes.kept(reference, self.card.name, settings, ctx, compute)
        return Curve(tuple(found["steps"]), np.array(found["values"]), "")

    def _half(self, ctx: Context, asked: Sequence[Row]) -> float | None:
        """Half of the original's probability on F_b; None without an original."""
        original = ctx.baselines.get("original")
        return None if original is None else float(probabilities(original, asked).mean()) / 2


def split(rows: Sequence[Row], most: int, source: random.Random) -> tuple[list[Row], list[Row]]:
    """F_a and F_b, disjoint, at most `most` rows each: by author where rows name several, else at random. Missing for one row."""
    if len(rows) < 2:
        raise Missing(f"relearning needs at least two forget rows, one to teach and one to ask; found {len(rows)}")
    authors = list(dict.fromkeys(str(row["author"]) for row in rows if "author" in row))
    if len(authors) > 1 and all("author" in row for row in rows):
        taught = set(source.sample(authors, len(authors) // 2))
        sides = [row for row in rows if str(row["author"]) in taught], [row for row in rows if str(row["author"]) not in taught]
    else:
        mixed = source.sample(list(rows), len(rows))
        sides = mixed[: len(mixed) // 2], mixed[len(mixed) // 2 :]
    first_side, second_side = (source.sample(side, most) if len(side) > most else side for side in sides)
    return first_side, second_side


def probabilities(subject: Any, rows: Sequence[Row], size: int = 16) -> np.ndarray:
    """exp(-mean loss) of each row's answer, in full precision whatever the training uses."""
    with torch.no_grad(), torch.autocast(subject.device.type, enabled=False):
        found = [subject.losses(subject.encode(rows[at : at + size])).float().cpu().numpy() for at in range(0, len(rows), size)]
    chances: np.ndarray = np.exp(-np.concatenate(found).astype(float))
    return chances


def gains(mine: Curve, base: Curve | None) -> np.ndarray:
    """Area of each row beyond the reference's over the same points; the area itself without a reference."""
    points = len(mine.steps)
    own = mine.area(points)
    return own if base is None else own - base.area(points)


def first(curve: Curve, level: float | None) -> float | None:
    """First step at which the mean reaches `level`; None when it never does."""
    if level is None:
        return None
    return next((float(step) for step, p in zip(curve.steps, curve.values.mean(1), strict=True) if p >= level), None)
