"""Certified removal: the step, the running budget, the refusal exactly where it is crossed, and nearness to retraining."""

import math

import numpy as np
import pytest
import torch

from efface.core.errors import BadRows, Unsound
from efface.core.types import Data, Request
from efface.families.classifier import Classifier
from efface.families.convex_head import Terms, random_term, rows_of, with_head
from efface.families.networks import MLP, seeded
from efface.methods.certified_removal import CertifiedRemoval
from efface.ops import convex
from efface.testing.tiny import context, digits, tiny_classifier, trained_classifier

TRAIN = [*digits("random").forget, *digits("random").keep]
PAIR = [{"x": row["x"], "y": int(row["y"] == 8)} for row in TRAIN if row["y"] in (3, 8)]
BODY = Classifier(seeded(MLP, 0, inputs=64, hidden=[16], outputs=2))


def request(rows, count, start=0):
    return Request(forget=Data.inline(rows[start : start + count]), keep=Data.inline([*rows[:start], *rows[start + count :]]))


def two_classes(epsilon=1.0, seed=7):
    """A head on the digits 3 and 8 themselves: lam .01, sigma 1, as in the measured case."""
    return with_head(BODY, PAIR, Terms(features="input", lam=0.01, sigma=1.0, epsilon=epsilon), seed, 1e-9)


def many_classes(epsilon=1.0):
    return with_head(trained_classifier(), TRAIN, Terms(epsilon=epsilon), 7, 1e-9)


def test_formula():
    """One removal by hand: w + H^-1 g with dense matrices, and the bound (1/4) |step| |X step| |X| on top of what training left."""
    head = two_classes()
    after = CertifiedRemoval.set().run(head, request(PAIR, 1), context())
    whole, w, lam = rows_of(head, PAIR), head.model.solution[0], 0.01
    x, s, rest = whole.x[0], whole.signs[0], whole.x[1:]
    g = -s[0] * x / (1 + math.exp(float(s[0] * (w @ x)))) + lam * w
    chance = torch.sigmoid(rest @ w)
    hessian = rest.T @ (rest * (chance * (1 - chance))[:, None]) + lam * len(rest) * torch.eye(64, dtype=torch.float64)
    step = torch.linalg.solve(hessian, g)
    assert torch.allclose(after.model.solution[0], w + step, atol=1e-10)
    bound = 0.25 * step.norm() * (rest @ step).norm() * torch.linalg.matrix_norm(whole.x, 2)
    assert float(after.model.spent) == pytest.approx(float(bound + head.model.spent), rel=1e-6)


def test_no_op():
    """A row of zeros pulls at nothing but the regularization, which is counted in rows: the head moves by less than 1 %."""
    zero = {"x": [0.0] * 64, "y": 0}
    head = with_head(BODY, [zero, *PAIR], Terms(features="input", lam=0.01, sigma=1.0), 1, 1e-9)
    after = CertifiedRemoval.set().run(head, Request(forget=Data.inline([zero]), keep=Data.inline(PAIR)), context())
    assert float((after.model.solution - head.model.solution).norm() / head.model.solution.norm()) < 0.01
    assert int(after.model.rows[0]) == len(PAIR) == int(head.model.rows[0]) - 1


def test_forgets_as_retraining_does():
    """After 20 rows less than 1 % of the distance to retraining with the same random term remains, and what is left is within the bound."""
    head = two_classes()
    after = CertifiedRemoval.set({"batch": 1}).run(head, request(PAIR, 15), context())
    b, rest = random_term(head.model, 7), rows_of(head, PAIR[15:])
    retrained = convex.fit(rest, 0.01, b).weights
    distance = (after.model.solution - retrained).norm() / (head.model.solution - retrained).norm()
    assert float(distance) < 0.01
    assert float(convex.gradient(after.model.solution, rest, 0.01, b).norm()) <= float(after.model.spent)


def test_keeps():
    parts = digits()
    after = CertifiedRemoval.set().run(trained_classifier(), parts.request, context())
    wrong = {part: float((after.predict(rows).argmax(1) != [row["y"] for row in rows]).mean()) for part, rows in (("forget", parts.forget), ("test", parts.test))}
    assert wrong["forget"] > 0.95 and wrong["test"] < 0.1


