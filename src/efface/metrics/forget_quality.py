"""Forget quality (TOFU, arXiv:2401.06121): p of the two-sample Kolmogorov-Smirnov test between truth ratios.

The two samples are the truth ratios of the model and of the retrained reference on the forget rows. p depends strongly on
the number of rows, and at statistic 1 it says nothing finer: read it with the statistic, its interval, and n, and never
beside a p of another number of rows.
"""

from __future__ import annotations

import math

import numpy as np
from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.types import Measurement, Metric, Request, Row, Subject
from efface.families import forms
from efface.ops import stats, text_stats


class ForgetQualityConfig(Config):
    """Settings of the metric."""

    space: text_stats.Space = "loss"
    """Where the truth ratio averages wrong answers."""
    rows: int = Field(400, ge=0)
    """Most rows to measure, evenly spaced; 0 measures all."""


class ForgetQuality(Metric[ForgetQualityConfig]):
    """Whether the truth ratios could be those of a model that never saw the rows."""

    card = Card(
        name="forget_quality", title="Forget quality (Kolmogorov-Smirnov p)", paper="arXiv:2401.06121", families=("causal-lm",), needs=("score",),
        uses=("forget", "reference"), better="higher",
    )

    def run(self, subject: Subject, request: Request, ctx: Context) -> Measurement:
        """Return p; the statistic with its interval, log10 p and the floor flag are parts. Raises Missing without a reference."""
        reference = ctx.baseline("reference")
        rows = forms.sample(forms.with_wrong(request.rows("forget"), "forget"), self.config.rows)
        mine, base = self._logs(subject, rows, ctx), self._logs(reference, rows, ctx)
        value, parts = compare(mine, base)
        table: list[dict[str, object]] = [
            {"row": at, "log_truth_ratio": float(own), "reference": float(other)} for at, (own, other) in enumerate(zip(mine, base, strict=True))
        ]
        return Measurement(system=self.card.name, subject="", value=value, n=len(rows), better="higher", parts=parts, table=table)

    def _logs(self, subject: Subject, rows: list[Row], ctx: Context) -> np.ndarray:
        options = forms.options(subject, rows, ctx)
        return np.array([text_stats.log_truth_ratio(row.right, row.wrong, self.config.space) for row in options])


def compare(mine: np.ndarray, base: np.ndarray, seed: int = 0) -> tuple[float, dict[str, float | None]]:
    """p and the parts. The statistic's interval draws rows with replacement; its lower end leans up, as the statistic cannot be below 0."""
    test = stats.ks(mine, base)
    rng = np.random.default_rng(seed)
    drawn = [statistic(rng.choice(mine, len(mine)), rng.choice(base, len(base))) for _ in range(stats.DRAWS)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return test.p, {
        "statistic": test.statistic,
        "statistic_low": float(low),
        "statistic_high": float(high),
        "log10_p": math.log10(test.p) if test.p > 0 else None,
        "floor": float(test.floor),
        "n": float(len(mine)),
    }


def statistic(a: np.ndarray, b: np.ndarray) -> float:
    """Largest distance between the two cumulative shares."""
    a, b = np.sort(a), np.sort(b)
    both = np.concatenate([a, b])
    return float(np.abs(np.searchsorted(a, both, side="right") / len(a) - np.searchsorted(b, both, side="right") / len(b)).max())
