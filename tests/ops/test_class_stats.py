import math

import numpy as np
import pytest

from efface.core.errors import Missing, Unfit
from efface.ops import class_stats

APART = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
MIRRORED = np.array([[0.7, 0.2, 0.1]]), np.array([[0.1, 0.2, 0.7]])


def score(one, other):
    """F of two sets of confidences (models, rows)."""
    return class_stats.forget_points(np.array([class_stats.epsilon(a, b) for a, b in zip(one.T, other.T, strict=True)]), len(one)).mean()


def test_modified_entropy():
    """First row: .3 log(1/.7) + .2 log(1/.8) + .1 log(1/.9) = .1070 + .0446 + .0105 = .1622."""
    chances = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
    assert class_stats.modified_entropy(chances, np.array([0, 1, 2])) == pytest.approx([0.1622, 0.0657, 0.7638], abs=1e-4)
    sure = np.array([[1.0, 0.0], [0.0, 1.0]])
    found = class_stats.modified_entropy(sure, np.array([0, 0]))
    assert found[0] == 0 and 100 < found[1] < math.inf, "sure and right is 0; sure and wrong is large, but a number"


def test_entropy():
    assert class_stats.entropy(np.array([[0.5, 0.5], [1.0, 0.0]])) == pytest.approx([math.log(2), 0.0])


def test_js():
    """p = (.7, .2, .1), q turned round: middle (.4, .2, .4), KL(p || middle) = .7 log 1.75 - .1 log 4 = .2531, and the same for q."""
    assert class_stats.js(*MIRRORED) == pytest.approx([0.2531], abs=1e-4)
    assert class_stats.js(*APART) == pytest.approx([math.log(2)], abs=1e-6)
    assert class_stats.js(MIRRORED[0], MIRRORED[0]) == [0.0]
    assert class_stats.js(*MIRRORED) == class_stats.js(*reversed(MIRRORED))


def test_published_js():
    """Disjoint: 2 * [.5 log(.5 / 1) + .5 log(.5 / 1e-7)] / 2 classes / 2 = 3.683 where log 2 is right; with the cut at 1e-8 4.26."""
    assert class_stats.js_published(*APART) == pytest.approx([3.683], abs=1e-3)
    assert class_stats.js_published(*APART, floor=1e-8) == pytest.approx([4.259], abs=1e-3)
    assert class_stats.js_published(*MIRRORED) == pytest.approx([0.1102], abs=1e-4)


def test_activation_distance():
    assert class_stats.activation_distance(*APART) == pytest.approx([math.sqrt(2)])
    assert class_stats.activation_distance(APART[0], APART[0]) == [0.0]


def test_tow_and_nomus():
    """(1 - .1)(1 - .2)(1 - 0) = .72; the NoMUS pairs are those of the published notebook."""
    assert class_stats.tow([0.1, -0.2, 0.0]) == pytest.approx(0.72)
    assert class_stats.tow([0, 0, 0]) == 1
    assert class_stats.nomus(0.5952, 0.7136) == pytest.approx(0.5840, abs=1e-3)
    assert class_stats.nomus(0.59, 0.6299) == pytest.approx(0.6651, abs=1e-3)
    assert class_stats.nomus(0.9, 0.1) == class_stats.nomus(0.9, 0.9), "the sign is lost, so it is reported apart"


def test_intervals():
    """Mean 2, standard error 1 / sqrt 3, t(.975, 2) = 4.3027: 2 +- 2.484. Wilson for 3 of 4: .3006 to .9544."""
    assert class_stats.t_interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2 - 2.4841, 2 + 2.4841), abs=1e-4)
    assert class_stats.t_interval([1.0]) is None
    assert class_stats.wilson(np.array([True, True, False, True])) == pytest.approx((0.75, 0.3006, 0.9544), abs=1e-4)


