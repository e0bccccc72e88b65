"""Bad teacher: the divergence by hand, both reductions, what teaches, that no label is read, and what it does to a digit."""

import math

import pytest
import torch

from efface.core.errors import Unfit
from efface.core.types import Data, Request
from efface.families.classifier import Classifier
from efface.methods.bad_teacher import BadTeacher, BadTeacherConfig, divergence, incompetent
from efface.testing.tiny import context, digits, trained_classifier

LONG = {"fit.lr": 1e-3, "fit.epochs": 10, "fit.batch": 64}
"""Ten times the authors' rate and passes, for a network this small."""


def right(subject, rows):
    return float((subject.predict(rows).argmax(1) == [row["y"] for row in rows]).mean())


def first(forget=40, keep=80):
    """A request with the first rows of each set."""
    return Request(forget=Data.inline(digits().forget[:forget]), keep=Data.inline(digits().keep[:keep]))


def test_formula():
    """KL((.5, .5) || (.6, .4)) = .5 log(.25 / .24) = .0204110; KL((1, 0) || (.6, .4)) = -log .6 = .5108256; elementwise halves both."""
    targets, logits = torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([[0.6, 0.4]] * 2).log()
    assert divergence(targets, logits).tolist() == pytest.approx([0.0204110, 0.5108256], abs=1e-6)
    assert divergence(targets, logits, "elementwise").tolist() == pytest.approx([0.0204110 / 2, 0.5108256 / 2], abs=1e-6)


def test_terms():
    """At the start the keep rows are where they should be: their term is 0, and the other is the mean over all rows of KL(uniform || student)."""
    ctx, request, subject = context(), first(), trained_classifier()
    settings = {"teacher": "uniform", "keep_share": 1.0, "fit.epochs": 0, "fit.steps": 1, "fit.batch": 120}
    BadTeacher.set(settings).run(subject, request, ctx)
    chances = torch.from_numpy(subject.predict(request.rows("forget"))).double()
    apart = (-math.log(10) - chances.log().mean(1)).sum() / 120
    assert ctx.curve[0]["forget"] == pytest.approx(float(apart), rel=1e-4)
    assert ctx.curve[0]["keep"] == pytest.approx(0, abs=1e-5)


def test_no_op():
    assert BadTeacher.set({"fit.epochs": 0, "fit.steps": 0}).run(trained_classifier(), first(), context()).digest == trained_classifier().digest


def test_forgets_and_keeps():
    """Calibration, all keep rows: 86 % of the forget rows wrong, 98.6 % of the keep rows right."""
    parts = digits()
    after = BadTeacher.set({**LONG, "keep_share": 1.0}).run(trained_classifier(), parts.request, context())
    assert 1 - right(after, parts.forget) > 0.75 and right(after, parts.keep) > 0.98 and right(after, parts.test) > 0.95


def test_the_published_call_does_nothing_to_a_small_network():
    """Calibration: after one pass at 1e-4, elementwise, no forget row is wrong."""
    parts = digits()
    after = BadTeacher.set({"reduction": "elementwise"}).run(trained_classifier(), parts.request, context())
    assert right(after, parts.forget) > 0.98


def test_limits():
    """With plain SGD, elementwise at ten times the learning rate is batchmean, as there are ten classes."""
    plain = {"fit.optimizer": "sgd", "fit.epochs": 0, "fit.steps": 5, "fit.batch": 32, "keep_share": 1.0}
    one = BadTeacher.set({**plain, "fit.lr": 0.01}).run(trained_classifier(), first(), context())
    other = BadTeacher.set({**plain, "fit.lr": 0.1, "reduction": "elementwise"}).run(trained_classifier(), first(), context())
    less = BadTeacher.set({**plain, "fit.lr": 0.01, "reduction": "elementwise"}).run(trained_classifier(), first(), context())
    pairs = list(zip(one.model.parameters(), other.model.parameters(), strict=True))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)
    assert one.digest != less.digest


def test_labels_are_not_read():
    request = first()
    shuffled = [{**row, "y": (7 * at) % 10} for at, row in enumerate(request.rows("forget"))]
    moved = [{**row, "y": (3 * at) % 10} for at, row in enumerate(request.rows("keep"))]
    system = BadTeacher.set({"fit.batch": 32})
    other = Request(forget=Data.inline(shuffled), keep=Data.inline(moved))
    assert system.run(trained_classifier(), request, context()).digest == system.run(trained_classifier(), other, context()).digest


def test_teachers():
    """One random network prefers a class, the mean of several does less, and the uniform teacher not at all."""
    subject, rows = trained_classifier(), digits().forget
    favorite = {kind: float(incompetent(BadTeacherConfig(teacher=kind, teachers=16), subject, rows, context()).mean(0).max()) for kind in ("random", "average", "uniform")}
    assert favorite["uniform"] == pytest.approx(0.1) and favorite["random"] > favorite["average"] > 0.1
    one = incompetent(BadTeacherConfig(), subject, rows, context())
    assert not torch.equal(one, incompetent(BadTeacherConfig(), subject, rows, context(1)))
    assert torch.allclose(one.sum(1), torch.ones(len(rows)))


def test_a_network_that_cannot_be_drawn_anew_wants_the_uniform_teacher():
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.out = torch.nn.Parameter(torch.ones(64)), torch.nn.Linear(64, 10)

        def forward(self, x):
            return self.out(x * self.scale)

    subject = Classifier(Odd().requires_grad_(False))
    with pytest.raises(Unfit, match="cannot draw its weights anew"):
        BadTeacher.set().run(subject, first(), context())
    assert BadTeacher.set({"teacher": "uniform"}).run(subject, first(), context()).digest != subject.digest
