"""Fisher forgetting: the information over all labels, the variance of the noise, and zeroing and noise each on its own."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from efface.core.errors import Unfit
from efface.core.types import Data, Request
from efface.families.classifier import Classifier
from efface.families.networks import MLP, seeded
from efface.methods.fisher import Fisher
from efface.testing.tiny import context, digits, retrained_classifier, trained_classifier


def wrong(subject, rows):
    return float((subject.predict(rows).argmax(1) != np.array([row["y"] for row in rows])).mean())


def request(forget, keep):
    return Request(forget=Data.inline(forget), keep=Data.inline(keep))


def test_formula():
    """Two classes, zero weights, x = (1, 2): p = 1/2 for each label, d log p_y / dW_k = (1[k = y] - 1/2) x.

    Its square is x^2 / 4 for both labels, so F = (1/4, 1) in each row of W and 1/4 for each bias.
    """
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.zero_()
    found = Fisher.set()._information(Classifier(model.requires_grad_(False)), [{"x": [1.0, 2.0], "y": 0}], context())
    assert found["weight"].tolist() == pytest.approx(np.array([[0.25, 1.0], [0.25, 1.0]]), rel=1e-6)
    assert found["bias"].tolist() == pytest.approx([0.25, 0.25], rel=1e-6)


def test_information_over_all_labels():
    """Equal to a loop over rows and labels with one backward pass each, on a network; it never looks at the rows' own labels."""
    before, rows = trained_classifier(), digits().keep[:4]
    work = before.fork()
    work.model.requires_grad_(True)
    parameters = list(work.model.parameters())
    total = [torch.zeros_like(p) for p in parameters]
    for row in rows:
        log_p = work.logits(work.encode([row])).log_softmax(-1)[0]
        for label in range(10):
            for sums, grad in zip(total, torch.autograd.grad(log_p[label], parameters, retain_graph=True), strict=True):
                sums += log_p[label].detach().exp() * grad**2 / len(rows)
    for given in (rows, [{**row, "y": 0} for row in rows]):
        found = Fisher.set({"batch": 3})._information(before.merged(), given, context())
        for name, sums in zip(found, total, strict=True):
            assert torch.allclose(found[name], sums, rtol=1e-3, atol=1e-5 * float(sums.max()))


@pytest.mark.parametrize(
    ("shape", "head", "variance"),
    [
        ((3,), False, 10 * 1e-6 * 1e3),  # a vector: capped at 1000, times 10
        ((2, 3), False, 1e-6 * 1e3),  # a matrix: capped at 1000
        ((2, 3), True, 10 * 1e-6 * 1e2),  # the head: capped at 100, times 10
        ((3,), True, 10 * 1e-6 * 1e2),  # its bias: the factor counts once
    ],
)
def test_variance_where_nothing_is_known(shape, head, variance):
    assert Fisher.set()._variance(torch.zeros(shape), head).flatten().tolist() == pytest.approx([variance] * math.prod(shape), rel=1e-5)


def test_variance_is_averaged_over_a_row():
    """1 / F = 2, 4 and 1000 (F = 1e-4 is capped): (2 + 4 + 1000) / 3, times alpha."""
    found = Fisher.set({"alpha": 0.5})._variance(torch.tensor([[0.5, 0.25, 1e-4]]), False)
    assert found.tolist() == pytest.approx(np.full((1, 3), 0.5 * 1006 / 3), rel=1e-5)


def test_no_op():
    parts = digits("random")
    after = Fisher.set({"alpha": 0.0}).run(trained_classifier(0, "random"), parts.request, context())
    assert after.digest == trained_classifier(0, "random").digest, "no class is wholly forgotten, and the noise is zero"


def test_zeroing_alone_forgets_the_class():
    """The output row of digit 3 has a logit near 0, which is below that of any other digit; nothing else changes."""
    parts, before, ctx = digits(), trained_classifier(), context()
    after = Fisher.set({"noise": False}).run(before, parts.request, ctx)
    assert ctx.notes["zeroed"] == "3" and wrong(after, parts.forget) > 0.99 and wrong(after, parts.keep) < 0.01
    changed = {name for name, weight in after.model.named_parameters() if not torch.equal(weight, before.model.get_parameter(name))}
    head = after.model.stack[-1]
    assert changed == {"stack.4.weight", "stack.4.bias"}
    assert torch.equal(head.weight[[0, 1, 2, 4]], before.model.stack[-1].weight[[0, 1, 2, 4]])
    assert 0 < float(head.weight[3].std()) < 0.02 and float(head.weight[3].std()) == pytest.approx(0.01, rel=0.5)
    exact = Fisher.set({"noise": False, "row_variance": 0.0}).run(before, parts.request, context())
    assert not exact.model.stack[-1].weight[3].any() and not exact.model.stack[-1].bias[3].any()


def test_noise_alone_does_not_forget_the_class():
    """At the published scale the noise blurs too little; where it is strong enough to forget, it takes everything."""
    parts, before = digits(), trained_classifier()
    mild = Fisher.set({"zero": False}).run(before, parts.request, context())
    assert wrong(mild, parts.forget) < 0.05 and wrong(mild, parts.keep) < 0.03 and mild.digest != before.digest
    strong = Fisher.set({"zero": False, "alpha": 1e-4}).run(before, parts.request, context())
    assert wrong(strong, parts.forget) > 0.9 and wrong(strong, parts.keep) > 0.5


def test_both_together():
    parts, before = digits(), trained_classifier()
    after = Fisher.set().run(before, parts.request, context())
    assert wrong(after, parts.forget) > 0.99 and wrong(after, parts.keep) < 0.02 and wrong(after, parts.test) < 0.05
    reference = retrained_classifier().predict(parts.forget)
    near, far = (np.linalg.norm(subject.predict(parts.forget) - reference, axis=1).mean() for subject in (after, before))
    assert near < 0.4 * far


def test_limits():
    """What the kept rows hold fast gets no noise; a class with a single keep row is never zeroed."""
    assert float(Fisher.set()._variance(torch.full((2, 2), 1e12), False).max()) < 1e-17
    parts, before, ctx = digits(), trained_classifier(), context()
    half = request(parts.forget[1:], [*parts.keep, parts.forget[0]])
    Fisher.set({"rows": 50}).run(before, half, ctx)
    assert ctx.notes["zeroed"] == "no class"
    with pytest.raises(Unfit, match="noise = true"):
        Fisher.set({"noise": False}).run(before, half, context())


def test_rows_can_be_sampled():
    before = Classifier(seeded(MLP, 0, inputs=64, hidden=[8], outputs=10))
    parts = digits()
    few = Fisher.set({"rows": 20}).run(before, parts.request, context())
    again = Fisher.set({"rows": 20}).run(before, parts.request, context())
    assert few.digest == again.digest != Fisher.set().run(before, parts.request, context()).digest
