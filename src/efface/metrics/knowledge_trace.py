"""Knowledge trace: which columns of the MLPs carry the answers, and how much of that is left. For when no concept vector is known.

    d(model, columns) = mean over forget rows of [ log p(answer) - log p(answer | columns disturbed) ]       log p per token
    value             = d(model, traced columns) / d(original, traced columns)

The traced columns are found on the original alone, one by one: those whose own d is larger than its like on keep rows by most, since
a few columns of every model carry any answer. All are ranked by an estimate from the gradient (one pass over a few of the rows), the
exact d of the best candidates is computed, and the `top` largest are kept. The trace is what happens when all of these are disturbed
at once: 1 = the answers hang on them as much as they did, 0 = not at all, below 0 = they stand in the answers' way.

Disturbed = removed, or N(0, 0.1^2) added, which is ConceptVectors' causal check (arXiv:2406.11614). Noise says that a neuron still
fires and is still listened to, not that its column still holds something: it finds a full trace in a model whose column was
erased. Removal finds none there. A model that never learned the rows is not at 0 either, for what it gets right of an answer
by its form hangs on the same columns: on the benchmark authors the share is 0.77 [0.55, 1.03] and 0.71 [0.57, 0.88] of two retrained
models. So a share near theirs is no sign of forgetting, and one far below is a sign of damage done to the place.
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

    how: How = "remove"
    """What is done to a column: it is removed, or noise is added to it."""
    noise: float = Field(0.1, gt=0)
    """Standard deviation of the noise."""
    top: int = Field(12, ge=1)
    """Columns of the trace."""
    candidates: int = Field(24, ge=1)
    """Columns whose exact effect is computed, the best by the estimate."""
    choose: int = Field(12, ge=1)
    """Most forget rows, and most keep rows, on which the columns are found, evenly spaced."""
    rows: int = Field(40, ge=1)
    """Most forget rows on which the trace is read, evenly spaced."""


class Trace(NamedTuple):
    """The traced columns, and what each does alone to the original's forget rows and keep rows."""

    columns: list[Column]
    alone: list[float]
    beside: list[float]


class KnowledgeTrace(Metric[KnowledgeTraceConfig]):
    """Share of the original's trace that is still there."""

    card = Card(
        name="knowledge_trace", title="Knowledge trace left", paper="after arXiv:2406.11614", families=("causal-lm",), needs=("losses", "weights"),
        uses=("forget", "original"), better="as-reference",
        departs="a generalization to models whose concept vectors nobody knows; log-probabilities of the rows' answers in place of BLEU between answers, and columns are removed; a retrained model may keep most of the share, so alone it tells none from the original",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the share with an interval paired over rows. Raises Missing when no column of the original carries the answers."""
        original: Any = value_columns.bare(ctx.baseline("original"))
        subject = value_columns.bare(subject)
        value_columns.check_alike(subject, original)
        rows = forms.sample(request.rows("forget"), self.config.rows)
        trace = self._found(original, request, ctx)
        own = self._read(original, trace.columns, rows, ctx)
        if own.mean() <= 0:
            raise Missing(f"the columns found on {self.config.choose} forget rows carry nothing of all {len(rows)}; raise choose or candidates")
        mine = self._read(subject, trace.columns, rows, ctx)
        found = share(mine, own)
        parts: dict[str, float | None] = {
            "trace": float(mine.mean()), "original trace": float(own.mean()), "original columns alone": float(np.mean(trace.alone)),
            "original random columns": float(self._read(original, self._random(original, ctx), rows, ctx).mean()),
            "columns": float(len(trace.columns)), "cosine": cosine(subject, original, trace.columns),
        }
        if request.keep is not None:
            parts["original keep trace"] = float(self._read(original, trace.columns, forms.sample(request.rows("keep"), self.config.choose), ctx).mean())
        if (reference := ctx.baselines.get("reference")) is not None:
            base = self._read(value_columns.bare(reference), trace.columns, rows, ctx)
            apart = share(base, own)
            parts |= {"reference": apart.value, "reference_low": apart.low, "reference_high": apart.high}
            parts |= {"reference trace": float(base.mean()), "reference cosine": cosine(reference, original, trace.columns)}
        table: list[dict[str, object]] = [
            {"layer": layer, "column": column, "original": alone, "keep": beside}
            for (layer, column), alone, beside in zip(trace.columns, trace.alone, trace.beside, strict=True)
        ]
        table += [{"row": at, "value": float(now), "original": float(then)} for at, (now, then) in enumerate(zip(mine, own, strict=True))]
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
            return {"columns": [columns[at] for at in chosen], "alone": effects.mean(1)[chosen].tolist(), "beside": beside[chosen].tolist()}

        settings = [config.model_dump(exclude={"rows"}), list(rows), list(others), ctx.seed]
        held = passes.kept(original, f"{self.card.name}-found", settings, ctx, compute)
        if not held["columns"]:
            raise Missing("no column of the original carries the answers of the forget rows: disturbing one lowers their probability no more than that of keep rows")
        return Trace([(int(layer), int(column)) for layer, column in held["columns"]], held["alone"], held["beside"])

    def _random(self, original: Any, ctx: Context) -> list[Column]:
        """As many columns drawn at random: what any do."""
        modules = original.modules_of("mlp.out")
        width, source = value_columns.matrix(modules[0]).shape[1], ctx.random(self.card.name)
        return [divmod(place, width) for place in source.sample(range(len(modules) * width), self.config.top)]

    def _read(self, subject: Any, columns: list[Column], rows: Sequence[Row], ctx: Context) -> np.ndarray:
        """Drop of each row (rows,) when all the columns are disturbed at once."""
        settings = [self.config.how, self.config.noise, columns, list(rows), ctx.seed]
        held = passes.kept(subject, self.card.name, settings, ctx, lambda: self._drops(subject, [columns], rows, ctx)[0].tolist())
        return np.array(held)

    def _drops(self, subject: Any, sets: Sequence[Sequence[Column]], rows: Sequence[Row], ctx: Context) -> np.ndarray:
        """Drop of each row under each set of columns (sets, rows)."""
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
