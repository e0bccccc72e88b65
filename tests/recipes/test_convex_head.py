"""The recipe of a convex head: what it trains on, what it says of itself, and that only the seed draws its random term."""

import numpy as np
import pytest

from efface.core.errors import BadConfig, Unfit
from efface.core.types import Data, Request
from efface.ops import convex
from efface.recipes.convex_head import ConvexHead
from efface.testing.tiny import context, digits, trained_classifier


def right(subject, rows):
    return float((subject.predict(rows).argmax(1) == np.array([row["y"] for row in rows])).mean())


def test_it_trains_on_all_rows():
    """Forget and keep rows alike, and it says what it may spend: 3 / sqrt(2 log 15000) = .68409."""
    parts, ctx = digits(), context()
    after = ConvexHead.set().run(trained_classifier(), parts.request, ctx)
    assert right(after, [*parts.forget, *parts.keep]) > 0.9 and right(after, parts.test) > 0.9
    assert ctx.notes["rows"] == len(parts.forget) + len(parts.keep) == int(after.model.rows[0])
    assert ctx.notes["budget"] == pytest.approx(3 / 4.38539, rel=1e-5) and ctx.notes["spent"] < 1e-6
    assert ctx.notes["random_term"] == "from the seed of this run"


def test_the_seed_draws_the_random_term():
    one, again, other = (ConvexHead.set().run(trained_classifier(), digits().request, context(seed)) for seed in (4, 4, 5))
    assert one.digest == again.digest != other.digest


def test_more_regularization_and_noise_fit_less_well():
    parts = digits()
    fits = [
        right(ConvexHead.set({"terms.lam": lam, "terms.sigma": sigma}).run(trained_classifier(), parts.request, context()), parts.keep)
        for lam, sigma in ((1e-3, 0.1), (0.1, 3.0), (0.1, 100.0))
    ]
    assert fits[0] >= fits[1] > fits[2]


def test_limits():
    """What training left counts against the budget: a loose tolerance spends some of it. Without rows there is no head."""
    ctx = context()
    loose = ConvexHead.set({"tolerance": 1.0}).run(trained_classifier(), digits().request, ctx)
    assert 0 < ctx.notes["spent"] <= np.sqrt(10) and ctx.notes["spent"] == pytest.approx(float(loose.model.spent.norm()))
    keep = ConvexHead.set().run(trained_classifier(), Request(keep=Data.inline(digits().keep)), context())
    assert int(keep.model.rows[0]) == len(digits().keep)
    with pytest.raises(Unfit, match="neither"):
        ConvexHead.set().run(trained_classifier(), Request(), context())
    for bad in ({"terms.lam": 0.0}, {"terms.delta": 1.0}, {"terms.epsilon": -1.0}):
        with pytest.raises(BadConfig, match="terms"):
            ConvexHead.set(bad)
    assert convex.budget(2.0, 1.0, 1e-4) == 2 * convex.budget(1.0, 1.0, 1e-4)
