"""Orders of slices: Latin squares, matching, capacity by hand and by simulation, and dealing rows without losing one."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from efface.core.errors import BadConfig, BadRows
from efface.ops import sequences

STEEP = (0.05, 0.01, 0.002, 0.001, 0.001)


@pytest.mark.parametrize("length", range(1, 8))
def test_rotations_are_a_latin_square(length):
    orders = sequences.cyclic(length, length)
    assert sequences.is_latin(orders)
    for place in range(length):
        assert sorted(order[place] for order in orders) == list(range(length))


def test_rotations_by_hand():
    assert sequences.cyclic(3, 2) == [(0, 1, 2), (1, 2, 0)]
    # Seven of three slices' six orders do not exist; four are the three rotations and one more that starts with 0.
    assert sequences.cyclic(3, 4) == [(0, 1, 2), (0, 2, 1), (1, 2, 0), (2, 0, 1)]
    with pytest.raises(BadConfig, match="7 orders of 3 slices were asked, and there are 6"):
        sequences.cyclic(3, 7)
    with pytest.raises(BadConfig, match="0 orders"):
        sequences.cyclic(3, 0)


def test_a_whole_budget_is_all_orders():
    assert sorted(sequences.cyclic(4, 24)) == sorted(itertools.permutations(range(4)))


@given(st.integers(1, 5), st.data())
def test_orders_differ_and_share_first_places_evenly(length, data):
    budget = data.draw(st.integers(1, math.factorial(length)))
    orders = sequences.cyclic(length, budget)
    assert len(set(orders)) == budget and all(sorted(order) == list(range(length)) for order in orders)
    counts = [sum(order[0] == piece for order in orders) for piece in range(length)]
    assert max(counts) - min(counts) <= 1


def test_what_is_no_latin_square():
    assert not sequences.is_latin([(0, 1), (0, 1)])
    assert not sequences.is_latin([(0, 0), (1, 1)])


def test_worth_by_hand():
    """Order (1, 0) of chances (.5, .25), exponent 1: 1 * (1 - .25) + 2 * (1 - .75) = 1.25."""
    assert sequences.worth((1, 0), (0.5, 0.25), 1) == pytest.approx(1.25)


def test_matching_beats_rotations_where_chances_differ():
    """Known totals for these chances and exponent 100: 11.58 by matching, 10.62 by rotation."""
    total = {name: sum(sequences.worth(order, STEEP) for order in orders) for name, orders in (
        ("matched", sequences.matched(STEEP, 5)), ("rotated", sequences.cyclic(5, 5)),
    )}
    assert total["matched"] == pytest.approx(11.58, abs=0.005) and total["rotated"] == pytest.approx(10.62, abs=0.005)


@given(st.lists(st.floats(0, 0.2), min_size=1, max_size=5))
def test_matched_orders_are_a_latin_square(chances):
    assert sequences.is_latin(sequences.matched(chances, len(chances)))


def test_a_small_budget_starts_with_the_slices_that_are_least_likely_to_be_hit():
    orders = sequences.matched(STEEP, 2)
    assert {order[0] for order in orders} == {3, 4}


@pytest.mark.parametrize(
    ("chances", "budget", "says"),
    [((0.5, 0.6), 1, "may not pass 1"), ((-0.1, 0.2), 1, "needs a probability"), ((0.1, 0.2), 3, "1 to 2"), ((0.1, 0.2), 0, "1 to 2")],
)
def test_impossible_chances_are_refused(chances, budget, says):
    with pytest.raises(BadConfig, match=says):
        sequences.matched(chances, budget)


def test_prefix():
    assert [sequences.prefix((2, 0, 1), gone) for gone in ((), {1}, {0}, {0, 1}, {2, 1})] == [3, 2, 1, 1, 0]


def test_capacity_by_hand():
    """m = 2, L = 3, B = 1: 6 * (1 + 1/2) = 9. The table of m = 5, L = 6."""
    assert sequences.capacity(2, 3, 2) == pytest.approx(9)
    table = [sequences.capacity(5, 6, 5 * budget) for budget in range(1, 7)]
    assert table == pytest.approx([68.5, 87.9, 99.5, 107.9, 114.5, 119.8], abs=0.06)


@pytest.mark.parametrize("budget", [*range(1, 7), 30])
def test_simulated_deletions_are_what_the_formula_says(budget):
    """2000 streams, 3 %; one order a shard is SISA. Beyond L orders nothing is gained, because no further slice can come first."""
    lasted = sequences.simulate(5, sequences.cyclic(6, budget), 2000, seed=4)
    assert lasted.mean() == pytest.approx(sequences.capacity(5, 6, 5 * min(budget, 6)), rel=0.03)


def test_simulation_stops_at_the_last_hit_that_was_missing():
    """Two slices, both first in some order, one shard: 2 deletions at least, 2 * H(2) = 3 on average; by one slice always 1."""
    lasted = sequences.simulate(1, sequences.cyclic(2, 2), 4000)
    assert lasted.min() == 2 and lasted.mean() == pytest.approx(3, rel=0.03)
    assert set(sequences.simulate(1, [(0,)], 10)) == {1}


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 30), st.sampled_from([None, 7]))
def test_dealing_loses_no_row(shards, slices, more, seed):
    count = shards * slices + more
    dealt = sequences.deal(count, shards, slices, seed)
    flat = [place for shard in dealt for piece in shard for place in piece]
    assert sorted(flat) == list(range(count))
    sizes = [len(piece) for shard in dealt for piece in shard]
    assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 2
    totals = [sum(map(len, shard)) for shard in dealt]
    assert max(totals) - min(totals) <= 1


def test_dealing_in_order_and_shuffled():
    assert sequences.deal(8, 2, 2, None) == [[[0, 2], [4, 6]], [[1, 3], [5, 7]]]
    one, other = (sequences.deal(100, 5, 4, seed) for seed in (1, 2))
    assert one != other and one == sequences.deal(100, 5, 4, 1)
    with pytest.raises(BadRows, match="11 rows cannot fill 3 x 4 slices"):
        sequences.deal(11, 3, 4, 0)
