"""The part of a loss that holds what must stay, shared by the methods that offer a choice of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from efface.core.context import Context
from efface.core.types import Request, Row
from efface.ops.anchors import NextToken
from efface.ops.divergences import kl_rows

KeepTerm = Literal["loss", "kl", "none"]


class Keep:
    """Nothing, the loss on keep rows, or the distance from the frozen subject on them: KL(before || after) at labeled positions."""

    def __init__(self, term: KeepTerm, weight: float, subject: Any, request: Request, ctx: Context) -> None:
        self.weight = weight
        self.pools: dict[str, list[Row]] = {} if term == "none" else {"keep": request.rows("keep")}
        self.frozen = NextToken(subject, self.pools["keep"], "keep", ctx) if term == "kl" else None

    def terms(self, after: Any, batches: Mapping[str, Any]) -> dict[str, Tensor]:
        """The weighted term by the name "keep", a mean over rows; empty when nothing is asked for."""
        if not self.pools:
            return {}
        batch = batches["keep"]
        if self.frozen is None:
            return {"keep": self.weight * after.losses(batch).mean()}
        logits, labels = after.logits(batch)
        return {"keep": self.weight * kl_rows(self.frozen.logits(batch, labels), logits, labels).mean()}
