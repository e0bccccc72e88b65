"""Learning to say "I don't know" (TOFU, arXiv:2401.06121, there called preference optimization, PO).

minimized = cross-entropy over the concatenation of refused forget rows (question, refusal) and keep rows: the mean of m over
both halves together, m a row's mean loss per labeled token.

Plain cross-entropy on refusals; the preference loss on the same pairs is another method, `dpo`. TOFU: lr 1e-5, five epochs at
batch 16 or 32, a refusal drawn anew at every access.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field
from torch import Tensor

from efface.core.card import Card
from efface.core.config import Config, Fit, Stop
from efface.core.context import Context
from efface.core.types import Method, Request
from efface.data import refusals
from efface.ops.loop import descend, watch


class IDKConfig(Config):
    """Settings of learning to refuse."""

    refusals: str = ""
    """Text file with one refusal a line; empty takes the request's `instead`, or else efface's own list."""
    each: int = Field(4, ge=1)
    """Different refusals that each forget question is paired with."""
    fit: Fit = Fit(lr=2e-5, steps=200, batch=8)
    """Optimizer settings; adapters (fit.rank) want a learning rate 10 to 100 times as high."""
    stop: Stop = Stop()
    """When to end, should the forget answers become unlikely before all steps are done."""


class IDK(Method[IDKConfig]):
    """Trains on refusals for forget questions and on keep rows."""

    card = Card(
        name="idk", title="Cross-entropy on refusals", paper="arXiv:2401.06121", families=("causal-lm",), needs=("losses",),
        uses=("forget", "keep"),
        technique="relabeling", intent="suppress", touches=("weights", "adapter"), locality="all", data=("forget rows", "keep rows"), operator="weights",
        sequence="accumulates", reversible=False, guarantee="empirical",
        departs="each row weighs the same, where the code lets each token weigh the same; each question meets a few refusals drawn before "
        "the run, where the code draws one at every access; ends at the level of rows never seen, where the code always runs its epochs",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject after training on refusals and keep rows. Raises Unfit for rows without a question."""
        config = self.config
        said = refusals.lines(config.refusals, request.instead)
        refused = refusals.refuse(request.rows("forget"), said, config.each, ctx.random("refusals"))
        after = subject.trainable(config.fit.rank, ctx.seed_for("adapter"))

        def loss(batches: Mapping[str, Any]) -> dict[str, Tensor]:
            # Both halves have as many rows, so the mean over all of them is the sum of these.
            return {"forget": after.losses(batches["forget"]).mean() / 2, "keep": after.losses(batches["keep"]).mean() / 2}

        pools = {"forget": refused, "keep": request.rows("keep")}
        return descend(after, pools, loss, config.fit, ctx, watch(subject, after, request, config.stop, ctx))
