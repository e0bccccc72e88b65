"""Zero retrain forgetting (arXiv:2205.08096): how near the model stands to a network with random weights on the forget rows.

    ZRF = 1 - mean over forget rows of JS(model, random network),  JS in nats, so ZRF lies in [1 - log 2, 1] = [.307, 1]

What it should be is the retrained model's value: far above it the rows stand out as known less than by a model that never
saw them. With parity the number is the published code's, whose divergence is another one: KL(middle || p) in place of
KL(p || middle), divided by the number of classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.rows import evenly
from efface.core.types import Measurement, Metric, Request
from efface.families import predictions
from efface.ops import class_stats, stats


class ZrfConfig(Config):
    """Settings of the metric."""

    teachers: int = Field(1, ge=1, le=20)
    """Random networks to average over; a single one may put most rows into one class."""
    parity: bool = False
    """Compute what the published code computes."""


class Zrf(Metric[ZrfConfig]):
    """Agreement with a network that knows nothing."""

    card = Card(
        name="zrf", title="Zero retrain forgetting", paper="arXiv:2205.08096", families=("classifier",), needs=("losses", "fresh"),
        uses=("forget", "reference"), better="as-reference", departs="the Jensen-Shannon divergence is the right one unless parity is asked for",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return ZRF with a bootstrap interval over forget rows; the reference's is a part, where there is a reference."""
        mine = self._rows(subject, request, ctx)
        reference = ctx.baselines.get("reference")
        base = self._rows(reference, request, ctx) if reference is not None else None
        found = stats.bootstrap(mine)
        return Measurement(
            system=self.card.name, subject="", value=found.value, low=found.low, high=found.high, n=len(mine), better="as-reference",
            parts={"reference": float(base.mean()) if base is not None else None},
            table=[{"row": at, "value": float(v), "reference": float(base[at]) if base is not None else None} for at, v in enumerate(mine)],
        )

    def _rows(self, subject: Any, request: Request, ctx: Context) -> np.ndarray:
        """1 - divergence of each forget row, averaged over the random networks; they are the same for every model of one kind."""
        mine = predictions.side(subject, request, "forget", ctx).chances
        rows = evenly(request.rows("forget"), predictions.MOST)
        divergence = class_stats.js_published if self.config.parity else class_stats.js
        each = [
            divergence(mine, predictions.read(subject.fresh(ctx.seed_for("zrf teacher", k)), rows).chances) for k in range(self.config.teachers)
        ]
        found: np.ndarray = 1 - np.mean(each, axis=0)
        return found
