"""Direct preference optimization for forgetting (TOFU, arXiv:2401.06121; NPO, arXiv:2404.05868): the refusal over the answer.

forget = (2 / beta) * mean softplus(-beta * (g(refusal) - g(answer))),  g(y) = log p_after(y | x) - log p_before(y | x)
keep   = mean loss on keep rows, or KL(before || after) on them, or nothing.

Log-probabilities are sums over the tokens of an answer. NPO's code and open-unlearning: beta 0.1, both weights 1, lr 1e-5, ten
epochs at batch 32 (or 16), a refusal drawn anew at every access.
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
from efface.data import refusals
from efface.ops import anchors
from efface.ops.keep import Keep, KeepTerm
from efface.ops.loop import descend, watch


class DPOConfig(Config):
    """Settings of preference optimization."""

    beta: float = Field(0.1, gt=0)
    """Inverse temperature: how soon a pair counts as settled."""
    keep: KeepTerm = "loss"
    """What holds the keep rows: their loss, their distance to the model before (kl), or nothing (none)."""
    forget_weight: float = Field(1.0, ge=0)
    """Weight of the preference term."""
    keep_weight: float = Field(1.0, ge=0)
    """Weight of the keep term."""
    refusals: str = ""
    """Text file with one refusal a line; empty takes the request's `instead`, or else efface's own list."""
    each: int = Field(4, ge=1)
    """Different refusals that each forget question is paired with."""
    fit: Fit = Fit(lr=1e-5, steps=200, batch=8)
    """Optimizer settings; adapters (fit.rank) want a learning rate 10 to 100 times as high."""
    stop: Stop = Stop()
    """When to end, should the forget answers become unlikely before all steps are done."""


class DPO(Method[DPOConfig]):
    """Makes a refusal more likely and the forget answer less likely than they were, as far as the pair is not settled."""

    card = Card(
        name="dpo", title="Direct preference optimization on refusals", paper="arXiv:2404.05868", families=("causal-lm",),
        needs=("losses", "sequence_log_probs", "score"), uses=("forget", "keep"),
        technique="parameter optimization", intent="suppress", touches=("weights", "adapter"), locality="all", data=("forget rows", "keep rows"), operator="weights",
        sequence="accumulates", reversible=False, guarantee="empirical",
        departs="each question meets a few refusals drawn before the run, where the code draws one at every access; KL over labeled "
        "positions; each keep row weighs the same; ends at the level of rows never seen, where the code always runs its epochs",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject that prefers refusals. Raises Unfit for rows without a question."""
        config = self.config
        rows = request.rows("forget")
        said = refusals.lines(config.refusals, request.instead)
        refused = refusals.refuse(rows, said, config.each, ctx.random("refusals"))
        after = subject.trainable(config.fit.rank, ctx.seed_for("adapter"))
        keep = Keep(config.keep, config.keep_weight, subject, request, ctx)
        refusal_before = anchors.sequence_log_probs(subject, refused, ctx)
        answer_before = anchors.sequence_log_probs(subject, rows, ctx).repeat(config.each)

        def loss(batches: Mapping[str, Any]) -> dict[str, Tensor]:
            answer = batches["forget"]
            refusal = after.encode([refused[place] for place in answer.index.tolist()], answer.index.tolist())
            refusal_gain = after.sequence_log_probs(refusal) - refusal_before[answer.index]
            answer_gain = after.sequence_log_probs(answer) - answer_before[answer.index]
            return {"forget": config.forget_weight * dpo(refusal_gain, answer_gain, config.beta).mean(), **keep.terms(after, batches)}

        pools = {"forget": rows * config.each, **keep.pools}
        return descend(after, pools, loss, config.fit, ctx, watch(subject, after, request, config.stop, ctx))


def dpo(refusal_gain: Tensor, answer_gain: Tensor, beta: float) -> Tensor:
    """Loss of each pair (B,) from how much the log-probability of refusal and answer rose since before."""
    return 2 / beta * softplus(-beta * (refusal_gain - answer_gain))
