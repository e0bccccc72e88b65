"""Negative preference optimization (arXiv:2404.05868).

forget = (2 / beta) * mean softplus(beta * (log p_after(y | x) - log p_before(y | x)))
keep   = mean loss on keep rows, or KL(before || after) on them, or nothing.

Log-probabilities are sums over the tokens of an answer. A row's gradient is that of gradient ascent on its log-probability times
2 p_after^beta / (p_after^beta + p_before^beta): 1 at the start whatever beta, 0 once the row is forgotten.
The paper's code and open-unlearning: beta 0.1, both weights 1, lr 1e-5, ten epochs at batch 16 or 32. There, forget rows fall far
below rows never seen before the keep rows recover. A run that ends at that level needs both terms to pull alike all the way: the
forget weight is 0.1 here, as a sum over an answer's tokens weighs about ten times as much as the mean on keep rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from efface.core.card import Card
from efface.core.config import Config, Fit, Stop
from efface.core.context import Context
from efface.core.types import Method, Request
from efface.ops import anchors
from efface.ops.keep import Keep, KeepTerm
from efface.ops.loop import descend, watch


class NPOConfig(Config):
    """Settings of NPO."""

    beta: float = Field(0.1, gt=0)
    """Inverse temperature: how soon a row counts as forgotten; towards 0 the method becomes gradient ascent."""
    keep: KeepTerm = "loss"
    """What holds the keep rows: their loss, their distance to the model before (kl), or nothing (none)."""
    forget_weight: float = Field(0.1, ge=0)
    """Weight of the forget term."""
    keep_weight: float = Field(1.0, ge=0)
    """Weight of the keep term."""
    fit: Fit = Fit(lr=1e-5, steps=200, batch=8)
    """Optimizer settings; adapters (fit.rank) want a learning rate 10 to 100 times as high."""
    stop: Stop = Stop()
    """When to end."""


class NPO(Method[NPOConfig]):
    """Makes forget answers less likely than they were, with a force that fades as they fade."""

    card = Card(
        name="npo", title="Negative preference optimization", paper="arXiv:2404.05868", families=("causal-lm",),
        needs=("losses", "sequence_log_probs", "score"), uses=("forget", "keep"),
        technique="parameter optimization", intent="remove", touches=("weights", "adapter"), locality="all", data=("forget rows", "keep rows"), operator="weights",
        sequence="accumulates", reversible=False, guarantee="empirical",
        departs="forget weight 0.1, where the code has 1; KL over labeled positions, where the code averages over prompt and padding too; each keep row weighs the same; ends at the "
        "level of rows never seen, where the code always runs ten epochs",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject after NPO."""
        config = self.config
        rows = request.rows("forget")
        after = subject.trainable(config.fit.rank, ctx.seed_for("adapter"))
        keep = Keep(config.keep, config.keep_weight, subject, request, ctx)
        before = anchors.sequence_log_probs(subject, rows, ctx)

        def loss(batches: Mapping[str, Any]) -> dict[str, Tensor]:
            forget = batches["forget"]
            each = npo(after.sequence_log_probs(forget), before[forget.index], config.beta)
            return {"forget": config.forget_weight * each.mean(), **keep.terms(after, batches)}

        return descend(after, {"forget": rows, **keep.pools}, loss, config.fit, ctx, watch(subject, after, request, config.stop, ctx))


def npo(log_probs: Tensor, before: Tensor, beta: float) -> Tensor:
    """Loss of each row (B,) from its log-probability now and before; sums over tokens, in nats."""
    return 2 / beta * softplus(beta * (log_probs - before))
