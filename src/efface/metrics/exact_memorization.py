"""Exact memorization (arXiv:2205.10770): share of answer tokens that the model puts first, given the true ones before them.

Averaged over rows. The end token is left out, as in open-unlearning, so the number is of the answer itself.
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


class ExactMemorizationConfig(Config):
    """Settings of the metric."""

    on: str = "forget"
    """Rows to measure: forget, keep, unseen, or a row set of the benchmark by name."""
    rows: int = Field(400, ge=0)
    """Most rows to measure, evenly spaced; 0 measures all."""


class ExactMemorization(Metric[ExactMemorizationConfig]):
    """How much of the answers the model would say token by token."""

    card = Card(
        name="exact_memorization", title="Exact memorization", paper="arXiv:2205.10770", families=("causal-lm",), needs=("score",),
        uses=("forget",), better="as-reference", departs="the end token does not count",
    )

    def run(self, subject: Subject, request: Request, ctx: Context) -> Measurement:
        """Return the mean share with a bootstrap interval over rows."""
        rows = forms.sample(forms.row_set(self.config.on, request, ctx), self.config.rows)
        shares = [text_stats.exact_memorization(row.hit[row.words]) for row in forms.gold(subject, rows, ctx)]
        there = [share for share in shares if share is not None]
        if not there:
            raise Missing(f"no {self.config.on} row has an answer token to measure")
        mean = stats.bootstrap(there)
        return Measurement(
            system=self.card.name, subject="", value=mean.value, low=mean.low, high=mean.high, n=len(there), better="as-reference",
            table=[{"row": at, "value": share} for at, share in enumerate(shares) if share is not None],
        )
