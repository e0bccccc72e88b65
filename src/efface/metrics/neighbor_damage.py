"""Neighbor damage: whether what is like the concept can still be drawn, apart from what is not.

Neighbors are the kept prompts that name a concept of the request's `near`, and those whose text is nearest to the concept's as
the original model's text encoder reads it (cosine of the mean state of their own words). The number is the share of neighbors that
the concept's judge recognizes; the same for the farthest prompts stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import Missing
from efface.core.types import Measurement, Metric, Request, Row
from efface.families import drawn, judges
from efface.ops import class_stats


class NeighborDamageConfig(Config):
    """Settings of neighbor damage."""

    prompts: int = Field(12, ge=1)
    """Kept prompts on each side: nearest, and farthest."""
    each: int = Field(2, ge=1)
    """Pictures of every prompt."""


class NeighborDamage(Metric[NeighborDamageConfig]):
    """How well the concept's neighbors are still drawn."""

    card = Card(
        name="neighbor_damage", title="Neighbors still drawn (share that the judge recognizes)", paper="arXiv:2402.11846", families=("diffusion",),
        needs=("generate",), uses=("names", "near", "keep", "original"), better="as-reference",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the share of neighbors recognized, with a Wilson interval; "far" is the same for the farthest prompts."""
        found = judges.judges(ctx)
        name, _ = judges.asked(request.names, found)
        rows = [row for row in request.rows("keep") if name in row]
        if not rows:
            raise Missing(f"no kept row says in the column {name!r} what its picture should show")
        order = _nearest(ctx.baseline("original"), rows, request, ctx)
        hits = {}
        for side, picked in (("near", order[: self.config.prompts]), ("far", order[-self.config.prompts :])):
            chosen = [rows[at] for at in picked]
            pictures = drawn.pictures(subject, chosen, ctx, self.config.each)
            hits[side] = judges.right({name: found[name]}, drawn.repeated(chosen, self.config.each), pictures)[name]
        near = class_stats.wilson(hits["near"])
        table = [{"prompt": rows[at]["prompt"], "value": float(np.mean(part))} for at, part in zip(order, np.split(hits["near"], len(hits["near"]) // self.config.each), strict=False)]
        return Measurement(
            system=self.card.name, subject="", value=near.value, low=near.low, high=near.high, n=len(hits["near"]), better="as-reference",
            parts={"near": near.value, "far": float(hits["far"].mean())}, table=table,
        )


def _nearest(original: Any, rows: Sequence[Row], request: Request, ctx: Context) -> list[int]:
    """Positions of the kept rows, the concept's neighbors first: those that `near` names, then by the cosine of their texts."""

    def order() -> list[int]:
        with torch.no_grad():
            states = original.embed_text([*request.names, *(str(row["prompt"]) for row in rows)]).states.double().mean(1)
        states = torch.nn.functional.normalize(states - states.mean(0), dim=1)
        likeness = (states[len(request.names) :] @ states[: len(request.names)].T).amax(1)
        words = [{word for word in near.lower().split() if len(word) > 2} for near in request.near]
        named = torch.tensor([float(any(one and one <= set(str(row["prompt"]).lower().split()) for one in words)) for row in rows])
        return torch.argsort(named * 10 + likeness, descending=True, stable=True).tolist()

    return ctx.once((original, "neighbors", request.digest), order)
