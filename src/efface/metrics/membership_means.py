"""RWKU's membership means (arXiv:2406.10890): four scores on texts about the target (FM) and about others (RM), and how they differ.

    LOSS       mean loss per token, nats
    zlib       LOSS / bytes of the compressed text
    Min-K      -(mean of the least likely 20 % of log-probabilities)
    Min-K++    -(mean of the lowest 20 % of standardized log-probabilities)

All are loss-like: higher = less like text that was trained on. A model that forgot its target has FM above RM by more than
before. The value is FM - RM of LOSS; where there is an original, the difference of differences (FM_u - RM_u) - (FM_o - RM_o)
stands beside it, row by row against the same text, so that it is exactly 0 for the original itself. Means say less than an AUC,
and none of the four is evidence without a reference: a loss pushed far up marks its texts as well as one that stayed low.

Texts are the row sets forget_mia and retain_mia of a run; without them the forget and the keep rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import Missing
from efface.core.types import Measurement, Metric, Request, Row
from efface.families import forms
from efface.families.causal_lm import RowScore
from efface.ops import stats, text_stats
from efface.ops.stats import Interval

SHARE = 0.2
DRAWS = 1000
SETS = {"FM": ("forget_mia", "forget"), "RM": ("retain_mia", "keep")}


class MembershipMeansConfig(Config):
    """Settings of the metric."""

    rows: int = Field(400, ge=0)
    """Most texts of each side, evenly spaced; 0 reads all."""


class MembershipMeans(Metric[MembershipMeansConfig]):
    """How much less likely texts about the target are than other texts."""

    card = Card(
        name="membership_means", title="Membership means on two sets (LOSS, zlib, Min-K 20 %, Min-K++ 20 %)", paper="arXiv:2406.10890", families=("causal-lm",),
        needs=("score",), better="as-reference",
        departs="every score is loss-like and carries an interval; texts without tokens are counted, not dropped unseen; the released field mink20 holds Min-K++",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return FM - RM of the mean loss with a bootstrap interval that resamples the two sets apart. Raises Unfit without texts."""
        rows = {side: self._rows(names, request, ctx) for side, names in SETS.items()}
        mine = {side: _scores(subject, texts, ctx) for side, texts in rows.items()}
        original = ctx.baselines.get("original")
        base = {side: _scores(original, texts, ctx) for side, texts in rows.items()} if original else None
        parts: dict[str, float | None] = {}
        spread: dict[str, Interval] = {}
        for name in SCORES:
            values = {side: np.array(found[name]) for side, found in mine.items()}
            spread[name] = _difference(values["FM"], values["RM"])
            parts |= {f"{name} FM": float(values["FM"].mean()), f"{name} RM": float(values["RM"].mean()), **_named(f"{name} FM - RM", spread[name])}
            if base is not None:
                changes = {side: values[side] - np.array(base[side][name]) for side in SETS}
                parts |= _named(f"{name} difference of differences", _difference(changes["FM"], changes["RM"]))
        table = [{"set": side, "row": at, **{name: found[name][at] for name in SCORES}} for side, found in mine.items() for at in range(len(found["LOSS"]))]
        value = spread["LOSS"]
        return Measurement(
            system=self.card.name, subject="", value=value.value, low=value.low, high=value.high, n=len(table), better="as-reference",
            parts={**parts, "texts FM": float(len(rows["FM"])), "texts RM": float(len(rows["RM"]))}, table=table,
        )

    def _rows(self, names: tuple[str, str], request: Request, ctx: Context) -> list[Row]:
        ready, part = names
        rows = ctx.sets[ready].read() if ready in ctx.sets else request.rows(part)  # type: ignore[arg-type]
        if not rows:
            raise Missing(f"the row set {ready!r} is empty; it needs texts")
        return forms.sample(rows, self.config.rows)


def _loss(row: RowScore) -> float:
    return row.loss


def _zlib(row: RowScore) -> float:
    return row.loss / text_stats.zlib_size(row.text)


def _min_k(row: RowScore) -> float:
    return -(text_stats.lowest_mean(row.log_probs[row.words], SHARE) or 0.0)


def _min_k_plus_plus(row: RowScore) -> float:
    z = (row.log_probs - row.mean) / row.deviation
    return -(text_stats.lowest_mean(z[row.words], SHARE) or 0.0)


SCORES: Mapping[str, Callable[[RowScore], float]] = {"LOSS": _loss, "zlib": _zlib, "Min-K": _min_k, "Min-K++": _min_k_plus_plus}


def _scores(subject: Any, rows: Sequence[Row], ctx: Context) -> dict[str, list[float]]:
    """Each score of each text. Raises Missing, naming the text, where there is no token to score."""
    found = forms.gold(subject, rows, ctx)
    for number, score in enumerate(found, start=1):
        if not len(score.log_probs[score.words]):
            raise Missing(f"text {number} has no token to score; take it out")
    return {name: [measured(score) for score in found] for name, measured in SCORES.items()}


def _difference(one: np.ndarray, other: np.ndarray, seed: int = 0) -> Interval:
    """Mean of one minus mean of the other, with a percentile bootstrap that resamples each apart."""
    rng = np.random.default_rng(seed)
    drawn = [side[rng.integers(len(side), size=(DRAWS, len(side)))].mean(1) for side in (one, other)]
    return stats.Interval(float(one.mean() - other.mean()), *map(float, np.percentile(drawn[0] - drawn[1], [2.5, 97.5])))


def _named(name: str, found: Interval) -> dict[str, float | None]:
    return {name: found.value, f"{name}, low": found.low, f"{name}, high": found.high}
