"""Influence unlearning: one step along the inverse curvature times the difference of mean gradients (Koh and Liang 2017; Izzo
and others 2021, arXiv:2002.10077; in the WoodFisher form of arXiv:2304.04934).

    v = (n_f / n) (mean gradient on forget rows - mean gradient on keep rows),        theta = theta_o + alpha A^-1 v

v is the gradient on all rows less that on keep rows, so at a minimum over all rows A^-1 v is Newton's step on the keep
rows. Three matrices A:

    woodfisher   I + sum g g' / N by the published recursion over single keep rows: two vectors of memory, and no exact
                 inverse, because it leaves v along the first row's gradient only
    fisher       damping I + mean g g' over keep rows, solved by conjugate gradients
    newton       damping I + Hessian of the mean loss on keep rows, solved by conjugate gradients; exact where the loss is
                 convex, as in a linear head (weights = head), with the damping in the place of the weight decay
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.types import Method, Request, Row
from efface.ops.curvature import conjugate_gradient, fisher_product, flat, hessian_product, move, woodfisher
from efface.ops.importance import mean_gradient, per_sample_gradients, weights_of

FLOATS = 2**26
"""Most numbers of single rows' gradients that are held at once."""


class InfluenceConfig(Config):
    """Settings of influence unlearning."""

    solver: Literal["woodfisher", "fisher", "newton"] = "woodfisher"
    """Whose inverse: the published recursion, the damped empirical Fisher matrix, or the damped Hessian."""
    alpha: float | None = Field(None, ge=0)
    """Length of the step; None takes 20 for woodfisher, where it is a free scale of 1 to 100, and the derived 1 elsewhere."""
    count: int = Field(0, ge=0)
    """woodfisher: N of the recursion, and the most keep rows it reads; 0 takes all keep rows, published code 1000."""
    weights: Literal["all", "head"] = "all"
    """What may move: every parameter, or those of the last linear layer."""
    damping: float = Field(1e-2, ge=0)
    """fisher and newton: added to the diagonal; with newton on a head, the weight decay of its training."""
    tolerance: float = Field(1e-6, gt=0)
    """fisher and newton: the residual at which to stop, relative to v."""
    steps: int = Field(200, ge=1)
    """fisher and newton: most products with the matrix."""
    batch: int = Field(256, ge=1)
    """Rows of one pass; the result does not depend on it."""


class Influence(Method[InfluenceConfig]):
    """Moves the weights by what the forget rows contributed to them, as far as a quadratic picture tells."""

    card = Card(
        name="influence", title="Influence unlearning", paper="arXiv:2304.04934", families=("classifier", "regressor"), needs=("losses", "weights"),
        uses=("forget", "keep"),
        technique="closed form", intent="remove", touches=("weights",), locality="all", data=("forget rows", "keep rows"), operator="weights",
        sequence="accumulates", reversible=False, guarantee="empirical",
        departs="N is the number of keep rows, where the code fixes 1000 and reads 1002 rows; alpha 20, because at 1 the recursion moves "
        "small networks by next to nothing; exact solvers beside the recursion",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject after one step. Raises Diverged on negative curvature or a step that is not finite."""
        config, forget, keep = self.config, request.rows("forget"), request.rows("keep")
        after = subject.merged()
        after.origin = ""
        names = _names(after, config.weights)
        moved = [weights_of(after.model)[name] for name in names]
        scale = len(forget) / (len(forget) + len(keep))
        slopes = [mean_gradient(after.model, _batches(after, rows, config.batch), after.losses) for rows in (forget, keep)]
        v = scale * flat(slopes[0][name] - slopes[1][name] for name in names)
        if config.solver == "woodfisher":
            count = config.count or len(keep)
            picked = ctx.random("rows").sample(range(len(keep)), min(count, len(keep)))
            step = woodfisher(_gradients(after, [keep[at] for at in picked], names, ctx), v, count)
            ctx.note(rows=float(len(picked)))
        else:
            step = self._solve(after, keep, moved, v, ctx)
        alpha = config.alpha if config.alpha is not None else 20.0 if config.solver == "woodfisher" else 1.0
        ctx.note(alpha=alpha, step=float(alpha * step.norm()), gradient=float(v.norm()))
        move(moved, alpha * step)
        return after

    def _solve(self, after: Any, keep: Sequence[Row], moved: Sequence[Tensor], v: Tensor, ctx: Context) -> Tensor:
        """A^-1 v by conjugate gradients."""
        config = self.config
        before = [parameter.requires_grad for parameter in moved]
        for parameter in moved:
            parameter.requires_grad_(True)

        def losses() -> Iterator[Tensor]:
            return (after.losses(batch) for batch in _batches(after, keep, config.batch))

        if config.solver == "newton":
            product = hessian_product(lambda: (piece.sum() / len(keep) for piece in losses()), moved, config.damping)
        else:
            product = fisher_product(losses, moved, len(keep), config.damping)
        solved = conjugate_gradient(_counted(product, config.steps, ctx), v, config.tolerance, config.steps)
        for parameter, had in zip(moved, before, strict=True):
            parameter.requires_grad_(had)
        ctx.note(products=float(solved.steps), residual=float(solved.residual / v.norm().clamp(min=1e-30)))
        return solved.x


def _names(subject: Any, which: str) -> list[str]:
    """Names of the parameters that may move, in the order of the model."""
    if which == "all":
        return list(weights_of(subject.model))
    head = subject.modules_of("head")[-1]
    own = {id(parameter) for parameter in head.parameters()}
    return [name for name, parameter in weights_of(subject.model).items() if id(parameter) in own]


def _batches(subject: Any, rows: Sequence[Row], size: int) -> Iterator[Any]:
    for at in range(0, len(rows), size):
        yield subject.encode(rows[at : at + size])


def _gradients(subject: Any, rows: Sequence[Row], names: Sequence[str], ctx: Context) -> Iterator[Tensor]:
    """The gradient of each row's loss (P,), one after another."""
    size = max(1, FLOATS // sum(p.numel() for p in weights_of(subject.model).values()))
    starts = range(0, len(rows), size)
    for at in ctx.progress(starts, "gradients", len(starts)):
        found: Mapping[str, Tensor] = per_sample_gradients(subject.model, subject.encode(rows[at : at + size]), subject.losses)
        for place in range(len(rows[at : at + size])):
            yield flat(found[name][place] for name in names)


def _counted(product: Callable[[Tensor], Tensor], most: int, ctx: Context) -> Callable[[Tensor], Tensor]:
    """The same product, with progress: one more is computed at the end, for the residual."""
    bar = iter(ctx.progress(range(most + 1), "products", most + 1))

    def counted(v: Tensor) -> Tensor:
        next(bar, None)
        with torch.enable_grad():
            return product(v)

    return counted
