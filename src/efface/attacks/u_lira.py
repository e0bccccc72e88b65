"""U-LiRA (arXiv:2403.01218): can models that unlearned a row be told from models that never had it?

    unlearned: trained on keep rows and a random half of the forget (and unseen) rows, then put through the subject's own methods,
               with their settings, to forget that half
    retrained: trained on the keep rows alone

For each forget row, Gaussians are fitted to the scaled confidences of both kinds, and the score is the log-ratio of the
subject's confidence. Every retrained model is left out of the fit once and scored beside the subject, so that the null is
measured. The value is the accuracy, averaged over rows: 1/2 when the subject passes for retrained. A subject without a method
in its lineage is compared with models that were trained and left as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.types import Attack, Measurement, Request
from efface.families import passes, predictions, shadows
from efface.ops import class_stats, stats


class ULiraConfig(Config):
    """Settings of the attack."""

    models: int = Field(16, ge=4, multiple_of=2)
    """Unlearned models, and as many retrained ones; each row is in half of the former. The paper has 128 or more."""
    own_spread: bool = False
    """Give each row a spread of its own; wants 64 models or more."""
    fit: Fit = shadows.DEFAULT
    """Optimizer settings of the models, where the subject's lineage says none."""
    most: float = Field(3e11, gt=0)
    """Most floating-point operations of training; a larger model is refused (3e11 take about half a minute on one core)."""
    most_seconds: float = Field(60.0, gt=0)
    """Most seconds of repeating the subject's methods, as its lineage tells them."""


class ULira(Attack[ULiraConfig]):
    """An adversary who repeats both unlearning and retraining many times."""

    card = Card(
        name="u_lira", title="Unlearned or retrained, by likelihood ratio", paper="arXiv:2403.01218", families=("classifier",),
        needs=("losses", "fresh"), uses=("forget", "keep", "reference"), access="logits", better="as-reference",
        departs="16 models of each kind with one spread for all rows; a model forgets a half of the rows at once, not one row",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the accuracy with a bootstrap interval over forget rows; AUC and TPR at 1 % FPR are parts. Raises Unfit for costly models."""
        count, fit, steps = self.config.models, shadows.fit_of(subject, self.config.fit), shadows.methods_of(subject)
        shadows.refuse_reference(self.card.name, subject, ctx)
        rows, forget = shadows.pool(request)
        predictions.refuse_large(self.card.name, subject, rows, 2 * count * shadows.passes_of(subject, fit, request), self.config.most)
        shadows.refuse_costly(self.card.name, subject, count, self.config.most_seconds)
        ctx.spend(queries=forget)
        inside = shadows.halves(len(rows), count, ctx)
        unlearned = self._unlearned(subject, request, inside, fit, ctx)
        retrained = shadows.scaled(shadows.without(subject, request, count, fit, ctx), rows[:forget])

        def told(model: Any) -> class_stats.Told:
            target = predictions.read(model, rows[:forget]).scaled
            return class_stats.u_lira(target, unlearned, inside[:, :forget], retrained, not self.config.own_spread)

        mine = told(subject)
        right = accuracy(mine)
        found = stats.bootstrap(right)
        parts: dict[str, float | None] = {
            "auc": stats.auc(mine.target.ravel(), mine.retrained.ravel()), "tpr_at_1%_fpr": stats.tpr_at_fpr(mine.target.ravel(), mine.retrained.ravel(), 0.01),
            "models": float(count), "methods": float(len(steps)), "reference": None,
        }
        if (reference := ctx.baselines.get("reference")) is not None:
            base = told(reference)
            parts |= {"reference": float(accuracy(base).mean()), "reference_auc": stats.auc(base.target.ravel(), base.retrained.ravel())}
        return Measurement(
            system=self.card.name, subject="", value=found.value, low=found.low, high=found.high, n=forget, better="as-reference", parts=parts,
            table=[{"row": at, "value": float(value), "score": float(mine.target[:, at].mean())} for at, value in enumerate(right)],
        )

    def _unlearned(self, subject: Any, request: Request, inside: np.ndarray, fit: Fit, ctx: Context) -> np.ndarray:
        """Scaled confidences (models, forget rows) of models that unlearned their half; kept model by model."""
        steps, (rows, forget) = shadows.methods_of(subject), shadows.pool(request)
        kept, settings = shadows.kept_in(ctx), [[step.system, step.settings] for step in steps]
        found = []
        models = shadows.on_halves(subject, request, inside, fit, ctx)
        for k, model in enumerate(ctx.progress(models, "forgetting in each shadow model", len(models))):
            def compute(model: Any = model, k: int = k) -> object:
                own = shadows.own_request(request, inside[k])
                after = shadows.unlearned(model, own, steps, ctx.seed_for("u_lira", k), ctx)
                return predictions.read(after, rows[:forget]).scaled.tolist()

            found.append(passes.kept(model, self.card.name, [settings, request.digest, inside[k].tolist(), k], kept, compute))
        return np.array(found)


def accuracy(told: class_stats.Told) -> np.ndarray:
    """Share of right answers for each row: half for the target, half for the retrained models."""
    found: np.ndarray = ((told.target > 0).mean(0) + (told.retrained <= 0).mean(0)) / 2
    return found
