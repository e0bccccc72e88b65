"""Gradient-norm attack on membership (arXiv:2402.17012): s(x) = -(mean over weight tensors of the p-norm of the loss's gradient).

Where a row was learned there is nothing left to learn. Each row is taken by itself, in evaluation mode (no dropout), over
all weights; an adapter is folded in first. The end token is left out, as in open-unlearning.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import BudgetSpent, EffaceError
from efface.core.types import Attack, Measurement, Request, Row
from efface.families import membership, passes
from efface.ops import logprobs, stats


class GradNormConfig(Config):
    """Settings of the attack."""

    p: float = Field(2.0, ge=1)
    """Which norm of a gradient."""
    rows: int = Field(40, ge=1)
    """Most rows of each side, drawn at random; each costs a pass with gradients over all weights."""


class GradNorm(Attack[GradNormConfig]):
    """Takes rows for members whose loss is flat in the weights."""

    card = Card(
        name="grad_norm", title="Membership by the size of gradients", paper="arXiv:2402.17012", families=("causal-lm",), needs=("losses", "weights"),
        uses=("forget", "unseen"), access="gradients", better="as-reference",
        departs="evaluation mode and one row at a time, where open-unlearning switches dropout on and fails for more than one; 40 rows of each side; "
        "over-forgetting can show on either side, as gradients vanish where outputs are saturated",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the AUC of the forget rows against the unseen rows, with the reference's and the original's as parts. Raises Unfit.

        When the budget is spent, the rows read so far count, if there are some of both sides.
        """
        forget, unseen = membership.sides(request)
        sides = membership.few(forget, self.config.rows, ctx), membership.few(unseen, self.config.rows, ctx)
        own, why = self._scored(subject.unguarded(), sides, ctx)
        if why and not all(any(score is not None for score in side) for side in own):
            raise BudgetSpent(why)
        reference, original = (self._stored(ctx.baselines.get(name), sides, ctx) for name in ("reference", "original"))
        found = membership.measure(self.card, own, reference)
        before = stats.auc([s for s in original.members if s is not None], [s for s in original.others if s is not None]) if original else None
        return found.model_copy(update={"parts": {**found.parts, "original": before}, "why": "; ".join(text for text in (why, found.why) if text)})

    def _scored(self, subject: Any, sides: tuple[list[Row], list[Row]], ctx: Context) -> tuple[membership.Scored, str]:
        """Scores of both sides, read in turns, and why some are missing ("" when none is)."""
        copy = subject.trainable(0, 0)
        copy.model.eval()
        found = membership.Scored([None] * len(sides[0]), [None] * len(sides[1]))
        places = sorted((at / len(rows), side, at) for side, rows in enumerate(sides) for at in range(len(rows)))
        for _, side, at in ctx.progress(places, "taking gradients", len(places)):
            try:
                ctx.spend(queries=1)
            except BudgetSpent as error:
                return found, str(error)
            found[side][at] = score(copy, sides[side][at], self.config.p)
        return found, ""

    def _stored(self, baseline: Any, sides: tuple[list[Row], list[Row]], ctx: Context) -> membership.Scored | None:
        """A baseline's scores, without any budget; made once, and kept beside the passes."""
        if baseline is None:
            return None
        kept = passes.kept(baseline, self.card.name, [self.config.p, *sides], ctx, lambda: list(self._scored(baseline, sides, ctx.alone(budget={}))[0]))
        return membership.Scored(*kept)


def score(copy: Any, row: Row, p: float) -> float:
    """-(mean over tensors of the gradient's norm) of one row; `copy` is in evaluation mode with gradients on for all weights."""
    batch = copy.encode([row])
    if copy.encode_row(row).ends:
        labels = batch.labels.clone()
        labels[0, int((labels[0] != logprobs.IGNORE).nonzero()[-1])] = logprobs.IGNORE
        batch = replace(batch, labels=labels)
    weights = [weight for weight in copy.model.parameters() if weight.requires_grad]
    gradients = torch.autograd.grad(copy.losses(batch).mean(), weights, allow_unused=True)
    norms = [float(torch.linalg.vector_norm(gradient.float(), p)) for gradient in gradients if gradient is not None]
    mean = -sum(norms) / len(norms)
    if mean != mean or mean == float("-inf"):
        raise EffaceError("a gradient is not finite; the model's weights or its precision are broken")
    return mean
