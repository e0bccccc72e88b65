"""Tug of war (arXiv:2406.01257): one number for how near a model is to the retrained one on forget, keep and test rows.

    ToW = (1 - |dUA|) (1 - |dRA|) (1 - |dTA|),  d = difference of accuracies to the retrained model, as shares

1 for the retrained model. ToW-MIA puts MIA efficacy (the share of forget rows called non-members) in the place of UA. With
references of several seeds the mean over them stands beside it, with a t-interval; one seed gives no interval over seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.types import Measurement, Metric, Request
from efface.families import predictions
from efface.ops import class_stats, stats

SETS = ("forget", "keep", "test")


class TowConfig(Config):
    """The metric has no settings."""


class Tow(Metric[TowConfig]):
    """Product of what is left of one after each gap to the retrained model."""

    card = Card(
        name="tow", title="Tug of war", paper="arXiv:2406.01257", families=("classifier",), needs=("predict",),
        uses=("forget", "keep", "utility", "reference"), better="higher",
        departs="the interval of the value is over rows, paired; that over seeds of the reference is a part",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return ToW against the reference with a bootstrap interval over rows. Raises Missing without reference or test rows."""
        reference = ctx.baseline("reference")
        mine = _right(subject, request, ctx)
        base = _right(reference, request, ctx)
        value = class_stats.tow([float(mine[name].mean() - base[name].mean()) for name in SETS])
        low, high = predictions.widened(value, _interval(mine, base, value))
        parts: dict[str, float | None] = {f"gap_{name}": float(mine[name].mean() - base[name].mean()) for name in SETS}
        parts["tow_mia"] = class_stats.tow([float(mine[name].mean() - base[name].mean()) for name in ("MIA", "keep", "test")])
        each = [value]
        for name, other in predictions.other_references(ctx).items():
            theirs = _right(other, request, ctx)
            each.append(class_stats.tow([float(mine[part].mean() - theirs[part].mean()) for part in SETS]))
            parts[f"against {name}"] = each[-1]
        if (over := class_stats.t_interval(each)) is not None:
            parts |= {"over_seeds": over.value, "over_seeds_low": over.low, "over_seeds_high": over.high}
        return Measurement(
            system=self.card.name, subject="", value=value, low=low, high=high, n=sum(len(mine[name]) for name in SETS), better="higher",
            parts=parts,
            table=[{"row": at, "set": name, "value": float(hit), "reference": float(base[name][at])} for name in SETS for at, hit in enumerate(mine[name])],
        )


def _right(subject: Any, request: Request, ctx: Context) -> dict[str, np.ndarray]:
    """Which rows of each set the model gets right, and which forget rows are called non-members."""
    forget, keep = (predictions.side(subject, request, name, ctx) for name in ("forget", "keep"))
    test = predictions.test(subject, request, ctx)
    return {"forget": forget.hits, "keep": keep.hits, "test": test.hits, "MIA": predictions.called_non_members(forget, keep, test)}


def _interval(mine: Mapping[str, np.ndarray], base: Mapping[str, np.ndarray], value: float) -> stats.Interval:
    """Percentiles over draws of rows, the same rows for both models."""
    rng = np.random.default_rng(0)
    drawn = np.ones(stats.DRAWS)
    for name in SETS:
        gap = mine[name].astype(float) - base[name]
        drawn *= 1 - np.abs(gap[rng.integers(len(gap), size=(stats.DRAWS, len(gap)))].mean(1))
    return stats.Interval(value, *map(float, np.percentile(drawn, [2.5, 97.5])))
