"""Gaussian-Amnesiac: where the new targets come from, that each is drawn once, and that it forgets part of a band."""

import numpy as np
import pytest

from efface.core.errors import BadRows
from efface.core.types import Data, Request
from efface.methods import gaussian_amnesiac
from efface.methods.gaussian_amnesiac import GaussianAmnesiac, redrawn
from efface.testing.tiny import context, diabetes, retrained_regressor, tiny_regressor, trained_regressor


def error(subject, rows) -> float:
    return float(np.abs(subject.predict(rows) - np.array([row["y"] for row in rows])).mean())


def test_draws_by_hand():
    """Targets 0 and 2: mean 1, sample standard deviation sqrt(((0-1)^2 + (2-1)^2) / (2-1)) = sqrt(2). Other columns stay."""
    rows = [{"x": [1.0], "y": 0.0, "id": "a"}, {"x": [2.0], "y": 2.0, "id": "b"}]
    normal = np.random.default_rng(5).normal(size=2)
    found = redrawn(rows, rows, 5)
    assert [row["y"] for row in found] == pytest.approx((1 + np.sqrt(2) * normal).tolist())
    assert [(row["x"], row["id"]) for row in found] == [([1.0], "a"), ([2.0], "b")]


def test_draws_are_like_the_targets():
    """Mean and standard deviation of 10^4 draws lie within 3 standard errors of those of the targets."""
    targets = np.array([row["y"] for part in ("forget", "keep") for row in diabetes().rows(part)])
    many = [{"x": [0.0], "y": 0.0}] * 10_000
    drawn = np.array([row["y"] for row in redrawn(many, [{"x": [0.0], "y": float(y)} for y in targets], 0)])
    sigma = targets.std(ddof=1)
    assert abs(drawn.mean() - targets.mean()) < 3 * sigma / 100
    assert abs(drawn.std(ddof=1) - sigma) < 3 * sigma / np.sqrt(2e4)


@pytest.mark.parametrize("targets", ["all", "keep"])
def test_drawn_once(monkeypatch, targets):
    """Over two epochs every row has one target only: the given one if kept, else the draw."""
    forget, keep = diabetes().rows("forget")[:8], diabetes().rows("keep")[:24]
    request, ctx, seen = Request(forget=Data.inline(forget), keep=Data.inline(keep)), context(), {}
    real = gaussian_amnesiac.descend

    def spied(after, pools, loss, fit, ctx):
        def noting(batches):
            for at, y in zip(batches["all"].index.tolist(), batches["all"].labels.tolist(), strict=True):
                seen.setdefault(at, []).append(y)
            return loss(batches)

        return real(after, pools, noting, fit, ctx)

    monkeypatch.setattr(gaussian_amnesiac, "descend", spied)
    GaussianAmnesiac.set({"fit.epochs": 2, "fit.batch": 8, "targets": targets}).run(tiny_regressor(), request, ctx)
    expected = redrawn(forget, keep if targets == "keep" else [*forget, *keep], ctx.seed_for("targets"))
    assert sorted(seen) == list(range(32))
    for at, row in enumerate([*expected, *keep]):
        assert seen[at] == pytest.approx([row["y"]] * 2)


def test_forgets_part_of_a_band():
    """The error on the band rises by a good part of the way to the reference; that on kept rows stays."""
    before, request = trained_regressor(), diabetes()
    forget, keep = request.rows("forget"), request.rows("keep")
    after = GaussianAmnesiac().run(before, request, context())
    assert error(after, forget) > error(before, forget) + 0.25 * (error(retrained_regressor(), forget) - error(before, forget))
    assert error(after, keep) < error(before, keep) + 0.02


def test_one_target_has_no_spread():
    rows = diabetes().rows("keep")
    with pytest.raises(BadRows, match="at least two"):
        GaussianAmnesiac.set({"targets": "keep"}).run(tiny_regressor(), Request(forget=Data.inline(rows[:3]), keep=Data.inline(rows[3:4])), context())
