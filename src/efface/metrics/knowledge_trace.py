"""Knowledge trace: which columns of the MLPs carry the answers, and how much of that is left. For when no concept vector is known.

    d_j(model) = mean over forget rows of [ log p(answer) - log p(answer | column j disturbed) ]       log p per token
    value      = sum over the traced columns of d_j(model) / the same of the original

Disturbed = N(0, 0.1^2) added to the column, ConceptVectors' causal check (arXiv:2406.11614), or the column removed. The traced columns are
found on the original alone, as those whose d_j is larger than its like on keep rows by most, since a few columns of every model
carry any answer. All are ranked by an estimate from the gradient (one pass over a few of the rows), the exact effect of the best
candidates is computed, and the `top` largest are kept. 1 = the answers still hang on the same columns, 0 = not at all. What a
model does not know cannot fall, so one that never learned the rows has a small share whatever its columns are; how far it has
differs from case to case, and the reference says it. The columns' own cosine to the original's stands beside it as a part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import Missing
from efface.core.types import Measurement, Metric, Request, Row
from efface.families import forms, passes, value_columns
from efface.families.value_columns import Column, How
from efface.ops import stats


class KnowledgeTraceConfig(Config):
    """Settings of the metric."""

    how: How = "noise"
    """What is done to a column: noise is added to it, or it is removed."""
    noise: float = Field(0.1, gt=0)
    """Standard deviation of the noise."""
    top: int = Field(8, ge=1)
    """Columns of the trace."""
    candidates: int = Field(24, ge=1)
    """Columns whose exact effect is computed, the best by the estimate."""
    choose: int = Field(12, ge=1)
    """Most forget rows, and most keep rows, on which the columns are found, evenly spaced."""
    rows: int = Field(40, ge=1)
    """Most forget rows on which the trace is read, evenly spaced."""


class Trace(NamedTuple):
    """The traced columns, and what was seen when they were found."""

    columns: list[Column]
    random: float
    """Mean drop of as many columns drawn at random: what any column does."""
    keep: float | None
    """Mean drop of the traced columns on keep rows; None where the request has none."""


class KnowledgeTrace(Metric[KnowledgeTraceConfig]):
    """Share of the original's trace that is still there."""

    card = Card(
        name="knowledge_trace", title="Knowledge trace left", paper="after arXiv:2406.11614", families=("causal-lm",), needs=("losses", "weights"),
        uses=("forget", "original"), better="as-reference",
        departs="a generalization to models whose concept vectors nobody knows; log-probabilities of the rows' answers in place of BLEU between answers",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the share with an interval paired over rows. Raises Missing when no column of the original carries the answers."""
        original: Any = value_columns.bare(ctx.baseline("original"))
        subject = value_columns.bare(subject)
        value_columns.check_alike(subject, original)
        rows = forms.sample(request.rows("forget"), self.config.rows)
        trace = self._found(original, request, ctx)
        own, before = self._read(original, trace.columns, rows, ctx)
        if own.mean() <= 0:
            raise Missing(f"the columns found on {self.config.choose} forget rows carry nothing of all {len(rows)}; raise choose or candidates")
        mine, together = self._read(subject, trace.columns, rows, ctx)
        found = share(mine.mean(0), own.mean(0))
        parts: dict[str, float | None] = {
            "trace": float(mine.mean()), "original trace": float(own.mean()), "original random columns": trace.random, "original keep trace": trace.keep,
            "together": together, "original together": before, "cosine": cosine(subject, original, trace.columns),
        }
        if (reference := ctx.baselines.get("reference")) is not None:
            base, at_once = self._read(value_columns.bare(reference), trace.columns, rows, ctx)
            parts |= {"reference trace": float(base.mean()), "reference together": at_once, "reference cosine": cosine(reference, original, trace.columns)}
            apart = share(base.mean(0), own.mean(0))
            parts |= {"reference": apart.value, "reference_low": apart.low, "reference_high": apart.high}
        table: list[dict[str, object]] = [
            {"layer": layer, "column": column, "value": float(now), "original": float(then)}
            for (layer, column), now, then in zip(trace.columns, mine.mean(1), own.mean(1), strict=True)
        ]
        table += [{"row": at, "value": float(now), "original": float(then)} for at, (now, then) in enumerate(zip(mine.mean(0), own.mean(0), strict=True))]
        return Measurement(
            system=self.card.name, subject="", value=found.value, low=found.low, high=found.high, n=len(rows), better="as-reference", parts=parts, table=table
        )

    def _found(self, original: Any, request: Request, ctx: Context) -> Trace:
        """The trace of the original, found once and kept beside the passes. Raises Missing when there is none."""
        config = self.config
        rows = forms.sample(request.rows("forget"), config.choose)
        others = forms.sample(request.rows("keep"), config.choose) if request.keep is not None else []

        def compute() -> object:
            scores = value_columns.screen(original, rows, config.how, config.noise, ctx)
            if others:
                scores = scores - np.abs(value_columns.screen(original, others, config.how, config.noise, ctx))
            best = np.argsort(-scores, axis=None, kind="stable")[: max(config.candidates, config.top)]
            columns = [(int(layer), int(column)) for layer, column in zip(*np.unravel_index(best, scores.shape), strict=True)]
            alone = [[place] for place in columns]
            effects = self._drops(original, alone, rows, ctx)
            beside = self._drops(original, alone, others, ctx).mean(1) if others else np.zeros(len(columns))
            lead = effects.mean(1) - np.abs(beside)
            chosen = [at for at in np.argsort(-lead, kind="stable")[: config.top] if lead[at] > 0]
            drawn = [divmod(ctx.random("knowledge_trace", at).randrange(scores.size), scores.shape[1]) for at in range(config.top)]
            return {
                "columns": [columns[at] for at in chosen], "random": float(self._drops(original, [[place] for place in drawn], rows, ctx).mean()),
                "keep": float(beside[chosen].mean()) if others and chosen else None,
            }

        settings = [config.model_dump(exclude={"rows"}), list(rows), list(others), ctx.seed]
        held = passes.kept(original, f"{self.card.name}-found", settings, ctx, compute)
        if not held["columns"]:
            raise Missing("no column of the original carries the answers of the forget rows: disturbing one lowers their probability no more than that of keep rows")
        return Trace([(int(layer), int(column)) for layer, column in held["columns"]], held["random"], held["keep"])

    def _read(self, subject: Any, columns: list[Column], rows: Sequence[Row], ctx: Context) -> tuple[np.ndarray, float]:
        """Drops of the columns (columns, rows) on one model, and the mean drop when all are disturbed at once."""

        def compute() -> object:
            return self._drops(subject, [*([place] for place in columns), columns], rows, ctx).tolist()

        settings = [self.config.how, self.config.noise, columns, list(rows), ctx.seed]
        found = np.array(passes.kept(subject, self.card.name, settings, ctx, compute))
        return found[:-1], float(found[-1].mean())

    def _drops(self, subject: Any, sets: Sequence[Sequence[Column]], rows: Sequence[Row], ctx: Context) -> np.ndarray:
        """Drop of each row under each set of columns, disturbed at once (sets, rows)."""
        seed = ctx.seed_for(self.card.name)
        changes = [(columns, value_columns.changes(subject, columns, self.config.how, self.config.noise, seed)) for columns in sets]
        return value_columns.drops(subject, rows, changes, ctx, "disturbing columns")


def share(mine: np.ndarray, own: np.ndarray) -> stats.Interval:
    """sum of mine / sum of own, with an interval from drawing rows, the same for both."""
    return stats.bootstrap(np.stack([mine, own], axis=1), lambda rows: float(rows[:, 0].sum() / rows[:, 1].sum()))


def cosine(subject: Any, original: Any, columns: Sequence[Column]) -> float:
    """Mean cosine between a model's columns and the original's."""
    mine, other = (value_columns.vectors(model, columns).double() for model in (subject, original))
    return float(torch.nn.functional.cosine_similarity(mine, other, dim=0).mean())
