"""Model utility (TOFU, arXiv:2401.06121): harmonic mean of {probability, ROUGE-L recall, truth ratio} x {keep rows, fact sets}.

On keep rows, probability is that of the answer; on the further row sets of the run (real facts), it is the answer's share
among the options, p / (p + sum of the wrong ones). Truth ratio enters as mean(max(0, 1 - TR)). One part at 0 makes the
whole 0, so all parts are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.types import Measurement, Metric, Request, Row
from efface.families import forms, passes
from efface.ops import stats, text_stats


class ModelUtilityConfig(Config):
    """Settings of the metric."""

    space: text_stats.Space = "loss"
    """Where the truth ratio averages wrong answers."""
    rows: int = Field(40, ge=0)
    """Most rows of each set, evenly spaced; 0 measures all."""
    max_new: int = Field(64, ge=1)
    """Most tokens of an answer; TOFU allows 200."""


class ModelUtility(Metric[ModelUtilityConfig]):
    """What the model can still do on what it was to keep, and on real facts."""

    card = Card(
        name="model_utility", title="Model utility (harmonic mean of nine numbers)", paper="arXiv:2401.06121", families=("causal-lm",),
        needs=("score", "generate"), uses=("keep",), better="higher",
        departs="a sample of 40 rows a set by default; as many sets as the run has, not always three; at most 64 new tokens",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the harmonic mean and its parts. Raises Missing, naming set and column, when a set has no wrong answers."""
        sets = {"keep": request.rows("keep"), **{name: data.read() for name, data in ctx.utility.items()}}
        chosen = {name: forms.sample(forms.with_wrong(rows, name), self.config.rows) for name, rows in sets.items()}
        found = {name: self._measure(subject, rows, ctx, among=name != "keep") for name, rows in chosen.items()}
        value, low, high = harmonic(found)
        table: list[dict[str, object]] = [
            {"set": name, "row": at, **{number: float(values[at]) for number, values in numbers.items()}}
            for name, numbers in found.items()
            for at in range(len(chosen[name]))
        ]
        return Measurement(
            system=self.card.name, subject="", value=value, low=low, high=high, n=len(table), better="higher",
            parts={f"{name} {number}": float(values.mean()) for name, numbers in found.items() for number, values in numbers.items()},
            table=table,
        )

    def _measure(self, subject: Any, rows: Sequence[Row], ctx: Context, among: bool) -> dict[str, np.ndarray]:
        options = forms.options(subject, rows, ctx)
        answers = passes.answers(subject, rows, ctx, self.config.max_new)
        recalls = text_stats.rouge_l_recalls(answers, [forms.gold_text(row) for row in rows])
        return numbers_of(options, recalls, among, self.config.space)


def numbers_of(options: Sequence[forms.Options], recalls: Sequence[float], among: bool, space: text_stats.Space) -> dict[str, np.ndarray]:
    """The three numbers of each row of one set; `among` says that probability is the share among the options."""
    shares = [text_stats.options_probability(row.gold, row.wrong) if among else np.exp(-row.gold) for row in options]
    logs = np.array([text_stats.log_truth_ratio(row.right, row.wrong, space) for row in options])
    return {
        "probability": np.array(shares),
        "rouge": np.asarray(recalls, float),
        "truth_ratio": text_stats.trueness(logs),
    }


def harmonic(sets: Mapping[str, Mapping[str, np.ndarray]], seed: int = 0) -> stats.Interval:
    """Harmonic mean of the mean of every number of every set, with a bootstrap interval that draws rows within each set."""
    rng = np.random.default_rng(seed)
    drawn = []
    for numbers in sets.values():
        count = len(next(iter(numbers.values())))
        picks = rng.integers(count, size=(stats.DRAWS, count))
        drawn += [values[picks].mean(axis=1) for values in numbers.values()]
    value = stats.harmonic_mean([float(values.mean()) for numbers in sets.values() for values in numbers.values()])
    low, high = np.percentile([stats.harmonic_mean(parts) for parts in np.array(drawn).T], [2.5, 97.5])
    return stats.Interval(value, float(low), float(high))
