"""Perplexity: exp(total loss / total labeled tokens) over the rows, end tokens included.

Tokens weigh the same, whatever row they stand in. A model may keep its truth ratios and lose its fluency; this shows it.
"""

from __future__ import annotations

import math

import numpy as np
from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.types import Measurement, Metric, Request, Subject
from efface.families import forms
from efface.ops import stats

LARGEST = 300.0
"""Mean loss at which perplexity is cut off (at e^300), since a ruined model's would be no finite number."""


class PerplexityConfig(Config):
    """Settings of the metric."""

    on: str = "keep"
    """Rows to measure: keep, forget, unseen, or a row set of the benchmark by name."""
    rows: int = Field(40, ge=0)
    """Most rows to measure, evenly spaced; 0 measures all."""


class Perplexity(Metric[PerplexityConfig]):
    """How surprised the model is by text that it was to keep."""

    card = Card(
        name="perplexity", title="Perplexity on kept rows", paper="", families=("causal-lm",), needs=("score",), uses=("keep",), better="lower",
    )

    def run(self, subject: Subject, request: Request, ctx: Context) -> Measurement:
        """Return the perplexity with a bootstrap interval over rows; the mean loss per token is a part."""
        rows = forms.sample(forms.row_set(self.config.on, request, ctx), self.config.rows)
        scores = forms.gold(subject, rows, ctx)
        sums = np.array([-float(row.log_probs.sum()) for row in scores])
        counts = np.array([len(row.log_probs) for row in scores])
        mean = stats.bootstrap(np.arange(len(rows)), lambda pick: per_token(sums[pick.astype(int)], counts[pick.astype(int)]))
        value, low, high = (math.exp(min(loss, LARGEST)) for loss in mean)
        return Measurement(
            system=self.card.name, subject="", value=value, low=low, high=high, n=len(rows), better="lower",
            parts={"loss_per_token": mean.value, "tokens": float(counts.sum())},
            table=[{"row": at, "value": row.loss} for at, row in enumerate(scores)],
        )


def per_token(sums: np.ndarray, counts: np.ndarray) -> float:
    """Mean loss per token from summed losses and token counts of rows."""
    return float(sums.sum() / max(int(counts.sum()), 1))
