"""The synthetic experiment of the NPO paper (arXiv:2404.05868), on the loss functions that the methods use.

Two classes, 16 dimensions, 128 fixed random ReLU features, and a trained second layer. Keep points lie around -a, forget points
around +a, and the labels of the two follow opposite rules. The original is fitted on both, the reference on the keep points alone,
both by full-batch gradient steps at 0.05. Then 2,000 steps at 5e-4 of gradient ascent, or of NPO at beta 1.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from efface.methods.npo import npo

SIZE, FEATURES = 16, 128


class Points(NamedTuple):
    """Features of points and their labels as +1 (class 0) and -1."""

    features: Tensor
    signs: Tensor


class Problem(NamedTuple):
    keep: Points
    forget: Points
    fresh_keep: Points
    fresh_forget: Points


def problem(a: float, seed: int) -> Problem:
    source = torch.Generator().manual_seed(seed)
    weights = torch.randn(SIZE, FEATURES, generator=source) / SIZE**0.5

    def points(count: int, side: float) -> Points:
        z = torch.randn(count, SIZE, generator=source)
        likely = torch.sigmoid(z.sum(-1) / SIZE**0.5 + 1)  # of class 0 for keep points, of class 1 for forget points
        drawn = (torch.rand(count, generator=source) < likely).float() * 2 - 1
        return Points(torch.relu((z + side * a) @ weights), -side * drawn)

    return Problem(points(1000, -1), points(200, 1), points(1000, -1), points(1000, 1))


def fitted(parts: list[list[Points]], steps: int) -> Tensor:
    """Second layers (K, features), one for each list of points, by gradient steps on the mean cross-entropy."""
    count = max(sum(len(points.signs) for points in some) for some in parts)
    features, labels, weight = torch.zeros(len(parts), count, FEATURES), torch.zeros(len(parts), count, 1), torch.zeros(len(parts), count, 1)
    for at, some in enumerate(parts):
        size = sum(len(points.signs) for points in some)
        features[at, :size] = torch.cat([points.features for points in some])
        labels[at, :size, 0] = torch.cat([points.signs for points in some]) / 2 + 0.5
        weight[at, :size] = 1 / size
    layer, back = torch.zeros(len(parts), FEATURES, 1), (features * weight).transpose(1, 2).contiguous()
    for _ in range(steps):
        layer.add_(back @ (labels - torch.sigmoid(features @ layer)), alpha=0.05)
    return layer.squeeze(-1)


def log_probs(layer: Tensor, points: Points) -> Tensor:
    return logsigmoid(points.features @ layer * points.signs)


def divergence(reference: Tensor, layer: Tensor, points: Points) -> float:
    """Mean KL(reference || layer) on points."""
    p, q = points.features @ reference, points.features @ layer
    return float((p.sigmoid() * (logsigmoid(p) - logsigmoid(q)) + (-p).sigmoid() * (logsigmoid(-p) - logsigmoid(-q))).mean())


class End(NamedTuple):
    """Mean log p of the forget points, and the distance to the reference on fresh points of both kinds."""

    log_prob: float
    keep: float
    forget: float


def unlearned(case: Problem, original: Tensor, reference: Tensor, beta: float | None) -> End:
    """The end of NPO at `beta`, or of gradient ascent (None)."""
    layer, before = original.clone().requires_grad_(), log_probs(original, case.forget)
    for _ in range(2000):
        now = log_probs(layer, case.forget)
        (slope,) = torch.autograd.grad((now if beta is None else npo(now, before, beta)).mean(), layer)
        with torch.no_grad():
            layer -= 5e-4 * slope
    layer = layer.detach()
    found = float(log_probs(layer, case.forget).mean())
    return End(found, divergence(reference, layer, case.fresh_keep), divergence(reference, layer, case.fresh_forget))


def ends(a: float, seeds: list[int], fit_steps: int) -> list[tuple[float, End, End]]:
    """Per seed: forget distance of the original, the end of gradient ascent, the end of NPO."""
    cases = [problem(a, seed) for seed in seeds]
    layers = fitted([[case.keep, case.forget] for case in cases] + [[case.keep] for case in cases], fit_steps)
    found = []
    for case, original, reference in zip(cases, layers, layers[len(cases) :], strict=False):
        start = divergence(reference, original, case.fresh_forget)
        found.append((start, unlearned(case, original, reference, None), unlearned(case, original, reference, 1.0)))
    return found


def means(a: float, seeds: list[int], fit_steps: int) -> tuple[float, End, End]:
    """The same three, averaged over seeds: single seeds spread (ascent ends at log p of -18 to -40)."""
    starts, ascents, preferences = zip(*ends(a, seeds, fit_steps), strict=True)
    return sum(starts) / len(seeds), *(End(*(sum(part) / len(seeds) for part in zip(*found, strict=True))) for found in (ascents, preferences))


def apart(start: float, ascent: End, preference: End) -> None:
    """Ascent goes on without end and takes what is kept with it; NPO comes to the reference on both kinds of points."""
    assert ascent.log_prob < -20 and ascent.keep > 1.0
    assert preference.log_prob > -3 and preference.keep < 0.15
    assert start > 1.5 and preference.forget < 0.15


def test_apart_briefly():
    """With a tenth of the fitting steps, which leave the original less sure of itself."""
    apart(*means(1, [2], 2000))


@pytest.mark.slow
def test_apart():
    apart(*means(1, [0, 2], 20000))


@pytest.mark.slow
def test_on_top_of_each_other():
    """Nothing tells the points apart, so forgetting costs; ascent costs far more."""
    _, ascent, preference = means(0, [0, 1], 20000)
    assert ascent.keep > 2.5 and preference.keep < 0.8
