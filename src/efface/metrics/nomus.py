"""Normalized machine unlearning score (arXiv:2311.02240): accuracy on test rows and resistance to the loss attack in one number.

    NoMUS = w * accuracy(test) + (1 - w) * (1 - 2 |a - 1/2|),  a = accuracy of the loss attack on forget against unseen rows, w = 1/2

It rewards use over faithfulness: a retrained model, which has less to learn from, may score below a model that forgot
little. So the retrained model's score stands beside it, and `signed` says whether the forget rows have the smaller losses
(above 0, still known) or the larger ones (below 0, known too little), which |a - 1/2| cannot.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.types import Measurement, Metric, Request
from efface.families import predictions
from efface.ops import class_stats


class NomusConfig(Config):
    """Settings of the metric."""

    weight: float = Field(0.5, ge=0, le=1)
    """Weight of the accuracy on test rows; the attack has the rest."""


class Nomus(Metric[NomusConfig]):
    """Half accuracy, half resistance to the loss attack."""

    card = Card(
        name="nomus", title="Normalized machine unlearning score", paper="arXiv:2311.02240", families=("classifier",), needs=("predict",),
        uses=("forget", "unseen", "utility", "reference"), better="higher",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return NoMUS; accuracy, attack, its sign and the reference's score are parts. Raises Missing without test rows."""
        mine = self._parts(subject, request, ctx)
        reference = ctx.baselines.get("reference")
        base = self._parts(reference, request, ctx) if reference is not None else {}
        n = int(mine.pop("n") or 0)
        value, low, high = (float(mine.pop(name) or 0.0) for name in ("nomus", "low", "high"))
        parts = {**mine, **{f"reference_{name}": base[name] for name in mine if name in base}, "reference": base.get("nomus")}
        return Measurement(system=self.card.name, subject="", value=value, low=low, high=high, n=n, better="higher", parts=parts)

    def _parts(self, subject: Any, request: Request, ctx: Context) -> dict[str, float | None]:
        """The score and what it is made of; its interval takes the two intervals of its halves for independent."""
        weight = self.config.weight
        right = class_stats.wilson(predictions.test(subject, request, ctx).hits)
        forget, unseen = predictions.side(subject, request, "forget", ctx).losses, predictions.same_kind(subject, request, ctx).losses
        attack = class_stats.loss_attack(forget, unseen, ctx.seed_for("loss attack"))
        value = class_stats.nomus(right.value, attack.accuracy, weight)
        far = max(abs(attack.low - 0.5), abs(attack.high - 0.5))
        near = 0.0 if attack.low <= 0.5 <= attack.high else min(abs(attack.low - 0.5), abs(attack.high - 0.5))
        away = abs(attack.accuracy - 0.5)
        down = ((weight * (right.value - right.low)) ** 2 + (2 * (1 - weight) * (far - away)) ** 2) ** 0.5
        up = ((weight * (right.high - right.value)) ** 2 + (2 * (1 - weight) * (away - near)) ** 2) ** 0.5
        return {
            "nomus": value, "low": value - down, "high": value + up, "accuracy": right.value, "attack": attack.accuracy, "signed": attack.signed,
            "attack_auc": attack.auc, "n": float(len(forget) + len(unseen)),
        }
