import numpy as np
import pytest

from efface.core.errors import UnknownName
from efface.metrics.probability import Probability
from efface.testing.tiny import context, facts, retrained_lm, tiny_lm, trained_lm


def test_formula():
    """The mean over rows of exp(-mean loss per token), each loss read alone from the model."""
    subject, rows = tiny_lm(), facts()
    found = Probability().run(subject, rows.request, context())
    alone = [float(np.exp(-float(subject.losses(subject.encode([row]))[0]))) for row in rows.forget]
    assert [row["value"] for row in found.table] == pytest.approx(alone, abs=1e-6)
    assert found.value == pytest.approx(np.mean(alone), abs=1e-6)
    assert found.low < found.value < found.high and found.n == 16


def test_tells_who_saw_the_rows():
    rows = facts().request
    known, unknown = (Probability().run(model(), rows, context()).value for model in (trained_lm, retrained_lm))
    assert known > 0.9 and unknown < 0.6


def test_settings_choose_the_rows():
    subject, request, ctx = trained_lm(), facts().request, context()
    kept = Probability.set({"on": "keep", "rows": 5}).run(subject, request, ctx)
    assert kept.n == 5 and kept.value > 0.9
    assert Probability.set({"on": "unseen"}).run(subject, request, ctx).value < kept.value
    with pytest.raises(UnknownName):
        Probability.set({"on": "nothing"}).run(subject, request, ctx)
