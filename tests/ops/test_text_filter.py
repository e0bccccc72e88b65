"""SAFREE's arithmetic: projections, triggers on a hand-built encoder, the table of filtered steps, and damped frequencies."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from efface.ops import text_filter

NUDITY, ARTIST = (5.333, 2.5), (5.5, 3.5)


def vectors(count, width=24, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 20), st.integers(0, 1000))
def test_projection(count, seed):
    """P = P P = P^T to 1e-10, of rank K, and equal to C (C^T C)^+ C^T."""
    given_vectors = vectors(count, seed=seed)
    span = text_filter.basis(given_vectors)
    projection = span @ span.T
    assert span.dtype == torch.float64 and torch.linalg.matrix_rank(projection) == count
    torch.testing.assert_close(projection @ projection, projection, rtol=0, atol=1e-10)
    torch.testing.assert_close(projection, projection.T, rtol=0, atol=1e-10)
    columns = given_vectors.double().T
    torch.testing.assert_close(projection, columns @ torch.linalg.pinv(columns), rtol=0, atol=1e-8)


def test_vectors_that_depend_on_each_other_count_once():
    """The same phrase twice, more phrases than dimensions, and none at all."""
    two = vectors(2)
    assert text_filter.basis(torch.cat([two, two[:1], two.sum(0, keepdim=True)])).shape == (24, 2)
    assert text_filter.basis(vectors(40)).shape == (24, 24)
    none = text_filter.basis(torch.zeros(0, 24))
    assert torch.equal(text_filter.outside(none, two), two.double()) and not text_filter.inside(none, two).any()
    assert text_filter.basis(torch.zeros(2, 24)).shape == (24, 0)


def test_what_remains_lies_outside_the_concept_and_inside_the_prompt():
    concept, prompt, states = text_filter.basis(vectors(2)), text_filter.basis(vectors(5, seed=1)), vectors(7, seed=2)
    left = text_filter.remainder(concept, prompt, states)
    torch.testing.assert_close(text_filter.outside(concept, left), left, rtol=0, atol=1e-12)
    torch.testing.assert_close(left, text_filter.outside(concept, text_filter.inside(prompt, states)))


def stub(count, planted, width=64):
    """A prompt of `count` orthogonal words, whose summary is the mean of their vectors; the concept is word `planted`.

    A word left out is replaced by one more orthogonal vector. Gives (concept basis, summaries without each word, whole summary).
    """
    words = torch.eye(width, dtype=torch.float64)[: count + 1]
    blank, words = words[-1], words[:-1]
    without = torch.stack([torch.cat([words[:at], blank[None], words[at + 1 :]]).mean(0) for at in range(count)])
    return text_filter.basis(words[planted : planted + 1]), without, words.mean(0)


@pytest.mark.parametrize("count", range(1, 21))
def test_the_planted_word_alone_is_a_trigger(count):
    """z_j / z_i = sqrt(n / (n - 1)) for the planted word j: above 1.01 up to n = 50, so that it is flagged at every place."""
    for planted in range(count):
        concept, without, whole = stub(count, planted)
        assert text_filter.triggers(concept, without, whole, 0.01) == [at == planted for at in range(count)]
        if count > 1:
            assert not any(text_filter.triggers(concept, without, whole, 10.0))


def test_the_ratio_by_hand():
    """n = 5: without the concept sqrt(5) / 5 of the summary is left, without another word 2 / 5; sqrt(5) / 2 = 1.118."""
    concept, without, whole = stub(5, 2)
    assert text_filter.triggers(concept, without, whole, 0.117)[2]
    assert not text_filter.triggers(concept, without, whole, 0.119)[2]
    concept, without, whole = stub(60, 2)
    assert not any(text_filter.triggers(concept, without, whole, 0.01)), "sqrt(60 / 59) = 1.0084 is below 1.01"


def test_one_word_is_compared_with_the_whole_prompt():
    """The concept alone: without it a vector of length 1 is left, with it none. Another word alone: the same length with and without."""
    width = 8
    cat, dog, blank = torch.eye(width, dtype=torch.float64)[:3]
    concept = text_filter.basis(cat[None])
    assert text_filter.triggers(concept, blank[None], cat, 0.01) == [True]
    assert text_filter.triggers(concept, blank[None], dog, 0.01) == [False]
    assert text_filter.triggers(concept, torch.zeros(0, width), dog, 0.01) == []


@pytest.mark.parametrize(
    ("kind", "near", "steps"),
    [(NUDITY, 0.45, 0), (NUDITY, 0.50, 2), (NUDITY, 0.55, 7), (NUDITY, 0.60, 10), (ARTIST, 0.45, 0), (ARTIST, 0.50, 0), (ARTIST, 0.55, 5), (ARTIST, 0.60, 10)],
)
def test_the_table_of_filtered_steps(kind, near, steps):
    """Nudity as published. Artists by hand: 7 (10 b - 5.5) is -7, -3.5, 0, 3.5; ten times the sigmoid .009, .29, 5, 9.7."""
    assert text_filter.filtered_steps(near, *kind, 10) == steps


@settings(max_examples=50, deadline=None)
@given(st.floats(-5, 5), st.sampled_from([NUDITY, ARTIST]))
def test_the_tanh_form_is_the_same(near, kind):
    middle, slope = kind
    assert text_filter.filtered_steps(near, middle, slope, 10) == round(5 * (math.tanh(slope * (10 * near - middle)) + 1))


def test_nearness_by_hand():
    """Cosines 1 and 0: b = 1 - 1/2."""
    states = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert text_filter.nearness(torch.tensor([[2.0, 0.0], [0.0, 3.0]], dtype=torch.float64), states) == pytest.approx(0.5)


@pytest.mark.parametrize("where", ["low", "high"])
@pytest.mark.parametrize("replace", [True, False])
def test_nothing_is_damped_where_prompts_agree(where, replace):
    features = vectors(3, 64).view(3, 1, 8, 8)
    torch.testing.assert_close(text_filter.reattended(features, features, 0.2, where, replace), features, rtol=0, atol=1e-6)


def test_low_frequencies_by_hand():
    """A flat picture of 2 (its one frequency: 2 * 16 = 32) beside one of 1 (16): replaced by .9 it becomes .9 / 16, halved it is 1."""
    filtered, plain = torch.full((1, 1, 4, 4), 2.0), torch.full((1, 1, 4, 4), 1.0)
    torch.testing.assert_close(text_filter.reattended(filtered, plain, 0.9, "low"), torch.full((1, 1, 4, 4), 0.9 / 16))
    torch.testing.assert_close(text_filter.reattended(filtered, plain, 0.5, "low", replace=False), plain)
    torch.testing.assert_close(text_filter.reattended(plain, filtered, 0.9, "low"), plain, rtol=0, atol=1e-6)
    torch.testing.assert_close(text_filter.reattended(filtered, plain, 0.9, "high"), filtered, rtol=0, atol=1e-6)


def test_high_frequencies_by_hand():
    """Columns +1, -1, ...: one frequency beyond the four lowest, 16 of the plain picture against 8: halved, the stripes are of 1/4."""
    stripes = torch.tensor([1.0, -1.0, 1.0, -1.0]).expand(1, 1, 4, 4)
    found = text_filter.reattended(stripes / 2, stripes, 0.5, "high", replace=False)
    # The frequency at half the width stands in the square of the lowest only where the picture is two wide.
    torch.testing.assert_close(found, stripes / 4, rtol=0, atol=1e-6)
    torch.testing.assert_close(text_filter.reattended(stripes, stripes / 2, 0.5, "high", replace=False), stripes, rtol=0, atol=1e-6)


def test_half_precision_features_keep_their_type():
    assert text_filter.reattended(torch.ones(1, 1, 4, 4).bfloat16(), torch.zeros(1, 1, 4, 4).bfloat16(), 0.9, "low").dtype == torch.bfloat16
