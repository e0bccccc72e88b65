"""Linear probe: how well the forgotten class can still be told apart by what the last layer reads.

A logistic regression is fitted on the features of rows that no model was trained on, the forgotten class against the classes
that stay, and asked about others of them (five folds); the value is its AUC. A model whose answers forgot while its
features did not will have the class back as soon as someone puts a new last layer on. Features must tell the class apart no
better than the retrained model's do, which is often well: what is said of other classes says much of this one.

The head swap, as parts, does just that: a new last layer is fitted on the features of all training rows, and the accuracy on
forget rows comes back, or does not.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import Missing, Unfit
from efface.core.rows import evenly
from efface.core.types import Measurement, Metric, Request, Row
from efface.families import predictions
from efface.families.module import chunks
from efface.ops import class_stats, stats

FOLDS = 5


class LinearProbeConfig(Config):
    """Settings of the metric."""

    rows: int = Field(1000, ge=2 * FOLDS)
    """Most rows of each set, evenly spaced."""
    strength: float = Field(1.0, gt=0)
    """Inverse of the probe's L2 penalty, on features scaled to unit spread; a weaker probe asks how plainly the class stands out."""
    head_rows: int = Field(10, ge=1)
    """Rows of the forgotten class that the new last layer is shown, beside all others; what it makes of the rest counts."""


class Probed(NamedTuple):
    """Scores of held-out rows (forgotten class, others), and shares right of a new last layer on forget rows and kept test rows."""

    gone: np.ndarray
    others: np.ndarray
    head_forget: float
    head_test: float


class LinearProbe(Metric[LinearProbeConfig]):
    """What the features still say of a forgotten class."""

    card = Card(
        name="linear_probe", title="Linear probe of the features", paper="", families=("classifier",), needs=("features",),
        uses=("forget", "keep", "unseen", "utility", "reference"), better="as-reference",
        departs="the new last layer sees ten rows of the forgotten class rather than all, with which any features do",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the probe's AUC on held-out rows; the head swap's accuracies, and all of the reference, are parts.

        Raises Unfit when the forget rows are no class of their own, Missing without held-out rows of both kinds.
        """
        mine = self._probed(subject, request, ctx)
        area = stats.auc_interval(mine.gone, mine.others)
        parts: dict[str, float | None] = {"head_swap_forget": mine.head_forget, "head_swap_test": mine.head_test, "reference": None}
        if (reference := ctx.baselines.get("reference")) is not None:
            base = self._probed(reference, request, ctx)
            parts |= {"reference": stats.auc(base.gone, base.others), "reference_head_swap_forget": base.head_forget, "reference_head_swap_test": base.head_test}
        return Measurement(
            system=self.card.name, subject="", value=area.value, low=area.low, high=area.high, n=len(mine.gone) + len(mine.others),
            better="as-reference", parts=parts,
        )

    def _probed(self, subject: Any, request: Request, ctx: Context) -> Probed:
        return ctx.once((subject, "linear probe", request.digest, str(self.config)), lambda: self._fit(subject, request, ctx))

    def _fit(self, subject: Any, request: Request, ctx: Context) -> Probed:
        from sklearn.model_selection import StratifiedKFold

        gone = predictions.forgotten_classes(request)
        if not gone:
            raise Unfit("linear_probe asks of a class that went as a whole; keep rows have the same labels as the forget rows here")
        out = _held_out(request, ctx)
        parts = [evenly([row for row in out if (_y(row) in gone) == there], self.config.rows) for there in (True, False)]
        if min(map(len, parts)) < FOLDS:
            raise Missing(f"linear_probe needs {FOLDS} held-out rows of the forgotten class and of others; found {len(parts[0])} and {len(parts[1])}; give them as unseen and test rows")
        x, y = read(subject, [*parts[0], *parts[1]]), np.r_[np.ones(len(parts[0])), np.zeros(len(parts[1]))]
        scores = np.zeros(len(y))
        for fit, ask in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(x, y):
            scores[ask] = self._line(x[fit], y[fit]).decision_function(x[ask])
        return Probed(scores[y == 1], scores[y == 0], *self._head(subject, request, x[y == 0], [_y(row) for row in parts[1]], ctx))

    def _head(self, subject: Any, request: Request, x: np.ndarray, y: Sequence[int], ctx: Context) -> tuple[float, float]:
        """Shares right on forget rows (those that it was not shown) and on test rows, of a new last layer on the subject's features."""
        forget, keep = (evenly(request.rows(name), self.config.rows) for name in ("forget", "keep"))  # type: ignore[arg-type]
        shown = min(self.config.head_rows, max(1, len(forget) // 2))
        known, left = read(subject, [*forget[:shown], *keep]), read(subject, forget[shown:])
        layer = self._line(known, np.array([_y(row) for row in (*forget[:shown], *keep)]))
        return float((layer.predict(left) == [_y(row) for row in forget[shown:]]).mean()), float((layer.predict(x) == np.array(y)).mean())

    def _line(self, x: np.ndarray, y: np.ndarray) -> Any:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # separable features have no best line; a good one will do
            return make_pipeline(StandardScaler(), LogisticRegression(C=self.config.strength, max_iter=200, random_state=0)).fit(x, y)


@torch.no_grad()
def read(subject: Any, rows: Sequence[Row]) -> np.ndarray:
    """What the last layer reads (rows, d). Raises Unfit when it, or what the model says, is not finite."""
    pieces = [subject.features_and_raw(subject.encode(piece)) for piece in chunks(rows)]
    class_stats.finite(np.concatenate([raw.double().cpu().numpy() for _, raw in pieces]), "a logit")
    return class_stats.finite(np.concatenate([features.double().cpu().numpy() for features, _ in pieces]), "a feature")


def _held_out(request: Request, ctx: Context) -> list[Row]:
    """Rows that no model was trained on: unseen rows, and the run's further row sets."""
    return [*request.rows("unseen"), *(row for data in ctx.utility.values() for row in data.read())]


def _y(row: Row) -> int:
    return int(str(row["y"]))
