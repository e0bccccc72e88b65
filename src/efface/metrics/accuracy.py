"""Accuracy of a classifier: share of forget rows whose most probable class is their own, and the same on keep and unseen rows.

After forgetting, accuracy on the forget rows should be what retraining gives (often that on unseen rows), neither more nor less.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats as tests

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.types import Measurement, Metric, Request, Row


class AccuracyConfig(Config):
    """The metric has no settings."""


class Accuracy(Metric[AccuracyConfig]):
    """How often the classifier is right."""

    card = Card(
        name="accuracy", title="Accuracy", paper="", families=("classifier",), needs=("predict",), uses=("forget",), better="as-reference",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the accuracy on forget rows with a Wilson interval; those on keep and unseen rows are parts, where there are any."""
        right = {side: _right(subject, data.read()) for side in ("forget", "keep", "unseen") if (data := getattr(request, side)) is not None}
        mine = right["forget"]
        interval = tests.binomtest(int(mine.sum()), len(mine)).proportion_ci(method="wilson")
        return Measurement(
            system=self.card.name, subject="", value=float(mine.mean()), low=float(interval.low), high=float(interval.high), n=len(mine),
            better="as-reference", parts={side: float(hits.mean()) for side, hits in right.items()},
            table=[{"row": at, "set": side, "value": float(hit)} for side, hits in right.items() for at, hit in enumerate(hits)],
        )


def _right(subject: Any, rows: list[Row]) -> np.ndarray:
    right: np.ndarray = np.asarray(subject.predict(rows)).argmax(-1) == np.array([row["y"] for row in rows])
    return right
