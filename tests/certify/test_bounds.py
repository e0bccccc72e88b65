"""Upper bounds of attacks from numbers that can be worked out by hand."""

import pytest

from efface.certify.bounds import Bound, bound, by_row, membership, recomputed
from efface.core.types import Measurement


def made(value, **more):
    return Measurement(system="attack/x", subject="candidate", value=value, n=4, **more)


def sides(forget, unseen, reference=None):
    """A membership table; the reference's scores are the same unless given as (forget, unseen)."""
    theirs = reference or (forget, unseen)
    return [
        {"row": at, "set": name, "value": score, "reference": base}
        for name, own, others in (("forget", forget, theirs[0]), ("unseen", unseen, theirs[1]))
        for at, (score, base) in enumerate(zip(own, others, strict=True))
    ]


def test_an_area_is_recomputed():
    """Of the 4 pairs of (3, 1) and (2, 0), the member wins 3: 0.75."""
    assert recomputed(made(0.7), sides([3, 1], [2, 0])) == (0.7, 0.75)


def test_losses_count_the_other_way():
    """A table of losses, whose AUC is a part: low losses are members, so (0, 2) against (1, 3) give 0.75 too."""
    assert recomputed(made(0.9, parts={"auc": 0.75}), sides([0, 2], [1, 3])) == (0.75, 0.75)


def test_a_mean_is_recomputed():
    assert recomputed(made(0.3), [{"row": 0, "value": 0.2}, {"row": 1, "value": 0.4}]) == (0.3, pytest.approx(0.3))


def test_a_table_with_several_numbers_a_row_is_left_alone():
    table = [{"row": 0, "bits": bits, "value": 0.2} for bits in (8, 4)]
    assert recomputed(made(0.3), table) is None and by_row(table) is None
    assert recomputed(made(0.3), [{"fact": 0, "value": "Rome"}]) is None


def test_rows_without_tokens_are_left_out():
    table = [*sides([3, 1], [2, 0]), {"row": 2, "set": "forget", "value": None, "reference": None}]
    assert recomputed(made(0.75), table) == (0.75, 0.75)
    assert membership(made(0.75), [row for row in table if row["set"] == "forget"], "value") is None


def test_an_area_as_the_reference_has_no_distance():
    """Equal scores, equal draws: every resampled difference is 0."""
    found = bound("x", {"candidate": made(0.75)} | {"reference": made(0.75)}, {"candidate": sides([3, 1], [2, 0])}, None)
    assert isinstance(found, Bound) and (found.upper, found.margin, found.within) == (0.0, 0.2, True)


@pytest.mark.parametrize(("forget", "unseen"), [([9, 8, 7, 6], [1, 2, 3, 4]), ([1, 2, 3, 4], [9, 8, 7, 6])], ids=["better", "worse"])
def test_an_area_away_from_the_reference_is_out_on_either_side(forget, unseen):
    """AUC 1 or 0, where the reference has 0.5 (all its scores are equal): 0.5 away in every draw."""
    table = sides(forget, unseen, ([0] * 4, [0] * 4))
    found = bound("x", {"candidate": made(0.5), "reference": made(0.5)}, {"candidate": table}, None)
    assert found.upper == pytest.approx(0.5) and not found.within


def models(value, reference, original, **more):
    return {"candidate": made(value, **more), "reference": made(reference), "original": made(original)}


def test_a_share_with_the_interval_of_the_attack():
    """(0.3 + 0.1 - 0.2) / (0.8 - 0.2): the upper end of 0.4 is a third of what the original has beyond the reference."""
    found = bound("x", models(0.3, 0.2, 0.8, low=0.2, high=0.4), {}, None)
    assert found.upper == pytest.approx(1 / 3) and found.how == "interval of the attack" and not found.within


def test_both_intervals_count():
    """Half widths 0.03 and 0.04 make 0.05: (0.22 - 0.2 + 0.05) / 0.6."""
    given = models(0.22, 0.2, 0.8, low=0.19, high=0.25)
    given["reference"] = made(0.2, low=0.16, high=0.24)
    assert bound("x", given, {}, None).upper == pytest.approx(0.07 / 0.6)


def test_paired_rows_are_narrower():
    """Each row lies 0.03 above the reference's, so the difference has no spread, however far the rows are apart."""
    tables = {who: [{"row": at, "value": at / 4 + more} for at in range(4)] for who, more in (("candidate", 0.03), ("reference", 0.0))}
    found = bound("x", models(0.405, 0.375, 0.975, low=0.1, high=0.7), tables, None)
    assert found.upper == pytest.approx(0.05) and found.how == "paired over rows" and found.within


def test_a_gain_is_taken_from_the_attack():
    """Upper end of the gain 0.1, of 0.5 in the probability of answers that the original has beyond the reference."""
    mine = made(0.4, parts={"reference": 0.35, "gain": 0.05, "gain_high": 0.1})
    assert bound("x", {"candidate": mine}, {}, 0.5).upper == pytest.approx(0.2)


def test_where_the_original_lies_below_the_way_is_turned():
    """A rate of 0.5 where the reference has 0.8 and the original 0.2: half of the way back, and its lower end 0.38 is 0.7 of it."""
    assert bound("x", models(0.5, 0.8, 0.2, low=0.38, high=0.6), {}, None).upper == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("given", "gap", "says"),
    [
        ({"candidate": made(0.3)}, None, "no number of the reference"),
        (models(0.3, 0.2, 0.21), None, "+0.01 beyond the reference"),
        ({"candidate": made(0.3, parts={"reference": 0.2})}, None, "no known number"),
    ],
)
def test_what_says_nothing_is_said_in_words(given, gap, says):
    assert says in bound("x", given, {}, gap)
