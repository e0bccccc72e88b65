"""Relearn time (arXiv:1911.04933, arXiv:2302.09880): epochs of training until the model knows the forget rows as the original did.

An epoch is 500 rows drawn from all training rows, forget rows included; training ends when the mean loss on the forget rows
is at most the original's + 1e-5. A model that only hid what it knew is back soon; a retrained one takes longer. One that is
not back when the cap is reached counts as the cap, and the measurement says that it is a lower bound.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import Unfit
from efface.core.types import Measurement, Metric, Request
from efface.families import predictions
from efface.ops.loop import Watch, descend, mean_loss


class RelearnTimeConfig(Config):
    """Settings of the metric."""

    lr: float = Field(0.05, gt=0)
    """Learning rate of SGD."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD."""
    batch: int = Field(64, ge=1)
    """Rows in a step."""
    rows: int = Field(500, ge=1)
    """Rows in an epoch."""
    cap: int = Field(100, ge=1)
    """Most epochs."""
    tolerance: float = Field(1e-5, ge=0)
    """How far above the original's loss the target lies."""
    most: float = Field(3e11, gt=0)
    """Most floating-point operations; a larger model is refused (3e11 take about half a minute on one core)."""


class Relearned(NamedTuple):
    """Epochs taken, whether the target was reached, and the loss before the first step."""

    epochs: int
    reached: bool
    before: float


class RelearnTime(Metric[RelearnTimeConfig]):
    """How long it takes to bring back what was forgotten."""

    card = Card(
        name="relearn_time", title="Relearn time", paper="arXiv:1911.04933", families=("classifier",), needs=("losses", "weights"),
        uses=("forget", "keep", "original", "reference"), better="as-reference",
        departs="epochs of 500 rows are drawn without replacement; an epoch that ends above the target counts whole",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the epochs taken; whether the target was reached, and the reference's epochs, are parts. Raises Missing without an original."""
        original: Any = ctx.baseline("original")
        forget = request.rows("forget")
        passes = self.config.cap * (self.config.rows + self.config.batch + len(forget) / 3)
        predictions.refuse_large(self.card.name, subject, forget, passes, self.config.most)
        target = _loss(original, request) + self.config.tolerance
        mine = self._relearn(subject, request, target, ctx)
        parts: dict[str, float | None] = {"reached": float(mine.reached), "loss_before": mine.before, "loss_target": target, "reference": None}
        if (reference := ctx.baselines.get("reference")) is not None:
            base = self._relearn(reference, request, target, ctx)
            parts |= {"reference": float(base.epochs), "reference_reached": float(base.reached), "reference_loss_before": base.before}
        why = "" if mine.reached else f"the original's loss was not reached within {self.config.cap} epochs; the value is a lower bound"
        return Measurement(
            system=self.card.name, subject="", value=float(mine.epochs), n=len(forget), better="as-reference", why=why, parts=parts,
        )

    def _relearn(self, subject: Any, request: Request, target: float, ctx: Context) -> Relearned:
        """Train a copy; models are asked once for each request and target."""
        config = self.config
        return ctx.once((subject, "relearn time", request.digest, target, str(config)), lambda: self._trained(subject, request, target, ctx))

    def _trained(self, subject: Any, request: Request, target: float, ctx: Context) -> Relearned:
        config, forget, before = self.config, request.rows("forget"), _loss(subject, request)
        copy = subject.trainable(0, ctx.seed_for("adapter"))
        each = -(-config.rows // config.batch)
        fit = Fit(lr=config.lr, steps=config.cap * each, batch=config.batch, optimizer="sgd", momentum=config.momentum, clip=0, precision="no")
        apart = ctx.alone(folder=None, curve=[], notes={}, spent=ctx.spent, began=ctx.began)
        watch = Watch(lambda: -mean_loss(copy, forget), -target, each, "relearned")
        descend(copy, {"all": [*forget, *request.rows("keep")]}, lambda batch: {"loss": copy.losses(batch["all"]).mean()}, fit, apart, watch)
        steps = int(float(apart.notes["steps"]))
        return Relearned(-(-steps // each), str(apart.notes["stopped"]).startswith("relearned"), before)


def _loss(subject: Any, request: Request) -> float:
    """Mean loss on the forget rows. Raises Unfit when it is not finite."""
    forget = request.rows("forget")
    found = mean_loss(subject, forget)
    if not math.isfinite(found):
        raise Unfit("the loss on the forget rows is not finite; the model's weights are damaged or its inputs too large")
    return found
