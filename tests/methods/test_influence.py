"""Influence unlearning: the formula, its weights, the published recursion, and that a head's exact step is retraining's."""

import copy

import numpy as np
import pytest
import torch

from efface.core.errors import Diverged
from efface.core.types import Data, Request
from efface.families.classifier import Classifier
from efface.families.networks import MLP, seeded
from efface.methods.influence import Influence
from efface.ops.curvature import flat
from efface.ops.loop import mean_loss
from efface.testing.tiny import context, digits, retrained_classifier, trained_classifier


def wrong(subject, rows):
    return float((subject.predict(rows).argmax(1) != np.array([row["y"] for row in rows])).mean())


def numbers(subject):
    return flat(subject.model.parameters()).detach()


def linear(seed=0):
    """A linear classifier without a hidden layer, in double precision: its loss is convex."""
    return Classifier(seeded(MLP, seed, inputs=64, hidden=[], outputs=10).double())


class Wide(Classifier):
    """Reads its rows in double precision."""

    def encode(self, rows, index=None):
        batch = super().encode(rows, index)
        return type(batch)(batch.x.double(), batch.labels, batch.index)


def minimum(rows, decay):
    """The linear classifier at the minimum of mean cross-entropy + decay / 2 |theta|^2, by LBFGS to a gradient of 1e-9."""
    subject = Wide(copy.deepcopy(linear().model))
    batch, parameters = subject.encode(rows), list(subject.model.parameters())
    subject.model.requires_grad_(True)
    search = torch.optim.LBFGS(parameters, max_iter=2000, tolerance_grad=1e-9, tolerance_change=1e-16, history_size=50, line_search_fn="strong_wolfe")

    def closure():
        search.zero_grad()
        value = subject.losses(batch).mean() + decay / 2 * sum((p * p).sum() for p in parameters)
        value.backward()
        return value

    search.step(closure)
    subject.model.requires_grad_(False)
    return subject


def slopes(subject, rows, names=None):
    """Gradient of each row's loss, one row after another."""
    subject.model.requires_grad_(True)
    found = []
    for row in rows:
        grads = dict(zip(dict(subject.model.named_parameters()), torch.autograd.grad(subject.losses(subject.encode([row])).sum(), list(subject.model.parameters())), strict=True))
        found.append(flat(grads[name] for name in names or grads))
    subject.model.requires_grad_(False)
    return torch.stack(found)


FEW = Request(forget=Data.inline(digits().forget[:5]), keep=Data.inline(digits().keep[:12]))


def test_formula():
    """theta + alpha k: v = (5 / 17) (mean over forget rows - mean over keep rows), then the recursion over keep rows in the drawn order."""
    before, ctx = trained_classifier(), context()
    after = Influence.set({"alpha": 3.0}).run(before, FEW, ctx)
    work = before.fork()
    keep = FEW.rows("keep")
    v = 5 / 17 * (slopes(work, FEW.rows("forget")).mean(0) - slopes(work, keep).mean(0))
    order = context().random("rows").sample(range(12), 12)
    o, k = None, v.clone()
    for g in slopes(work, [keep[at] for at in order]):
        if o is None:
            o = g
            continue
        t = 12 + o @ g
        k, o = k - (k @ g) / t * o, o - (o @ g) / t * o
    assert torch.allclose(numbers(after) - numbers(before), 3.0 * k, atol=1e-6, rtol=1e-4) and ctx.notes["rows"] == 12


def test_n_is_what_was_asked():
    """All keep rows unless told; a count reads no more rows than that, and stands in the recursion even when there are fewer."""
    runs = {}
    for count in (0, 4, 1000):
        ctx = context()
        runs[count] = numbers(Influence.set({"count": count}).run(trained_classifier(), FEW, ctx)), ctx.notes["rows"]
    assert [runs[count][1] for count in (0, 4, 1000)] == [12, 4, 12]
    assert not torch.equal(runs[0][0], runs[1000][0]) and not torch.equal(runs[0][0], runs[4][0])


def test_no_op():
    assert Influence.set({"alpha": 0.0}).run(trained_classifier(), digits().request, context()).digest == trained_classifier().digest


def test_forgets_and_keeps():
    """With the free scale at 20 the class is gone as after retraining; at 1, as published code has it, next to nothing happens."""
    parts, before = digits(), trained_classifier()
    after = Influence.set().run(before, parts.request, context())
    assert wrong(after, parts.forget) > 0.95 and wrong(after, parts.keep) < 0.02 and wrong(after, parts.test) < 0.05
    reference = retrained_classifier().predict(parts.forget)

    def gap(subject):
        return float(np.linalg.norm(subject.predict(parts.forget) - reference, axis=1).mean())

    assert gap(after) < 0.3 * gap(before)
    small = Influence.set({"alpha": 1.0}).run(before, parts.request, context())
    assert wrong(small, parts.forget) < 0.05
    assert mean_loss(small, parts.forget) > mean_loss(before, parts.forget), "the step goes up on forget rows"


def test_limits_newton_on_a_convex_loss_is_retraining():
    """The whole model is a convex head, damping is its weight decay: the distance to retraining shrinks with the square of the rows."""
    rows, decay = [*digits("random").forget, *digits("random").keep][:400], 0.05
    start = minimum(rows, decay)
    left = {}
    for count in (2, 20):
        request = Request(forget=Data.inline(rows[:count]), keep=Data.inline(rows[count:]))
        settings = {"solver": "newton", "damping": decay, "tolerance": 1e-10}
        after = Influence.set(settings).run(start, request, context())
        retrained = numbers(minimum(rows[count:], decay))
        left[count] = float((numbers(after) - retrained).norm() / (numbers(start) - retrained).norm())
    assert left[2] < 0.01 and left[20] < 0.05 and left[2] < left[20]


def test_fisher_solves_with_the_whole_matrix():
    before = trained_classifier()
    ctx = context()
    after = Influence.set({"solver": "fisher", "damping": 0.1, "weights": "head", "tolerance": 1e-7}).run(before, FEW, ctx)
    names = [name for name, _ in before.model.named_parameters()][-2:]
    work = before.fork()
    keep = slopes(work, FEW.rows("keep"), names).double()
    v = 5 / 17 * (slopes(work, FEW.rows("forget"), names).double().mean(0) - keep.mean(0))
    exact = torch.linalg.solve(keep.T @ keep / 12 + 0.1 * torch.eye(len(v), dtype=torch.float64), v)
    moved = numbers(after) - numbers(before)
    assert torch.allclose(moved[-len(v) :].double(), exact, atol=1e-5) and not moved[: -len(v)].any(), "only the head has moved"
    assert ctx.notes["residual"] < 1e-6


def test_negative_curvature_is_refused():
    with pytest.raises(Diverged, match="raise damping, or solve for the head alone"):
        Influence.set({"solver": "newton", "damping": 1e-3}).run(trained_classifier(), digits().request, context())


def test_the_batch_does_not_matter():
    one, two = (numbers(Influence.set({"batch": size}).run(trained_classifier(), FEW, context())) for size in (3, 256))
    assert torch.allclose(one, two, atol=1e-6)


def test_regression():
    """A regressor has losses too; the forget rows' error rises."""
    from efface.testing.tiny import diabetes, trained_regressor

    request = diabetes()
    after = Influence.set({"alpha": 5.0}).run(trained_regressor(), request, context())
    assert mean_loss(after, request.rows("forget")) > mean_loss(trained_regressor(), request.rows("forget"))
