import numpy as np
import pytest
import torch

from efface.attacks.min_k_plus_plus import MinKPlusPlus, standardized
from efface.families.causal_lm import RowScore
from efface.ops.logprobs import token_stats
from efface.testing.tiny import context, facts, retrained_lm, tiny_lm, trained_lm


def scored(probabilities, labels):
    """What one pass gives of a row whose next-token distribution is the same everywhere."""
    logits = torch.tensor(probabilities).log().expand(1, len(labels), -1)
    found = token_stats(logits, torch.tensor([labels]))
    return RowScore(*(part[0].numpy() for part in (found.log_probs, found.mean, found.deviation, found.hit)), False, "")


def test_formula():
    """p = (.7, .2, .1): mu = .7 log .7 + .2 log .2 + .1 log .1 = -0.801819, sigma = 0.703126, z = 0.633092, -1.148612, -2.134419."""
    row = scored([0.7, 0.2, 0.1], [0, 1, 2])
    assert row.mean[0] == pytest.approx(-0.801819, abs=1e-6)
    assert row.deviation[0] == pytest.approx(0.703126, abs=1e-6)
    assert standardized(row) == pytest.approx([0.633092, -1.148612, -2.134419], abs=1e-6)


def test_a_uniform_distribution_is_no_division_by_zero():
    """Its deviation is 0; clamped at 1e-3, z is 0 for every token, up to rounding."""
    z = standardized(scored([0.25] * 4, [0, 1, 2, 3]))
    assert np.isfinite(z).all() and z == pytest.approx(np.zeros(4), abs=1e-3)


def test_the_lowest_count():
    """k = .4 of two tokens is int(.8) = 0, floored at one: the lowest z."""
    subject = tiny_lm()
    found = MinKPlusPlus.set({"k": 0.01}).run(subject, facts().request, context())
    (_, row), *_ = subject.score(facts().forget[:1])
    assert found.table[0]["value"] == pytest.approx(float(standardized(row)[:-1].min()), abs=1e-5)


def test_finds_members_where_there_are_any(over):
    request, ctx = facts().request, context(baselines={"reference": retrained_lm()})
    assert MinKPlusPlus().run(trained_lm(), request, ctx).value > 0.9
    assert MinKPlusPlus().run(retrained_lm(), request, ctx).value == pytest.approx(0.5, abs=0.2)
    assert MinKPlusPlus().run(over, request, ctx).value < 0.1
