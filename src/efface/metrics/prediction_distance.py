"""Distance between the predictions of a regressor and of the retrained reference on the forget rows (arXiv:2210.08196).

    value  = Wasserstein-1 between the two sets of predictions = integral of |F_candidate(t) - F_reference(t)| dt
    paired = mean over rows of |candidate(x) - reference(x)|, which is never less

0 is the reference itself. References of other seeds are not at 0 either, so where there are some, their distances to the
reference stand beside the value; a candidate as near as they are is as near as retraining gets.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import wasserstein_distance

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.types import Measurement, Metric, Request
from efface.ops.stats import DRAWS


class PredictionDistanceConfig(Config):
    """The metric has no settings."""


class PredictionDistance(Metric[PredictionDistanceConfig]):
    """How far the answers on the forget rows are from those of the retrained model, as distributions."""

    card = Card(
        name="prediction_distance", title="Wasserstein distance of predictions to retraining", paper="arXiv:2210.08196", families=("regressor",),
        needs=("predict",), uses=("forget", "reference"), better="lower",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the distance with a bootstrap interval over rows. Raises Missing without a reference."""
        rows = request.rows("forget")
        theirs, mine = _predictions(ctx.baseline("reference"), rows), _predictions(subject, rows)
        value = float(wasserstein_distance(mine, theirs))
        picks = np.random.default_rng(0).integers(len(rows), size=(DRAWS, len(rows)))
        low, high = np.percentile(_sorted_distance(mine[picks], theirs[picks]), [2.5, 97.5])
        parts: dict[str, float | None] = {"paired": float(np.abs(mine - theirs).mean())}
        for name, other in ctx.baselines.items():
            if name.startswith("reference/"):
                parts[f"of {name}"] = float(wasserstein_distance(_predictions(other, rows), theirs))
        return Measurement(
            system=self.card.name, subject="", value=value, low=min(value, float(low)), high=max(value, float(high)), n=len(rows), better="lower",
            parts=parts, table=[{"row": at, "value": float(a), "reference": float(b)} for at, (a, b) in enumerate(zip(mine, theirs, strict=True))],
        )


def _predictions(subject: Any, rows: Any) -> np.ndarray:
    return np.asarray(subject.predict(rows), dtype=float)


def _sorted_distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Wasserstein-1 of each pair of equally long lists: the mean gap of their order statistics."""
    gaps: np.ndarray = np.abs(np.sort(one, axis=1) - np.sort(other, axis=1))
    return np.asarray(gaps.mean(axis=1))