@pytest.mark.parametrize("make", [two_classes, many_classes], ids=["two classes", "one against the rest"])
def test_refused_exactly_where_the_sum_crosses_the_budget(make):
    """The running sum after k and k + 1 rows is read off a run with a wide budget; between them k rows pass and k + 1 do not."""
    rows = PAIR if make is two_classes else TRAIN
    ctx = context()
    wide = make(epsilon=1000.0)
    CertifiedRemoval.set().run(wide, request(rows, 6), ctx)
    sums = [line["spent"] for line in ctx.curve]
    assert len(sums) == 6 and all(a < b for a, b in zip(sums, sums[1:], strict=False))
    unit = convex.budget(wide.model.terms.sigma, 1.0, 1e-4)
    for limit, passes in ((sums[3] * (1 + 1e-9), 4), (sums[4] * (1 - 1e-9), 4), (sums[4] * (1 + 1e-9), 5)):
        head = make(epsilon=limit / unit)
        after = CertifiedRemoval.set().run(head, request(rows, passes), context())
        assert after.model.spent_together <= head.model.terms.budget
        with pytest.raises(Unsound, match=rf"removal {passes + 1} of {passes + 1} would carry.*{passes} rows fit"):
            CertifiedRemoval.set().run(head, request(rows, passes + 1), context())


def test_requests_one_after_another_spend_one_budget():
    """Two requests of two rows end where one of four does; the second counts on, with a spectral norm of fewer rows."""
    head = two_classes()
    once = CertifiedRemoval.set().run(head, request(PAIR, 4), context())
    first = CertifiedRemoval.set().run(head, request(PAIR, 2), context())
    second = CertifiedRemoval.set().run(first, request(PAIR[2:], 2), context())
    assert torch.allclose(once.model.solution, second.model.solution, atol=1e-9)
    assert float(second.model.spent) == pytest.approx(float(once.model.spent), rel=0.01) and first.model.spent < second.model.spent
    with pytest.raises(BadRows, match="forget and keep rows together"):
        CertifiedRemoval.set().run(second, request(PAIR, 1), context())


def test_every_class_has_its_sum():
    """The bound differs from class to class, each is above what is left there, and their norm is what counts."""
    head = many_classes()
    ctx = context()
    after = CertifiedRemoval.set().run(head, request(TRAIN, 20), ctx)
    left = convex.gradient(after.model.solution, rows_of(after, TRAIN[20:]), 0.1, random_term(head.model, 7)).norm(dim=1)
    assert bool((left <= after.model.spent).all()) and len(set(after.model.spent.tolist())) == 10
    assert ctx.notes["spent"] == pytest.approx(float(np.sqrt((after.model.spent.numpy() ** 2).sum())))
    assert ctx.notes["most_spent_by_a_class"] < ctx.notes["spent"]


def test_a_batch_spends_more():
    head = two_classes(epsilon=100.0)
    one, ten = (CertifiedRemoval.set({"batch": size}).run(head, request(PAIR, 10), context()).model for size in (1, 10))
    assert torch.allclose(one.solution, ten.solution, atol=0.05) and float(ten.spent) != float(one.spent)
    left = convex.gradient(ten.solution, rows_of(head, PAIR[10:]), 0.01, random_term(head.model, 7)).norm()
    assert float(left) <= float(ten.spent)


def test_limits():
    """A classifier without a convex head gets one first, as the recipe makes it; the last row cannot go."""
    ctx = context()
    after = CertifiedRemoval.set({"terms.features": "input"}).run(tiny_classifier(), request(TRAIN[:200], 3), ctx)
    assert ctx.notes["random_term"] == "from the seed of this run" and int(after.model.rows[0]) == 197
    head = two_classes()
    with pytest.raises(BadRows, match=f"holds {len(PAIR)} rows"):
        CertifiedRemoval.set().run(head, request(PAIR[:-1], 1), context())
