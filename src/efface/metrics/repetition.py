"""Repetition in generated answers: share of n-grams that occurred before in the same answer (arXiv:1908.04319).

A model can pass every other test of forgetting while it says "and and and". Beside the share stand the entropy of the
n-grams (1 = no repetition), the length, and how many answers are empty: an empty answer repeats nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.types import Measurement, Metric, Request
from efface.families import forms, passes
from efface.ops import stats, text_stats


class RepetitionConfig(Config):
    """Settings of the metric."""

    on: str = "forget"
    """Rows to answer: forget, keep, unseen, or a row set of the benchmark by name."""
    rows: int = Field(400, ge=0)
    """Most rows to answer, evenly spaced; 0 answers all."""
    n: int = Field(2, ge=1)
    """Words in an n-gram; answers are short, so pairs."""
    max_new: int = Field(64, ge=1)
    """Most tokens of an answer."""


class Repetition(Metric[RepetitionConfig]):
    """Whether the model still speaks, or stutters."""

    card = Card(
        name="repetition", title="Repetition in answers", paper="arXiv:1908.04319", families=("causal-lm",), needs=("generate",), uses=("forget",),
        better="lower", departs="pairs of words by default, as answers are short; the paper counts four tokens",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the mean share of repeated n-grams with a bootstrap interval; answers too short to repeat count 0."""
        rows = forms.sample(forms.row_set(self.config.on, request, ctx), self.config.rows)
        words = [answer.casefold().split() for answer in passes.answers(subject, rows, ctx, self.config.max_new)]
        shares = [text_stats.repeated_share(said, self.config.n) or 0.0 for said in words]
        entropies = [value for said in words if (value := text_stats.ngram_entropy(said, self.config.n)) is not None]
        mean = stats.bootstrap(shares)
        return Measurement(
            system=self.card.name, subject="", value=mean.value, low=mean.low, high=mean.high, n=len(rows), better="lower",
            parts={
                "ngram_entropy": float(np.mean(entropies)) if entropies else None,
                "words": float(np.mean([len(said) for said in words])),
                "empty_answers": float(np.mean([not said for said in words])),
            },
            table=[{"row": at, "value": share, "words": len(said)} for at, (share, said) in enumerate(zip(shares, words, strict=True))],
        )
