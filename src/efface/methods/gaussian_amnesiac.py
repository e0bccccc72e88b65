"""Gaussian-Amnesiac unlearning of deep regression (Tarun et al., ICML 2023, arXiv:2210.08196): forget rows get random targets.

Each forget target is replaced once, before training, by a draw from N(mu, sigma^2); mu and sigma are mean and sample standard
deviation (divisor n - 1) of all training targets, forget rows included.

    minimized = mean over batches drawn from all rows of l(f(x), y'),   y' = the draw on forget rows, y on keep rows

The authors: Adam without clipping at 1e-3, 1 to 5 epochs, batch 256: about as many steps as here, where batches are of 64
since data are small.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import BadRows
from efface.core.types import Method, Request, Row
from efface.families import tables
from efface.ops.loop import descend


class GaussianAmnesiacConfig(Config):
    """Settings of Gaussian-Amnesiac unlearning."""

    targets: Literal["all", "keep"] = "all"
    """Whose targets give mean and spread: those of all rows, as in the paper, or of the keep rows, so that none of a forget row enters."""
    fit: Fit = Fit(optimizer="adam", lr=1e-3, steps=100, batch=64, clip=0)
    """Optimizer settings."""


class GaussianAmnesiac(Method[GaussianAmnesiacConfig]):
    """Fine-tunes on all rows after the targets of the forget rows were replaced by random ones."""

    card = Card(
        name="gaussian_amnesiac", title="Gaussian-Amnesiac unlearning of regression", paper="arXiv:2210.08196", families=("regressor",),
        needs=("losses",), uses=("forget", "keep"),
        technique="relabeling", intent="remove", touches=("weights", "adapter"), locality="all", data=("forget rows", "keep rows"), operator="weights",
        sequence="accumulates", reversible=False, guarantee="empirical",
        departs="batches of 64, not 256",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject after fine-tuning. Raises BadRows for fewer than two targets to take the spread of."""
        forget, keep = request.rows("forget"), request.rows("keep")
        drawn = redrawn(forget, [*forget, *keep] if self.config.targets == "all" else keep, ctx.seed_for("targets"))
        after = subject.trainable(self.config.fit.rank, ctx.seed_for("adapter"))
        pools = {"all": [*drawn, *keep]}
        return descend(after, pools, lambda batch: {"loss": after.losses(batch["all"]).mean()}, self.config.fit, ctx)


def redrawn(forget: Sequence[Row], like: Sequence[Row], seed: int) -> list[Row]:
    """The forget rows with targets drawn from the normal distribution of the targets of `like`."""
    targets = tables.values(like).astype(float)
    if len(targets) < 2:
        raise BadRows(f"gaussian_amnesiac takes the spread of the targets; found {len(targets)}, and it needs at least two")
    draws = np.random.default_rng(seed).normal(targets.mean(), targets.std(ddof=1), len(forget))
    return [{**row, "y": float(y)} for row, y in zip(forget, draws, strict=True)]
