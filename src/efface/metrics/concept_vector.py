"""Concept vectors (ConceptVectors, arXiv:2406.11614): is the column that holds a concept still there?

The column is read as its 200 tokens with the largest projection on the model's own output embedding. Against the original's:

    value    Jaccard of the two token sets, mean over columns: 1 = untouched; two unrelated columns have about 0.003
    cosine, l2      of the columns themselves
    words    |Top(u) and W| / |Top(o) and W|,  both    |Top(u) and Top(o) and W| / |Top(o) and W|
             W = tokens of the forget rows' text, and of the row set "article", minus stop words

Columns come from `layer` and `column`, else from rows with Layer and Dim in the row set "columns", else from the forget rows;
where nobody names any, those whose top tokens hold most of W are searched for on the original. What stands before the
weights, a guard, changes nothing here: a model can answer like one that forgot and be "untouched".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import BadConfig, BadRows
from efface.core.types import Measurement, Metric, Request, Row
from efface.families import passes, value_columns
from efface.families.value_columns import Column
from efface.ops import stats, value_vectors
from efface.ops.value_vectors import Intrinsic


class ConceptVectorConfig(Config):
    """Settings of the metric."""

    layer: int = Field(-1, ge=-1)
    """Layer of the column, from 0; -1 takes the columns that rows name."""
    column: int = Field(-1, ge=-1)
    """Column of the MLP's output matrix in that layer, from 0."""
    top: int = Field(value_vectors.TOP, ge=1)
    """Tokens that stand for a column."""
    search: int = Field(8, ge=1)
    """Columns that are searched for on the original when none is named."""
    purity: int = Field(50, ge=1)
    """Top tokens by which the search judges a column."""


class ConceptVector(Metric[ConceptVectorConfig]):
    """What is left of the columns that hold the concept."""

    card = Card(
        name="concept_vector", title="Concept vector left", paper="arXiv:2406.11614", families=("causal-lm",), needs=("weights",),
        uses=("forget", "original"), better="as-reference",
        departs="tokens without a letter, and single letters, count as stop words; columns that nobody names are searched for by their top tokens, where the paper asks GPT-4",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the mean Jaccard over columns, with the other numbers and the reference's as parts. Raises Missing, Unfit or UnknownName."""
        original: Any = ctx.baseline("original")
        value_columns.check_alike(subject, original)
        words = ctx.once((original, "word list", request.digest), lambda: value_columns.word_list(original, request, ctx))
        columns, how = self._columns(original, request, words, ctx)
        mine = self._read(subject, original, columns, words)
        found = stats.bootstrap([one.jaccard for one in mine])
        parts = _means(mine)
        if (reference := ctx.baselines.get("reference")) is not None:
            parts |= {f"reference {name}": value for name, value in _means(self._read(reference, original, columns, words)).items()}
            parts["reference"] = parts["reference jaccard"]
        return Measurement(
            system=self.card.name, subject="", value=found.value, low=found.low, high=found.high, n=len(columns), better="as-reference",
            parts={**parts, "words in W": float(len(words)), **how},
            table=[{"layer": layer, "column": column, **one._asdict()} for (layer, column), one in zip(columns, mine, strict=True)],
        )

    def _columns(self, original: Any, request: Request, words: set[int], ctx: Context) -> tuple[list[Column], dict[str, float | None]]:
        """The columns, and whether they were given or how the search found them."""
        if (self.config.layer < 0) != (self.config.column < 0):
            raise BadConfig(f"layer={self.config.layer} and column={self.config.column}: give both, or none")
        if self.config.layer >= 0:
            return [(self.config.layer, self.config.column)], {"given": 1.0}
        rows = ctx.sets["columns"].read() if "columns" in ctx.sets else [row for row in request.rows("forget") if "Dim" in row]
        if rows:
            return named(rows), {"given": 1.0}
        asked = [sorted(words), self.config.purity, self.config.search]

        def compute() -> object:
            matrices = ctx.progress(value_columns.matrices(original), "searching columns", len(original.layers()))
            return value_vectors.search(matrices, value_columns.embedding(original), words, self.config.purity)[: self.config.search]

        best = passes.kept(original, self.card.name, asked, ctx, compute)
        purity, z = np.array([one[2:] for one in best]).mean(0)
        return [(int(one[0]), int(one[1])) for one in best], {"given": 0.0, "purity": float(purity), "z": float(z)}

    def _read(self, subject: Any, original: Any, columns: Sequence[Column], words: set[int]) -> list[Intrinsic]:
        pair = [value_columns.vectors(model, columns) for model in (subject, original)]
        tops = [value_vectors.top(side, value_columns.embedding(model), self.config.top) for side, model in zip(pair, (subject, original), strict=True)]
        return [
            value_vectors.compare(pair[0][:, at], pair[1][:, at], (tops[0][at].tolist(), tops[1][at].tolist()), words)
            for at in range(len(columns))
        ]


def named(rows: Sequence[Row]) -> list[Column]:
    """The columns that rows {"Concept", "Layer", "Dim"} name, each once. Raises BadRows."""
    found = []
    for number, row in enumerate(rows, start=1):
        place = row.get("Layer"), row.get("Dim")
        if not all(isinstance(part, int) and part >= 0 for part in place):
            raise BadRows(f"row {number} of the columns has Layer {place[0]!r} and Dim {place[1]!r}; both must be whole numbers from 0")
        found.append((int(str(place[0])), int(str(place[1]))))
    return list(dict.fromkeys(found))


def _means(found: Sequence[Intrinsic]) -> dict[str, float | None]:
    """Mean of each number over the columns; over those that have it for the rates of words."""
    parts: dict[str, float | None] = {}
    for name in Intrinsic._fields:
        values = [value for one in found if (value := getattr(one, name)) is not None]
        parts[name] = float(np.mean(values)) if values else None
    return parts
