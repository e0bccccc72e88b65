import numpy as np
import pytest

from efface.core.errors import Missing
from efface.core.types import Data, Request
from efface.metrics.forget_quality import ForgetQuality, compare, statistic
from efface.ops import stats
from efface.testing.tiny import context, facts, retrained_lm, tiny_lm, trained_lm


def test_statistic_is_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=37), np.concatenate([rng.normal(0.5, 1, 30), [0.0, 0.0]])
    assert statistic(a, b) == pytest.approx(stats.ks(a, b).statistic, abs=1e-12)


@pytest.mark.parametrize(("n", "p"), [(40, 1.86e-23), (200, 1.94e-119)])
def test_samples_apart_are_flagged_as_the_floor(n, p):
    """Samples that do not overlap give statistic 1 and a p that depends on their size alone."""
    value, parts = compare(np.arange(n, dtype=float), np.arange(n) + 1000.0)
    assert value == pytest.approx(p, rel=0.01)
    assert parts["statistic"] == 1.0 and parts["floor"] == 1.0 and parts["n"] == n


def test_a_p_below_every_float_has_no_logarithm():
    value, parts = compare(np.arange(1200, dtype=float), np.arange(1200) + 5000.0)
    assert value == 0.0 and parts["log10_p"] is None


def test_the_reference_agrees_with_itself_and_the_original_does_not():
    ctx = context(baselines={"reference": retrained_lm()})
    same = ForgetQuality().run(retrained_lm(), facts().request, ctx)
    assert same.value == 1.0 and same.parts["statistic"] == 0.0
    other = ForgetQuality().run(trained_lm(), facts().request, ctx)
    assert other.value < 1e-3 and other.parts["statistic"] > 0.4
    assert other.parts["log10_p"] == pytest.approx(np.log10(other.value))


@pytest.mark.slow
def test_references_of_other_seeds_agree_with_the_reference():
    """p above .01 for at least nine of ten seeds."""
    ctx = context(baselines={"reference": retrained_lm()})
    found = [ForgetQuality().run(retrained_lm(seed), facts().request, ctx).value for seed in range(1, 11)]
    assert sum(p > 0.01 for p in found) >= 9, found


def test_without_reference_or_wrong_answers_it_is_refused():
    with pytest.raises(Missing, match="reference"):
        ForgetQuality().run(tiny_lm(), facts().request, context())
    bare = Request(forget=Data.inline([{"prompt": "Who?", "answer": "Runa."}]))
    with pytest.raises(Missing, match="perturbed_answer"):
        ForgetQuality().run(tiny_lm(), bare, context(baselines={"reference": tiny_lm(1)}))