def test_lira_scaling():
    """Softmax of (log 3, 0, 0) = (.6, .2, .2): log .6 - log .4. In float32 a gap of 40 would be lost as 1 - p = 0."""
    found = class_stats.lira_scaling(np.array([[math.log(3), 0, 0], [40.0, 0, 0], [0.0, 2000, 0]]), np.array([0, 0, 0]))
    assert found[:2] == pytest.approx([math.log(1.5), 40 - math.log(2)])
    assert found[2] == pytest.approx(math.log(1e-45)), "a probability of 0 is cut where the released code cuts it"


def test_cross_entropy_is_exact_where_probabilities_are_not():
    assert class_stats.cross_entropy(np.array([[50.0, 0.0], [0.0, 800.0]]), np.array([0, 0])) == pytest.approx([math.exp(-50), 800.0])


def test_loss_attack():
    """Losses of one distribution: 1/2; of distributions that do not meet: 1. The sign says which side is lower."""
    rng = np.random.default_rng(0)
    one, other = rng.exponential(size=(2, 1500))
    same = class_stats.loss_attack(one, other)
    assert same.accuracy == pytest.approx(0.5, abs=0.03) and same.low < 0.5 < same.high and abs(same.auc - 0.5) < 0.03
    apart = class_stats.loss_attack(one, other + 20)
    assert apart.accuracy > 0.99 and apart.signed > 0.49 and apart.auc == 1
    turned = class_stats.loss_attack(one + 20, other)
    assert turned.accuracy > 0.99 and turned.signed < -0.49 and turned.auc == 0
    uneven = class_stats.loss_attack(one, other[:100])
    assert 0.3 < uneven.accuracy < 0.7, "the larger side is cut, or its share alone would be right"


def test_one_threshold_does_not_see_a_spread_on_both_sides():
    rng = np.random.default_rng(0)
    middle, ends = rng.uniform(4, 6, 400), np.r_[rng.uniform(0, 2, 200), rng.uniform(8, 10, 200)]
    found = class_stats.loss_attack(middle, ends)
    assert found.auc == pytest.approx(0.5, abs=0.01) and found.accuracy < 0.8


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(bad):
    rows = np.full((12, 2), 0.5)
    rows[3, 1] = bad
    labels = np.zeros(12, int)
    calls = [
        lambda: class_stats.softmax(rows), lambda: class_stats.cross_entropy(rows, labels), lambda: class_stats.lira_scaling(rows, labels),
        lambda: class_stats.entropy(rows), lambda: class_stats.modified_entropy(rows, labels), lambda: class_stats.js(rows, np.full((12, 2), 0.5)),
        lambda: class_stats.js_published(rows, rows), lambda: class_stats.activation_distance(rows, rows), lambda: class_stats.loss_attack(rows[:, 1], labels),
        lambda: class_stats.called_non_members(rows[:, 0], rows[:, 1], rows[:, 0]), lambda: class_stats.epsilon(rows[:, 1], rows[:, 0]),
        lambda: class_stats.lira(rows[:, 1], rows.T, rows.T > 0),
    ]
    for call in calls:
        with pytest.raises(Unfit, match="row 4 is not finite"):
            call()


def test_too_few_rows_for_the_loss_attack():
    with pytest.raises(Missing, match="at least 10 rows on each side; found 9 and 30"):
        class_stats.loss_attack(np.arange(9.0), np.arange(30.0))


def test_support_vector_machine():
    """Members are sure, others are not; of three asked rows the unsure one is called a non-member."""
    rng = np.random.default_rng(0)
    called = class_stats.called_non_members(rng.uniform(0.9, 1, 60), rng.uniform(0, 0.1, 60), np.array([0.95, 0.05, 0.93]))
    assert called.tolist() == [False, True, False]


def test_lira_golden():
    """Row 1: in (1, 3), out (-1, -3); row 2: in (0, 2), out (0, -2). Shared spread: each square sum is 4 over 2 degrees, sd sqrt 2.

    Target (2, 0): the first lies at the mean of "in" (2) and 4 from that of "out" (-2): ratio (16 - 0) / (2 * 2) = 4.
    The second lies 1 from either: 0. Offline: (2 + 2) / sqrt 2 and (0 + 1) / sqrt 2.
    """
    shadows = np.array([[1.0, 0.0], [3.0, 2.0], [-1.0, 0.0], [-3.0, -2.0]])
    inside = np.array([[True, True], [True, True], [False, False], [False, False]])
    target = np.array([2.0, 0.0])
    assert class_stats.lira(target, shadows, inside) == pytest.approx([4.0, 0.0])
    assert class_stats.lira(target, shadows, inside, offline=True) == pytest.approx([4 / math.sqrt(2), 1 / math.sqrt(2)])


