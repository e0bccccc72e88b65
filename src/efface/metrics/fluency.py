"""Fluency: entropy of the n-grams in what the model writes when it is asked to write freely (ROME, arXiv:2202.05262; RWKU, arXiv:2406.10890).

    (2/3 H2 + 4/3 H3) / 2, Hn = entropy in bits of the n-gram frequencies of one text; the mean over texts

A model that stutters falls to 0. Random words score highest, and longer texts score higher: read it beside the original's, as
close to it as can be, never as "more is better". The paper prints 100 times this.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.rows import Row
from efface.core.types import Measurement, Metric, Request
from efface.families import forms, passes
from efface.ops import stats, text_stats

TASKS = (
    "Write a short story about a lighthouse keeper.", "Explain how bread is baked.", "Describe a walk through a forest in autumn.", "Give advice to someone who starts a new job.",
    "Explain why the sky is blue.", "Write a letter to a friend about a holiday by the sea.", "Describe how a bicycle works.", "What makes a good teacher?",
    "Explain the rules of a simple card game.", "Describe your ideal breakfast.", "Why do people enjoy music?", "Write instructions for planting a tree.",
)
"""What the model is asked to write about unless a row set is named."""


class FluencyConfig(Config):
    """Settings of the metric."""

    on: str = ""
    """Rows to answer: forget, keep, or a row set of the benchmark by name; "" for a dozen tasks of no subject in particular."""
    rows: int = Field(50, ge=0)
    """Most rows to answer, evenly spaced; 0 answers all."""
    max_new: int = Field(64, ge=1)
    """Most tokens of a text."""


class Fluency(Metric[FluencyConfig]):
    """Whether the model still writes, or repeats itself."""

    card = Card(
        name="fluency", title="Fluency (entropy of pairs and triples of words)", paper="arXiv:2202.05262", families=("causal-lm",), needs=("generate",),
        better="as-reference",
        departs="64 new tokens by default, 256 in RWKU; words and marks are told apart by a pattern, not by NLTK; own tasks in place of AlpacaEval's. "
        "Random words score highest, so this does not tell a model with random weights from a fluent one",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the mean entropy in bits with a bootstrap interval over texts; an empty text counts 0."""
        rows: list[Row] = [{"messages": [{"role": "user", "content": task}, {"role": "assistant", "content": "..."}]} for task in TASKS]
        if self.config.on:
            rows = forms.row_set(self.config.on, request, ctx)
        rows = forms.sample(rows, self.config.rows)
        said = [text_stats.tokens(text) for text in passes.answers(subject, rows, ctx, self.config.max_new)]
        found = [text_stats.fluency(words) for words in said]
        mean = stats.bootstrap(found)
        return Measurement(
            system=self.card.name, subject="", value=mean.value, low=mean.low, high=mean.high, n=len(rows), better="as-reference",
            parts={"words": float(np.mean([len(words) for words in said])), "empty_answers": float(np.mean([not words for words in said]))},
            table=[{"row": at, "value": value, "words": len(words)} for at, (value, words) in enumerate(zip(found, said, strict=True))],
        )
