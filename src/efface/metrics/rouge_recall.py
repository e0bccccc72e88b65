"""ROUGE-L recall of the greedy answer (TOFU, arXiv:2401.06121).

Which ROUGE: package `rouge-score`, field rougeL recall, stemmer on, case folded. On the logs that TOFU's authors published
it gives their numbers exactly; F-measure, another package or no stemmer moves single rows by up to 0.5.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.types import Measurement, Metric, Request
from efface.families import forms, passes
from efface.ops import stats, text_stats


class RougeRecallConfig(Config):
    """Settings of the metric."""

    on: str = "forget"
    """Rows to answer: forget, keep, unseen, or a row set of the benchmark by name."""
    rows: int = Field(400, ge=0)
    """Most rows to answer, evenly spaced; 0 answers all."""
    max_new: int = Field(64, ge=1)
    """Most tokens of an answer; TOFU allows 200."""


class RougeRecall(Metric[RougeRecallConfig]):
    """How much of the gold answer the model says when asked."""

    card = Card(
        name="rouge_recall", title="ROUGE-L recall (package rouge-score, field rougeL recall, stemmer on)", paper="arXiv:2401.06121",
        families=("causal-lm",), needs=("generate",), uses=("forget",), better="as-reference",
        departs="at most 64 new tokens by default, 200 in the paper's code",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the mean recall with a bootstrap interval over rows. Raises Missing for rows without an answer."""
        rows = forms.sample(forms.row_set(self.config.on, request, ctx), self.config.rows)
        gold = [forms.gold_text(row) for row in rows]
        answers = passes.answers(subject, rows, ctx, self.config.max_new)
        recalls = text_stats.rouge_l_recalls(answers, gold)
        mean = stats.bootstrap(recalls)
        table: list[dict[str, object]] = [
            {"row": at, "value": recall, "answer": answer, "gold": right} for at, (recall, answer, right) in enumerate(zip(recalls, answers, gold, strict=True))
        ]
        return Measurement(
            system=self.card.name, subject="", value=mean.value, low=mean.low, high=mean.high, n=len(rows), better="as-reference", table=table
        )
