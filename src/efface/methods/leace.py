"""LEACE, least-squares concept erasure (Belrose et al., NeurIPS 2023, arXiv:2306.03819), folded into the head.

x is what the head reads, z what must go: an indicator of the forget rows, or a column of the rows. The eraser is the
affine map closest to the identity after which no linear predictor of z does better than a constant,

    r(x) = P x + (I - P) mean,    P = I - W^-1 u u' W,   W = Cov(x)^(-1/2),   u an orthonormal basis of the columns of W Cov(x, z)

fitted by the package concept-erasure on forget and keep rows. The head a x + b after it is again a linear layer:

    a' = a P,    b' = b + a (I - P) mean

so the result is an ordinary model of the same shape. A head without bias gets the eraser that has none, r(x) = P x.

What this erases, and what it does not: everything after the head is linear in z no more. What the head *reads* is
unchanged; whoever is given the features, or a new head on them, still finds z there. A nonlinear predictor of z from the
logits may do better than a constant, and on other rows than the fitted ones so may a linear one, a little.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import BadConfig, BadRows, Unfit
from efface.core.types import Method, Request, Row
from efface.families.module import chunks

KINDS = 1000
"""Most different texts or whole numbers in a column."""


class LEACEConfig(Config):
    """Settings of LEACE."""

    column: str = ""
    """Column of the rows that must go (a text, a whole number or a number); without one, whether a row is to be forgotten."""
    method: Literal["leace", "orth"] = "leace"
    """The smallest change that erases (leace), or the orthogonal projection along the difference of means (orth)."""
    tolerance: float = Field(1e-6, gt=0)
    """Correlations below this are taken for rounding errors and left in."""


class Eraser(NamedTuple):
    """r(x) = P x + shift."""

    projection: Tensor  # (d, d)
    shift: Tensor  # (d,)
    removed: int
    """Number of dimensions that it takes away."""


class LEACE(Method[LEACEConfig]):
    """Erases from what the head makes of a row all that is linear in being a forget row, or in a column."""

    card = Card(
        name="leace", title="Least-squares concept erasure", paper="arXiv:2306.03819", families=("classifier", "regressor"), needs=("features", "weights"),
        uses=("forget", "keep"), extra="concepts",
        technique="closed form", intent="suppress", touches=("weights",), locality="one module", data=("forget rows", "keep rows"), operator="weights",
        sequence="accumulates", reversible=False, guarantee="empirical",
        departs="one eraser, before the head, folded into it, where the paper also scrubs every layer of language models; correlations below 1e-6 are "
        "left in, where the package leaves those below 0.01",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject with a new head. Raises Unfit for a head that does not read the features as they are, BadRows for a bad column."""
        config, forget, keep = self.config, request.rows("forget"), request.rows("keep")
        rows = [*forget, *keep]
        z = indicator(config.column, rows, len(forget))
        x = read(subject, rows, ctx)
        after = subject.merged()
        after.origin = ""
        head = after.modules_of("head")[-1]
        if head.in_features != x.shape[1]:
            raise Unfit(f"leace folds its eraser into a head that reads {head.in_features} numbers a row; here it reads {x.shape[1]}")
        found = eraser(x, z, config, affine=head.bias is not None)
        fold(head, found)
        ctx.note(
            rows=float(len(rows)), dimensions_erased=float(found.removed), r2_before=explained(x, z),
            r2_after=explained(x @ found.projection.T + found.shift, z),
        )
        return after


def indicator(column: str, rows: Sequence[Row], forget: int) -> Tensor:
    """z (rows, k) in double precision: 1 for the first `forget` rows, or the column, one number for each text or whole number in it."""
    if not column:
        return (torch.arange(len(rows)) < forget).double().unsqueeze(1)
    if missing := next((number for number, row in enumerate(rows, start=1) if row.get(column) is None), 0):
        raise BadRows(f"row {missing} of forget and keep rows has no {column!r}; it has {', '.join(map(str, rows[missing - 1]))}")
    held = [row[column] for row in rows]
    if all(isinstance(value, float) for value in held):
        return torch.tensor(held, dtype=torch.float64).unsqueeze(1)
    kinds = sorted({str(value) for value in held})
    if not 1 < len(kinds) <= KINDS:
        raise BadConfig(f"setting column = {column!r}: it holds {len(kinds)} different values; it needs 2 to {KINDS}, or numbers with a decimal point")
    places = torch.tensor([kinds.index(str(value)) for value in held])
    return nn.functional.one_hot(places, len(kinds)).double()


@torch.no_grad()
def read(subject: Any, rows: Sequence[Row], ctx: Context) -> Tensor:
    """What the head reads of each row (rows, d), in double precision."""
    pieces = list(chunks(rows))
    said = [subject.features(subject.encode(piece)).double().cpu() for piece in ctx.progress(pieces, "reading rows", len(pieces))]
    return torch.cat(said)


def eraser(x: Tensor, z: Tensor, config: LEACEConfig, affine: bool) -> Eraser:
    """The eraser of z (rows, k) from x (rows, d)."""
    from concept_erasure import LeaceFitter

    found = LeaceFitter(x.shape[1], z.shape[1], method=config.method, affine=affine, svd_tol=config.tolerance, dtype=torch.float64).update(x, z).eraser
    projection = found.P
    shift = found.bias - projection @ found.bias if found.bias is not None else torch.zeros(x.shape[1], dtype=torch.float64)
    return Eraser(projection, shift, int(torch.linalg.matrix_rank(torch.eye(x.shape[1]).double() - projection)))


@torch.no_grad()
def fold(head: nn.Linear, found: Eraser) -> None:
    """Put the eraser into the head in place: the head of r(x) as a head of x."""
    old = head.weight.detach().double().cpu()
    head.weight.copy_(old @ found.projection)
    if head.bias is not None:
        head.bias.copy_(head.bias.double().cpu() + old @ found.shift)


def explained(x: Tensor, z: Tensor) -> float:
    """Share of the variance of z that the best linear predictor from x explains."""
    design = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    fitted = design @ torch.linalg.lstsq(design, z, driver="gelsd").solution
    return float(1 - (z - fitted).square().sum() / (z - z.mean(0)).square().sum().clamp_min(1e-30))
