"""Jensen-Shannon divergence to the retrained model: mean over forget rows, in nats.

0 when both say the same of every row, log 2 when they share no class on any. Two retrained models differ as well: where there
are references of further seeds, the mean divergence between references says what distance means nothing.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import Missing
from efface.core.types import Measurement, Metric, Request
from efface.families import predictions
from efface.ops import class_stats, stats


class JsDivergenceConfig(Config):
    """The metric has no settings."""


class JsDivergence(Metric[JsDivergenceConfig]):
    """How far the model's answers are from the retrained model's."""

    card = Card(
        name="js_divergence", title="Jensen-Shannon divergence to the retrained model", paper="arXiv:2205.08096", families=("classifier",),
        needs=("predict",), uses=("forget", "reference"), better="lower", departs="the divergence is the right one, where the published code turns it round",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the mean over forget rows with a bootstrap interval; keep and test rows are parts. Raises Missing without a reference."""
        reference = ctx.baseline("reference")
        rows = class_stats.js(*(predictions.side(model, request, "forget", ctx).chances for model in (subject, reference)))
        found = stats.bootstrap(rows)
        parts: dict[str, float | None] = {}
        if request.keep is not None:
            parts["keep"] = float(class_stats.js(*(predictions.side(model, request, "keep", ctx).chances for model in (subject, reference))).mean())
        try:
            parts["test"] = float(class_stats.js(*(predictions.test(model, request, ctx).chances for model in (subject, reference))).mean())
        except Missing:
            parts["test"] = None
        others = [reference, *predictions.other_references(ctx).values()]
        between = [class_stats.js(*(predictions.side(one, request, "forget", ctx).chances for one in pair)).mean() for pair in combinations(others, 2)]
        parts["between_references"] = float(np.mean(between)) if between else None
        return Measurement(
            system=self.card.name, subject="", value=found.value, low=found.low, high=found.high, n=len(rows), better="lower", parts=parts,
            table=[{"row": at, "value": float(value)} for at, value in enumerate(rows)],
        )
