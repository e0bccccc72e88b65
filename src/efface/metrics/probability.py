"""Probability of the gold answer (TOFU, arXiv:2401.06121): mean over rows of exp(-mean loss per token), end token included.

It is normalized by length (a geometric mean over tokens), so it is not the probability of the sequence.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.types import Measurement, Metric, Request, Subject
from efface.families import forms
from efface.ops import stats


class ProbabilityConfig(Config):
    """Settings of the metric."""

    on: str = "forget"
    """Rows to measure: forget, keep, unseen, or a row set of the benchmark by name."""
    rows: int = Field(400, ge=0)
    """Most rows to measure, evenly spaced; 0 measures all."""


class Probability(Metric[ProbabilityConfig]):
    """How likely the model finds the answers of the rows."""

    card = Card(
        name="probability", title="Probability of the answer", paper="arXiv:2401.06121", families=("causal-lm",), needs=("score",),
        uses=("forget",), better="as-reference",
    )

    def run(self, subject: Subject, request: Request, ctx: Context) -> Measurement:
        """Return the mean probability with a bootstrap interval over rows."""
        rows = forms.sample(forms.row_set(self.config.on, request, ctx), self.config.rows)
        values = np.exp(-forms.losses(forms.gold(subject, rows, ctx)))
        there = values[~np.isnan(values)]
        mean = stats.bootstrap(there)
        return Measurement(
            system=self.card.name, subject="", value=mean.value, low=mean.low, high=mean.high, n=len(there), better="as-reference",
            table=[{"row": at, "value": float(value)} for at, value in enumerate(values) if not np.isnan(value)],
        )
