"""Truth ratio (TOFU, arXiv:2401.06121): TR = P_wrong / P_right, with P = exp(-mean loss per token).

P_right is that of the paraphrased answer, of the gold answer where there is no paraphrase. P_wrong averages the wrong
answers in loss space, exp(-mean of losses), or in probability space, mean of exp(-loss): TOFU's own code has both.
On forget rows the value is mean(min(TR, 1 / TR)), 1 when right and wrong answers are equally likely; on other rows it
is mean(max(0, 1 - TR)), 1 when wrong answers are impossible.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.types import Measurement, Metric, Request, Subject
from efface.families import forms
from efface.ops import stats, text_stats


class TruthRatioConfig(Config):
    """Settings of the metric."""

    space: text_stats.Space = "loss"
    """Where the wrong answers are averaged."""
    on: str = "forget"
    """Rows to measure: forget, keep, unseen, or a row set of the benchmark by name."""
    rows: int = Field(400, ge=0)
    """Most rows to measure, evenly spaced; 0 measures all."""


class TruthRatio(Metric[TruthRatioConfig]):
    """Whether the model prefers the right answer to wrong ones of the same form."""

    card = Card(
        name="truth_ratio", title="Truth ratio", paper="arXiv:2401.06121", families=("causal-lm",), needs=("score",), uses=("forget",),
        better="as-reference", departs="wrong answers averaged in loss space by default, as in the paper's code; its formula has probability space",
    )

    def run(self, subject: Subject, request: Request, ctx: Context) -> Measurement:
        """Return the mean over rows, with log TR of each row in the table. Raises Missing when no row has wrong answers."""
        on = self.config.on
        rows = forms.sample(forms.with_wrong(forms.row_set(on, request, ctx), on), self.config.rows)
        options = forms.options(subject, rows, ctx)
        logs = np.array([text_stats.log_truth_ratio(row.right, row.wrong, self.config.space) for row in options])
        values = text_stats.closeness(logs) if on == "forget" else text_stats.trueness(logs)
        mean = stats.bootstrap(values)
        return Measurement(
            system=self.card.name, subject="", value=mean.value, low=mean.low, high=mean.high, n=len(rows), better="as-reference",
            parts={"median_log_truth_ratio": float(np.median(logs)), "prefers_right": float((logs < 0).mean())},
            table=[{"row": at, "value": float(value), "log_truth_ratio": float(log)} for at, (value, log) in enumerate(zip(values, logs, strict=True))],
        )
