"""Retraining without the forget rows: the reference that every forgetting claim is measured against.

The subject handed in must be the model before it saw any row of the request; it is trained on the keep rows alone.
"""

from __future__ import annotations

from typing import Any

from efface.core import rows as row_files
from efface.core.capabilities import has
from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.digest import of_value
from efface.core.errors import BadRows, Unfit
from efface.core.types import Recipe, Request, Row
from efface.ops.loop import descend


class RetrainConfig(Config):
    """Settings of retraining; use those that the original was trained with."""

    fit: Fit = Fit(lr=2e-5, steps=500, batch=16, warmup=10, schedule="linear")
    """Optimizer settings."""


class Retrain(Recipe[RetrainConfig]):
    """Trains on the keep rows, after making sure that no forget row is among them."""

    card = Card(
        name="retrain", title="Retraining without the forget rows", paper="", families=("causal-lm", "classifier", "regressor"), uses=("keep",),
        technique="retraining", intent="remove", touches=("weights", "adapter"), locality="all", data=("keep rows",), operator="weights",
        sequence="refits", reversible=False, guarantee="exact",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the retrained reference. Raises Unfit when a keep row is also a forget row."""
        keep = request.rows("keep")
        forget = {_key(row) for row in (request.forget.read() if request.forget else [])}
        shared = [number for number, row in enumerate(keep, start=1) if _key(row) in forget]
        if shared:
            raise Unfit(f"keep rows {', '.join(map(str, shared[:5]))} are forget rows too ({len(shared)} in all); a reference must not see them")
        if has(subject, "refit"):
            return subject.refit(keep, ctx.seed_for("refit"))
        after = subject.trainable(self.config.fit.rank, ctx.seed_for("adapter"))
        return descend(after, {"keep": keep}, lambda batch: {"loss": after.losses(batch["keep"]).mean()}, self.config.fit, ctx)


def _key(row: Row) -> str:
    """Equal for rows that mean the same: text with folded case, anything else by value."""
    try:
        return row_files.key(row)
    except BadRows:  # rows of other families have no text layout
        return of_value(dict(row))
