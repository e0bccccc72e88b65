"""Error of a regressor: mean absolute or mean squared error on forget rows, and the same on keep and unseen rows.

After forgetting, the error on the forget rows should be what retraining gives, neither less nor more. That is often more than
a guess would have: the retrained model answers with what it knows of the kept rows.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.types import Measurement, Metric, Request, Row
from efface.families import tables
from efface.ops import stats

SIDES = ("forget", "keep", "unseen")


class RegressionErrorConfig(Config):
    """Settings of the metric."""

    measure: Literal["mae", "mse"] = "mae"
    """Mean absolute error, in the target's unit, or mean squared error."""


class RegressionError(Metric[RegressionErrorConfig]):
    """How far the regressor is from the targets."""

    card = Card(
        name="regression_error", title="Regression error", paper="", families=("regressor",), needs=("predict",), uses=("forget",), better="as-reference",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the error on forget rows with its bootstrap interval; keep and unseen rows, where there are any, are parts with theirs."""
        errors = {side: self._errors(subject, data.read()) for side in SIDES if (data := getattr(request, side)) is not None}
        found = {side: stats.bootstrap(each) for side, each in errors.items()}
        parts: dict[str, float | None] = {}
        for side, (value, low, high) in found.items():
            parts |= {side: value, f"{side}_low": low, f"{side}_high": high}
        return Measurement(
            system=self.card.name, subject="", value=found["forget"].value, low=found["forget"].low, high=found["forget"].high,
            n=len(errors["forget"]), better="as-reference", parts=parts,
            table=[{"row": at, "set": side, "value": float(error)} for side, each in errors.items() for at, error in enumerate(each)],
        )

    def _errors(self, subject: Any, rows: list[Row]) -> np.ndarray:
        gaps: np.ndarray = np.abs(np.asarray(subject.predict(rows), dtype=float) - tables.values(rows))
        return gaps if self.config.measure == "mae" else gaps**2
