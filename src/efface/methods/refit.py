"""Training anew without the forget rows: exact, and the price that every other method tries to avoid.

A scikit-learn estimator is fitted from nothing with its own settings. A torch module gets new weights, drawn from the
run's seed, and is trained on the keep rows with `fit`; give those settings that the original was trained with. A model
that began from pretrained weights begins from random ones here: that is exact too, but costs what pretraining gave.
"""

from __future__ import annotations

from typing import Any

from efface.core.capabilities import has
from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import Unfit
from efface.core.types import Method, Request
from efface.ops.loop import descend


class RefitConfig(Config):
    """Settings of training anew."""

    fit: Fit = Fit(lr=1e-2, epochs=20, batch=64, schedule="linear", weight_decay=5e-4)
    """Optimizer settings of a torch module; an estimator has its own."""


class Refit(Method[RefitConfig]):
    """The same model trained from nothing on the kept rows alone."""

    card = Card(
        name="refit", title="Training anew without the forget rows (exact)", paper="", families=("classifier", "regressor"),
        needs=("predict",), uses=("forget", "keep"),
        technique="retraining", intent="remove", touches=("weights",), locality="all", data=("forget rows", "keep rows"), operator="weights",
        sequence="refits", reversible=False, guarantee="exact",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the model trained on the keep rows; Unfit when it can be neither refitted nor built anew."""
        keep = request.rows("keep")
        if has(subject, "refit"):
            return subject.refit(keep, ctx.seed_for("refit"))
        if not has(subject, "fresh"):
            raise Unfit(f"refit trains from nothing, and this {subject.family} ({type(subject).__name__}) cannot be built anew")
        after = subject.fresh(ctx.seed_for("refit"))
        return descend(after, {"keep": keep}, lambda batch: {"keep": after.losses(batch["keep"]).mean()}, self.config.fit, ctx)
