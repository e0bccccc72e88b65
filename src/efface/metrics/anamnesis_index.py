"""Anamnesis index (arXiv:2201.05629, in mini-batch steps as in arXiv:2210.08196): how fast what was forgotten is learned again.

    AIN = steps(candidate) / steps(reference)

steps(m) = optimizer steps of a copy of m on all training rows, forget and keep, until its mean loss on held-out rows like the
forget rows (the unseen rows) is at most (1 + within) times the original's there; looked at after every step, so at least 1.
1 is what a retrained model needs. Far below 1, the knowledge is still there; above 1, the model learns worse than one that
never knew the rows.

A model that is not there when the steps are used up has no number of steps. The index is then not given but bounded: `low`
when the candidate was not there, `high` when the reference was not; with neither there, the measurement is skipped.

The authors: Adam at 1e-2 or 1e-3, batch 256, at most 10 epochs, which on small data end long before a retrained model is there.
At 1e-2 the first steps cost even the original its level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.types import Measurement, Metric, Request, Row
from efface.ops.loop import Watch, descend, mean_loss

PIECE = 256
"""Held-out rows of one pass."""


class AnamnesisIndexConfig(Config):
    """Settings of the index."""

    within: float = Field(0.05, ge=0)
    """By what share the loss on the held-out rows may still exceed the original's."""
    rows: int = Field(200, ge=1)
    """Most held-out rows, evenly spaced."""
    steps: int = Field(600, ge=1)
    """Most steps of relearning."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate of Adam."""
    batch: int = Field(64, ge=1)
    """Rows in a step."""


class Relearned(NamedTuple):
    """Loss on the held-out rows before any step, and the number of the first step after which the level was met (None: never)."""

    start: float
    steps: int | None


class AnamnesisIndex(Metric[AnamnesisIndexConfig]):
    """Relearning steps of the candidate as a share of those of the retrained reference."""

    card = Card(
        name="anamnesis_index", title="Anamnesis index", paper="arXiv:2201.05629", families=("classifier", "regressor"),
        needs=("losses", "weights"), uses=("forget", "keep", "unseen", "original", "reference"), better="as-reference",
        departs="loss for classifiers too, where the paper has accuracy; at most 600 steps of 64 rows, where the code has 10 epochs of 256",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the index, or the bound that there is. Raises Missing without original or reference."""
        original, reference = ctx.baseline("original"), ctx.baseline("reference")
        held = request.sample("unseen", self.config.rows)
        level = (1 + self.config.within) * mean_loss(original, held, PIECE)
        taught = [*request.rows("forget"), *request.rows("keep")]
        fit = Fit(optimizer="adam", lr=self.config.lr, steps=self.config.steps, batch=self.config.batch, clip=0)

        def relearned(model: Any) -> Relearned:
            key = (model, "anamnesis_index", self.config, request.digest, level, ctx.seed)
            return ctx.once(key, lambda: _relearn(model.unguarded(), taught, held, level, fit, ctx))

        mine, theirs = relearned(subject), relearned(reference)
        parts: dict[str, float | None] = {
            "steps": mine.steps, "reference_steps": theirs.steps, "cap": float(fit.steps), "level": level, "start": mine.start,
            "reference_start": theirs.start,
        }
        return _measurement(mine, theirs, fit.steps, level, len(held)).model_copy(update={"system": self.card.name, "parts": parts})


def _measurement(mine: Relearned, theirs: Relearned, cap: int, level: float, n: int) -> Measurement:
    """The index where both were there in time; else its bound, and in words why there is no more."""
    found = Measurement(system="", subject="", n=n, better="as-reference")
    if mine.steps is not None and theirs.steps is not None:
        idle = "" if theirs.start > level else "the reference is at the level before any step, so there is nothing to relearn and the index tells little"
        return found.model_copy(update={"value": mine.steps / theirs.steps, "why": idle})
    if theirs.steps is not None:
        bound = cap / theirs.steps
        return found.model_copy(update={"low": bound, "why": f"the level was not reached within {cap} steps; the index is above {bound:.2f}"})
    if mine.steps is not None:
        bound = mine.steps / cap
        return found.model_copy(update={"high": bound, "why": f"the reference did not reach the level within {cap} steps; the index is below {bound:.3f}"})
    why = f"neither the model nor the reference reached the level within {cap} steps; raise within or steps"
    return found.model_copy(update={"status": "skipped", "why": why})


def _relearn(model: Any, taught: Sequence[Row], held: Sequence[Row], level: float, fit: Fit, ctx: Context) -> Relearned:
    """Train a copy on the taught rows until the held-out rows are at the level. The order of the rows is the same for every model."""
    copy = model.trainable(0, ctx.seed_for("adapter"))
    losses: list[float] = []

    def look() -> float:
        losses.append(mean_loss(copy, held, PIECE))
        return -losses[-1] if len(losses) > 1 else -math.inf

    own = ctx.alone(folder=None, curve=[], notes={}, spent=ctx.spent, began=ctx.began)
    watch = Watch(look, -level, 1, "the held-out rows reached the level")
    descend(copy, {"all": taught}, lambda batch: {"loss": copy.losses(batch["all"]).mean()}, fit, own, watch)
    return Relearned(losses[0], next((step for step, loss in enumerate(losses) if step and loss <= level), None))
