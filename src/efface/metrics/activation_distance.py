"""Activation distance: mean over forget rows of || softmax of the model - softmax of the retrained model ||_2, from 0 to sqrt 2.

Beside it, as parts: the layer-wise distance sqrt(sum ||w - w_retrained||^2) over all weights, and completeness, the share of
rows to which both give the same class. Weights of two networks may lie far apart while they say the same.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import torch

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.types import Measurement, Metric, Request
from efface.families import predictions
from efface.ops import class_stats, stats


class ActivationDistanceConfig(Config):
    """The metric has no settings."""


class ActivationDistance(Metric[ActivationDistanceConfig]):
    """How far the model's probabilities are from the retrained model's."""

    card = Card(
        name="activation_distance", title="Activation distance to the retrained model", paper="arXiv:1911.04933", families=("classifier",),
        needs=("predict",), uses=("forget", "reference"), better="lower",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the mean over forget rows with a bootstrap interval. Raises Missing without a reference."""
        reference = ctx.baseline("reference")
        mine, base = (predictions.side(model, request, "forget", ctx) for model in (subject, reference))
        rows = class_stats.activation_distance(mine.chances, base.chances)
        found = stats.bootstrap(rows)
        parts: dict[str, float | None] = {"completeness": _agree(mine, base), "layer_wise_distance": layer_wise(subject, reference)}
        if request.keep is not None:
            kept = [predictions.side(model, request, "keep", ctx) for model in (subject, reference)]
            parts |= {"keep": float(class_stats.activation_distance(kept[0].chances, kept[1].chances).mean()), "completeness_keep": _agree(*kept)}
        others = [base, *(predictions.side(other, request, "forget", ctx) for other in predictions.other_references(ctx).values())]
        between = [class_stats.activation_distance(one.chances, other.chances).mean() for one, other in combinations(others, 2)]
        parts["between_references"] = float(np.mean(between)) if between else None
        return Measurement(
            system=self.card.name, subject="", value=found.value, low=found.low, high=found.high, n=len(rows), better="lower", parts=parts,
            table=[{"row": at, "value": float(value)} for at, value in enumerate(rows)],
        )


def _agree(one: predictions.Outputs, other: predictions.Outputs) -> float:
    return float((one.logits.argmax(1) == other.logits.argmax(1)).mean())


def layer_wise(one: Any, other: Any) -> float | None:
    """Euclidean distance between all weights of two models; None when they have none, or not the same ones."""
    if not (hasattr(one, "model") and hasattr(other, "model")):
        return None
    sides = [dict((model.merged() if model.adapted else model).model.named_parameters()) for model in (one, other)]
    if {name: p.shape for name, p in sides[0].items()} != {name: p.shape for name, p in sides[1].items()}:
        return None
    with torch.no_grad():
        return float(sum(float(((p.double() - sides[1][name].double()) ** 2).sum()) for name, p in sides[0].items()) ** 0.5)
