"""Loss attack on a classifier (arXiv:2311.02240, the NeurIPS 2023 starting kit): are forget rows told from unseen ones by their loss?

A logistic regression on the cross-entropy of single rows, mean accuracy over ten random splits, forget rows against as many
unseen rows; where a whole class was forgotten, unseen rows of that class. 1/2 means that they can't be told apart. One
threshold is blind to rows that stand out on both sides at once, so the AUC stands beside it, and so does the sign: above 0
the forget rows have the smaller losses, below 0 the larger ones, which gives them away as well.
"""

from __future__ import annotations

from typing import Any

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.types import Attack, Measurement, Request
from efface.families import predictions
from efface.ops import class_stats, stats


class ClassLossConfig(Config):
    """The attack has no settings."""


class ClassLoss(Attack[ClassLossConfig]):
    """Takes rows of low loss for members, if that tells them apart."""

    card = Card(
        name="class_loss", title="Membership by a classifier's loss", paper="arXiv:2311.02240", families=("classifier",), needs=("predict",),
        uses=("forget", "unseen", "reference"), access="outputs", better="as-reference",
        departs="the larger side is cut at random by the run's seed; at most 5000 rows of each",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the attack's accuracy with a Wilson interval; sign, AUC, and the reference's, are parts."""
        ctx.spend(queries=min(len(request.rows("forget")), predictions.MOST))
        sides = self._losses(subject, request, ctx)
        seed = ctx.seed_for("loss attack")
        mine, area = class_stats.loss_attack(*sides, seed), stats.auc_interval(-sides[0], -sides[1])
        parts: dict[str, float | None] = {
            "signed": mine.signed, "auc": area.value, "auc_low": area.low, "auc_high": area.high, "forgetting_score": abs(mine.accuracy - 0.5),
            "tpr_at_1%_fpr": stats.tpr_at_fpr(-sides[0], -sides[1], 0.01), "reference": None, "reference_signed": None, "reference_auc": None,
        }
        base = None
        if (reference := ctx.baselines.get("reference")) is not None:
            base = self._losses(reference, request, ctx)
            found = class_stats.loss_attack(*base, seed)
            parts |= {"reference": found.accuracy, "reference_signed": found.signed, "reference_auc": found.auc}
        table: list[dict[str, object]] = [
            {"row": at, "set": name, "value": float(loss), "reference": float(base[side][at]) if base else None}
            for side, name in enumerate(("forget", "unseen"))
            for at, loss in enumerate(sides[side])
        ]
        return Measurement(
            system=self.card.name, subject="", value=mine.accuracy, low=mine.low, high=mine.high, n=len(sides[0]) + len(sides[1]),
            better="as-reference", parts=parts, table=table,
        )

    def _losses(self, subject: Any, request: Request, ctx: Context) -> tuple[Any, Any]:
        """Cross-entropy of forget rows and of unseen rows of the same kind."""
        return predictions.side(subject, request, "forget", ctx).losses, predictions.same_kind(subject, request, ctx).losses
