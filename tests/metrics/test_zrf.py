import math

import numpy as np
import pytest

from efface.core.errors import Unfit
from efface.core.types import Data
from efface.families.classifier import Classifier
from efface.families.networks import MLP, seeded
from efface.metrics.zrf import Zrf
from efface.ops import class_stats
from efface.testing.tiny import context, digits, retrained_classifier, tiny_classifier, trained_classifier

PARTS = digits()


def run(subject, settings=None, reference=None, **changes):
    return Zrf.set(settings).run(subject, PARTS.request, context(baselines={"reference": reference} if reference else {}, **changes))


def test_formula():
    """1 - JS of each row against one random network, averaged; with two networks their mean."""
    ctx = context()
    rows = list(PARTS.forget)
    mine = trained_classifier().predict(rows).astype(float)
    teachers = [tiny_classifier().fresh(ctx.seed_for("zrf teacher", k)).predict(rows).astype(float) for k in range(2)]
    each = [1 - class_stats.js(mine, other) for other in teachers]
    one, two = run(trained_classifier()), run(trained_classifier(), {"teachers": 2})
    assert one.value == pytest.approx(each[0].mean(), abs=1e-6) and one.n == len(rows)
    assert two.value == pytest.approx(np.mean(each), abs=1e-6)
    assert [row["value"] for row in one.table] == pytest.approx(each[0], abs=1e-5)


def test_the_random_network_itself_has_one():
    teacher = tiny_classifier().fresh(context().seed_for("zrf teacher", 0))
    assert run(teacher).value == 1
    assert run(teacher, {"parity": True}).value == pytest.approx(1)


def test_range_and_reference():
    """Between 1 - log 2 and 1; retraining gives more than the original, and its value stands beside the candidate's."""
    original, reference = run(trained_classifier(), reference=retrained_classifier()), run(retrained_classifier(), reference=retrained_classifier())
    assert 1 - math.log(2) < original.value < reference.value < 1
    assert original.parts["reference"] == reference.value == reference.parts["reference"]
    assert original.better == "as-reference", "above the retrained model is too much"


def test_parity_is_another_number():
    right, published = run(trained_classifier()), run(trained_classifier(), {"parity": True})
    chances = trained_classifier().predict(list(PARTS.forget)).astype(float)
    other = tiny_classifier().fresh(context().seed_for("zrf teacher", 0)).predict(list(PARTS.forget)).astype(float)
    assert published.value == pytest.approx(1 - class_stats.js_published(chances, other).mean(), abs=1e-4)
    assert abs(right.value - published.value) > 0.05


def test_a_network_that_cannot_be_drawn_anew_is_refused():
    import torch

    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.scale = seeded(MLP, 0), torch.nn.Parameter(torch.ones(1), requires_grad=False)

        def forward(self, x):
            return self.inner(x) * self.scale

    with pytest.raises(Unfit, match="cannot draw its weights anew"):
        run(Classifier(Odd()))
    assert run(trained_classifier(), utility={"test": Data.inline(PARTS.test)}).parts == {"reference": None}
