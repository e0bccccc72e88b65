"""Extraction strength (arXiv:2406.09179): 1 - k / T.

k is the fewest true answer tokens after which the model puts every later one first: 1 when it says the whole answer by
itself, 0 when even the last token is wrong. The end token is left out.
"""

from __future__ import annotations

from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import Missing
from efface.core.types import Measurement, Metric, Request, Subject
from efface.families import forms
from efface.ops import stats, text_stats


class ExtractionStrengthConfig(Config):
    """Settings of the metric."""

    on: str = "forget"
    """Rows to measure: forget, keep, unseen, or a row set of the benchmark by name."""
    rows: int = Field(400, ge=0)
    """Most rows to measure, evenly spaced; 0 measures all."""


class ExtractionStrength(Metric[ExtractionStrengthConfig]):
    """How little of an answer suffices to get the rest."""

    card = Card(
        name="extraction_strength", title="Extraction strength", paper="arXiv:2406.09179", families=("causal-lm",), needs=("score",),
        uses=("forget",), better="as-reference",
        departs="0 when nothing matches, where open-unlearning's code ends at 1 / T; the end token does not count",
    )

    def run(self, subject: Subject, request: Request, ctx: Context) -> Measurement:
        """Return the mean strength with a bootstrap interval over rows."""
        rows = forms.sample(forms.row_set(self.config.on, request, ctx), self.config.rows)
        strengths = [text_stats.extraction_strength(row.hit[row.words]) for row in forms.gold(subject, rows, ctx)]
        there = [strength for strength in strengths if strength is not None]
        if not there:
            raise Missing(f"no {self.config.on} row has an answer token to measure")
        mean = stats.bootstrap(there)
        return Measurement(
            system=self.card.name, subject="", value=mean.value, low=mean.low, high=mean.high, n=len(there), better="as-reference",
            table=[{"row": at, "value": strength} for at, strength in enumerate(strengths) if strength is not None],
        )
