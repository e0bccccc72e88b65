"""Bad teacher, also called blindspot unlearning (Chundawat et al., AAAI 2023, arXiv:2205.08096): unlearn from a teacher that knows nothing.

The student starts at the subject and is shown batches of all forget rows and a share of the keep rows:

    minimized = mean over rows of  KL(T(x) || student(x)),   T the incompetent teacher on forget rows, the subject on keep rows

The incompetent teacher is the same architecture with random weights. One such network is not uniform: its answers may all
fall on one class, which the student then learns; the mean of several, and the uniform distribution, have no such favorite.

Labels are not read. The authors: Adam 1e-4, one pass in batches of 256 over the forget rows and 30 % of the keep rows.
Their code lets PyTorch average the divergence over rows and classes, which makes it smaller by the number of classes than
the formula; `reduction="elementwise"` does so too. One such pass hardly moves a small network, which wants a higher learning
rate and more passes (1e-3 and 10 on the digits benchmark).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.types import Method, Request, Row
from efface.ops.loop import descend


class BadTeacherConfig(Config):
    """Settings of the bad teacher."""

    teacher: Literal["random", "average", "uniform"] = "random"
    """Who teaches the forget rows: one network with random weights, the mean of several, or equal chances for all classes."""
    teachers: int = Field(8, ge=2)
    """How many networks teacher = "average" takes the mean of."""
    keep_share: float = Field(0.3, gt=0, le=1)
    """Share of the keep rows that the subject teaches."""
    reduction: Literal["batchmean", "elementwise"] = "batchmean"
    """Mean of the divergence over rows (the formula), or over rows and classes (the authors' code)."""
    fit: Fit = Fit(optimizer="adam", lr=1e-4, epochs=1, batch=256, clip=0)
    """Optimizer settings; small networks want a learning rate and a number of passes 10 times as high."""


class BadTeacher(Method[BadTeacherConfig]):
    """Teaches the forget rows by a network with random weights, and the keep rows by the subject itself."""

    card = Card(
        name="bad_teacher", title="Bad teacher", paper="arXiv:2205.08096", families=("classifier",), needs=("losses", "predict", "fresh"),
        uses=("forget", "keep"),
        technique="relabeling", intent="remove", touches=("weights", "adapter"), locality="all", data=("forget rows", "keep rows"), operator="weights",
        sequence="accumulates", reversible=False, guarantee="empirical",
        departs="the divergence is averaged over rows, where the code divides by the number of classes as well; the student trains in train "
        "mode, where the code leaves it in whichever mode it was",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the student. Raises Unfit when the architecture cannot draw new weights and teacher is not "uniform"."""
        config, forget, keep = self.config, request.rows("forget"), request.rows("keep")
        kept = ctx.random("keep").sample(keep, max(1, round(config.keep_share * len(keep))))
        bad = incompetent(config, subject, forget, ctx)
        targets = torch.cat([bad, torch.from_numpy(subject.predict(kept))]).to(subject.device)
        ctx.note(keep_rows=float(len(kept)), favorite_class=float(bad.mean(0).argmax()), chance_of_favorite_class=float(bad.mean(0).max()))
        after = subject.trainable(config.fit.rank, ctx.seed_for("adapter"))

        def loss(batches: Mapping[str, Any]) -> dict[str, Tensor]:
            batch = batches["all"]
            apart = divergence(targets[batch.index.to(targets.device)], after.logits(batch), config.reduction)
            gone = (batch.index < len(forget)).to(apart.device)
            return {"forget": (gone * apart).mean(), "keep": (~gone * apart).mean()}

        return descend(after, {"all": [*forget, *kept]}, loss, config.fit, ctx)


def divergence(targets: Tensor, logits: Tensor, reduction: str = "batchmean") -> Tensor:
    """KL(targets || softmax of logits) of each row (B,), in nats; "elementwise" divides it by the number of classes.

    Both arguments are (B, classes); a target of 0 adds nothing.
    """
    wanted = targets.float()
    apart = (torch.special.xlogy(wanted, wanted) - wanted * logits.float().log_softmax(-1)).sum(-1)
    return apart / logits.shape[-1] if reduction == "elementwise" else apart


def incompetent(config: BadTeacherConfig, subject: Any, rows: Sequence[Row], ctx: Context) -> Tensor:
    """What the incompetent teacher says of the rows: chances (rows, classes)."""
    if config.teacher == "uniform":
        known = torch.from_numpy(subject.predict(rows))
        return torch.full_like(known, 1 / known.shape[1])
    count = config.teachers if config.teacher == "average" else 1
    said = [torch.from_numpy(subject.fresh(ctx.seed_for("teacher", at)).predict(rows)) for at in range(count)]
    return torch.stack(said).mean(0)