def test_spreads_of_their_own_differ():
    """Out of row 1 spreads twice as far as out of row 2; in of both alike. Each kind has its own spread, not that of the other."""
    shadows = np.array([[-1.0, -1], [1, 1], [-2, -1], [2, 1]])
    inside = np.array([[True, True], [True, True], [False, False], [False, False]])
    own = class_stats.spread(shadows, False, ~inside)
    assert own == pytest.approx([math.sqrt(8), math.sqrt(2)])
    assert class_stats.spread(shadows, True, ~inside) == pytest.approx([math.sqrt(5)] * 2)
    assert class_stats.lira(np.zeros(2), shadows, inside, shared=False) == pytest.approx([math.log(2), 0.0])


def test_u_lira_tells_what_is_told():
    """Unlearned around -3, retrained around 3; a target at -3 is told on every row, one drawn like the retrained on none."""
    rng = np.random.default_rng(0)
    unlearned, retrained = rng.normal(-3, 1, (16, 50)), rng.normal(3, 1, (16, 50))
    inside = np.ones((16, 50), bool)
    low = class_stats.u_lira(rng.normal(-3, 0.1, 50), unlearned, inside, retrained)
    assert (low.target > 0).all() and (low.retrained < 0).mean() > 0.95 and low.target.shape == (16, 50)
    same = class_stats.u_lira(rng.normal(3, 1, 50), unlearned, inside, retrained)
    assert (same.target > 0).mean() < 0.05


def test_epsilon_golden():
    """Ten and ten confidences, one of each on the wrong side of every sound threshold: fpr = fnr = .1, epsilon = log(.9 / .1)."""
    low, high = np.r_[np.arange(9) / 10, 2.05], np.r_[np.arange(9) / 10 + 2, 0.05]
    assert class_stats.epsilon(low, high) == pytest.approx(math.log((1 - 1e-5 - 0.1) / 0.1), abs=1e-6)
    assert class_stats.epsilon(high, low) == class_stats.epsilon(low, high)


def test_epsilon_limits():
    spread = np.linspace(0, 10, 32)
    assert class_stats.epsilon(spread, spread + 100) == class_stats.CAP, "no rule errs"
    assert class_stats.epsilon(spread, np.linspace(5, 5.05, 32)) == class_stats.CAP, "a hundred times as narrow"
    assert class_stats.epsilon(np.ones(8), np.ones(8)) == 0 and class_stats.epsilon(np.ones(8), np.zeros(8)) == class_stats.CAP
    inner = np.random.default_rng(0).normal(0, 0.3, 64)
    outer = np.r_[np.linspace(-9, -3, 32), np.linspace(3, 9, 32)]
    assert class_stats.epsilon(inner, outer) == class_stats.CAP, "an interval tells what no threshold can"


def test_points():
    """ceil(log 63) = 5: ten bins. Epsilons of .2, .5, 1.2, 4.9 and 5 earn 1, 1/2, 1/4, 2^-9 and nothing."""
    assert class_stats.forget_points(np.array([0.2, 0.5, 1.2, 4.9, 5.0, 50.0]), 64).tolist() == [1, 0.5, 0.25, 2.0**-9, 0, 0]


def test_neurips_score_of_gaussians():
    """Identical sets of 64 earn .1 to .3 by chance alone, a shift of one less, of five under .01, a constant nothing."""
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 64, 60))
    assert 0.1 < score(one, other) < 0.3
    assert 0.01 < score(one, other + 1) < 0.1
    assert score(one, other + 5) < 0.01
    assert score(np.zeros((64, 60)), other) == 0
