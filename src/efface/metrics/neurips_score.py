"""NeurIPS 2023 unlearning score: can many unlearned models be told from many retrained ones, row by row, and at what cost in accuracy?

For each forget row the scaled confidences of N unlearned and N retrained models are compared by the best of many simple
rules, whose error rates give an epsilon (delta = 1e-5); a row earns 1, 1/2, 1/4, ... points as its epsilon grows by halves.

    F = mean points over forget rows;  score = F * (RA / RA of the retrained) * (TA / TA of the retrained)

Even two sets of retrained models do not earn all points, because few models leave room for chance (F is about 0.2 for any N).
So the value is the score divided by that of N further retrained models: about 1 for a method that equals retraining.
The models are trained here, side by side, and each is put through the methods in the subject's lineage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import Missing
from efface.core.types import Measurement, Metric, Request
from efface.families import passes, predictions, shadows
from efface.ops import class_stats, stats


class NeuripsScoreConfig(Config):
    """Settings of the metric."""

    models: int = Field(16, ge=8)
    """Unlearned models, and retrained ones in each of two sets; the competition had 512."""
    rows: int = Field(200, ge=1)
    """Most forget rows, evenly spaced."""
    fit: Fit = shadows.DEFAULT
    """Optimizer settings of the models, where the subject's lineage says none."""
    most: float = Field(3e11, gt=0)
    """Most floating-point operations of training; a larger model is refused (3e11 take about half a minute on one core)."""
    most_seconds: float = Field(60.0, gt=0)
    """Most seconds of repeating the subject's methods, as its lineage tells them."""


class NeuripsScore(Metric[NeuripsScoreConfig]):
    """Points of a method in the NeurIPS 2023 competition, as a share of what retraining itself earns."""

    card = Card(
        name="neurips_score", title="NeurIPS 2023 unlearning score, as a share of retraining's", paper="arXiv:2406.09073", families=("classifier",),
        needs=("losses", "fresh"), uses=("forget", "keep", "utility"), better="higher",
        departs="divided by the score of retrained models against retrained models; 16 models in place of 512; one-sided thresholds at every value",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the score as a share of retraining's, with an interval over forget rows. Raises Unfit for costly models."""
        count, fit = self.config.models, shadows.fit_of(subject, self.config.fit)
        shadows.refuse_reference(self.card.name, subject, ctx)
        predictions.refuse_large(self.card.name, subject, request.rows("forget"), 3 * count * shadows.passes_of(subject, fit, request), self.config.most)
        shadows.refuse_costly(self.card.name, subject, count, self.config.most_seconds)
        retrained = shadows.without(subject, request, 2 * count, fit, ctx)
        base, more = (self._outputs(retrained[at : at + count], request, [], ctx) for at in (0, count))
        mine = self._outputs(self._originals(subject, request, fit, ctx), request, shadows.methods_of(subject), ctx)
        won, ceiling = ([class_stats.epsilon(one, other) for one, other in zip(side["forget"].T, base["forget"].T, strict=True)] for side in (mine, more))
        points, most = (class_stats.forget_points(np.array(side), count) for side in (won, ceiling))
        if not most.sum():
            raise Missing(f"{count} retrained models are too few: they earn no point against {count} others; raise models")
        kept = [float(np.mean(mine[name]) / np.mean(base[name])) for name in ("keep", "test")]
        found = _ratio(points, most)
        value, scale = found.value * kept[0] * kept[1], kept[0] * kept[1]
        low, high = predictions.widened(value, stats.Interval(value, found.low * scale, found.high * scale))
        parts: dict[str, float | None] = {
            "forget_score": float(points.mean()), "ceiling": float(most.mean()), "score": float(points.mean()) * scale, "keep_ratio": kept[0],
            "test_ratio": kept[1], "epsilon": float(np.median(won)), "epsilon_retrained": float(np.median(ceiling)), "models": float(count),
        }
        return Measurement(
            system=self.card.name, subject="", value=value, low=low, high=high, n=len(points), better="higher", parts=parts,
            table=[{"row": at, "value": float(points[at]), "epsilon": float(won[at]), "ceiling": float(most[at])} for at in range(len(points))],
        )

    def _originals(self, subject: Any, request: Request, fit: Fit, ctx: Context) -> list[Any]:
        rows = [*request.rows("forget"), *request.rows("keep")]
        return shadows.trained(subject, rows, [range(len(rows))] * self.config.models, "original", fit, ctx)

    def _outputs(self, models: Sequence[Any], request: Request, steps: Sequence[Any], ctx: Context) -> dict[str, np.ndarray]:
        """Scaled confidences of forget rows (models, rows), and each model's accuracies, after the methods; kept model by model."""
        kept, settings = shadows.kept_in(ctx), [[step.system, step.settings] for step in steps]
        each = []
        for k, model in enumerate(ctx.progress(models, "forgetting in each model" if steps else "reading rows", len(models))):
            what = [settings, request.digest, {name: data.digest for name, data in ctx.utility.items()}, self.config.rows, k]
            each.append(passes.kept(model, self.card.name, what, kept, lambda model=model, k=k: self._one(model, request, steps, k, ctx)))  # type: ignore[misc]
        return {name: np.array([one[name] for one in each]) for name in ("forget", "keep", "test")}

    def _one(self, model: Any, request: Request, steps: Sequence[Any], k: int, ctx: Context) -> dict[str, object]:
        after = shadows.unlearned(model, request, steps, ctx.seed_for("neurips", k), ctx)
        own = ctx.alone(memo={})  # its own memory, so that the model does not outlive its reading
        test = predictions.test(after, request, own)
        return {
            "forget": predictions.side(after, request, "forget", own, self.config.rows).scaled.tolist(),
            "keep": float(predictions.side(after, request, "keep", own).hits.mean()), "test": float(test.hits.mean()),
        }


def _ratio(points: np.ndarray, most: np.ndarray) -> stats.Interval:
    """Ratio of the two means with its percentile interval over rows."""
    picks = np.random.default_rng(0).integers(len(points), size=(stats.DRAWS, len(points)))
    drawn = points[picks].mean(1) / np.maximum(most[picks].mean(1), 1e-12)
    return stats.Interval(float(points.mean() / most.mean()), *map(float, np.percentile(drawn, [2.5, 97.5])))
