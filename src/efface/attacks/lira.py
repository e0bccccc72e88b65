"""Likelihood-ratio attack (arXiv:2112.03570): is the model's confidence in a row that of models that were trained on it?

Shadow models of the subject's kind are trained on all keep rows and on random halves of the forget and the unseen rows. The
scaled confidence log p_y - log(sum of the others), in float64, is about normal over them:

    online:  log N(conf; models with the row) - log N(conf; models without it)
    offline: standard deviations that conf stands above the models without the row

Members are the forget rows, non-members the unseen rows; the value is the AUC, far below 1/2 a leak too. One spread is shared
by all rows, since few models say little of a single row's. The released code takes the spread of models with the row for
those without it as well, and a density in place of a tail when it is offline; here neither is so.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.types import Attack, Measurement, Request
from efface.families import membership, predictions, shadows
from efface.families.membership import Scored
from efface.ops import class_stats


class LiraConfig(Config):
    """Settings of the attack."""

    models: int = Field(16, ge=4, multiple_of=2)
    """Shadow models; half of them are trained on each row. The paper has 256."""
    mode: Literal["online", "offline"] = "online"
    """Whether models that were trained on the row are looked at."""
    own_spread: bool = False
    """Give each row a spread of its own; wants 64 models or more."""
    fit: Fit = shadows.DEFAULT
    """Optimizer settings of the shadow models, where the subject's lineage says none."""
    most: float = Field(3e11, gt=0)
    """Most floating-point operations of training; a larger model is refused (3e11 take about half a minute on one core)."""


class Lira(Attack[LiraConfig]):
    """An adversary who knows how the model was trained, and trains many of his own."""

    card = Card(
        name="lira", title="Likelihood-ratio membership attack", paper="arXiv:2112.03570", families=("classifier",), needs=("predict",),
        uses=("forget", "keep", "unseen", "reference"), access="logits", better="as-reference",
        departs="16 shadow models with one spread for all rows; all of them see the keep rows; no augmentation of the rows",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the AUC of forget rows against unseen rows. Raises Unfit for models too large to train many of."""
        count, fit = self.config.models, shadows.fit_of(subject, self.config.fit)
        rows, forget = shadows.pool(request)
        predictions.refuse_large(self.card.name, subject, rows, count * shadows.passes_of(subject, fit, request), self.config.most)
        ctx.spend(queries=len(rows))
        inside = shadows.halves(len(rows), count, ctx)
        confident = shadows.scaled(shadows.on_halves(subject, request, inside, fit, ctx), rows)
        mine = self._scores(subject, rows, confident, inside)
        reference = ctx.baselines.get("reference")
        base = self._scores(reference, rows, confident, inside) if reference is not None else None
        found = membership.measure(self.card, _sides(mine, forget), _sides(base, forget) if base is not None else None)
        right = np.concatenate([mine[:forget] > 0, mine[forget:] <= 0])
        own = {"accuracy": float(right.mean()), "models": float(count), "reference": found.parts["reference_auc"]}
        about = {name: value for name, value in found.parts.items() if "tokens" not in name}
        return found.model_copy(update={"parts": {**about, **own}})

    def _scores(self, subject: Any, rows: Any, confident: np.ndarray, inside: np.ndarray) -> np.ndarray:
        target = predictions.read(subject, rows).scaled
        return class_stats.lira(target, confident, inside, self.config.mode == "offline", not self.config.own_spread)


def _sides(scores: np.ndarray, forget: int) -> Scored:
    return Scored(scores[:forget].tolist(), scores[forget:].tolist())
