"""Columns read as tokens: what the reference promises, and numbers by hand."""

import numpy as np
import pytest
import torch

from efface.ops import value_vectors
from efface.ops.value_vectors import compare, content, noise, noise_score, purity, ranked, removal_score, search, top


def test_top_by_hand():
    """E has the tokens (1, 0), (0, 1), (1, 1), (-1, 0): v = (2, 1) projects to 2, 1, 3, -2."""
    embedding = torch.tensor([[1.0, 0], [0, 1], [1, 1], [-1, 0]])
    assert top(torch.tensor([[2.0], [1.0]]), embedding, 3).tolist() == [[2, 0, 1]]
    assert top(torch.tensor([[2.0], [1.0]]), embedding, 9).shape == (1, 4)


def test_the_same_column_is_untouched():
    """Jaccard 1, cosine 1, L2 0, both rates 1."""
    column = torch.randn(64, generator=torch.Generator().manual_seed(0))
    found = compare(column, column.clone(), (range(200), range(200)), set(range(150, 400)))
    assert found == pytest.approx((1.0, 1.0, 0.0, 1.0, 1.0), abs=1e-12)


def test_numbers_by_hand():
    """Top(u) = {1, 2, 3}, Top(o) = {2, 3, 4, 5}, W = {1, 3, 4, 9}: Jaccard 2/5, words 2/2, both 1/2; u = (3, 4), o = (3, 0): cosine 3/5, L2 4."""
    found = compare(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 0.0]), ([1, 2, 3], [2, 3, 4, 5]), {1, 3, 4, 9})
    assert found == pytest.approx((0.4, 0.6, 4.0, 1.0, 0.5))


def test_without_words_among_the_original_s_tokens_there_is_no_rate():
    found = compare(torch.ones(2), torch.ones(2), ([1], [2]), {1})
    assert found.words is None and found.both is None


def test_a_fresh_column_shares_almost_no_token():
    """Gaussian columns in d = 4096 under a vocabulary of 32,000: Jaccard below 0.02."""
    source = torch.Generator().manual_seed(0)
    embedding = torch.randn(32000, 4096, generator=source)
    columns = torch.randn(4096, 4, generator=source)
    tops = top(columns, embedding).tolist()
    assert max(compare(columns[:, 0], columns[:, at], (tops[0], tops[at]), set()).jaccard for at in (1, 2, 3)) < 0.02


def test_purity_and_its_order_by_hand():
    """Token t is the unit vector t, so a column's top tokens are its largest entries; W = {0, 1}."""
    matrix = torch.tensor([[9.0, 9, 0], [8, 0, 1], [0, 8, 9], [1, 1, 8]])
    assert purity(matrix, torch.eye(4), {0, 1}, 2).tolist() == [1.0, 0.5, 0.0]
    first, second, third = ranked([purity(matrix, torch.eye(4), {0, 1}, 2)])
    assert (first.column, second.column, third.column) == (0, 1, 2)
    assert first.z == pytest.approx(0.5 / np.std([1, 0.5, 0])) and second.z == pytest.approx(0.0)


def test_search_looks_at_all_layers_together():
    matrices = [torch.eye(4)[:, [2, 3]], torch.eye(4)[:, [3, 0]]]
    best = search(matrices, torch.eye(4), {0}, 1)[0]
    assert (best.layer, best.column, best.purity) == (1, 1, 1.0)
    assert {one.z for one in search([torch.ones(4, 2)], torch.eye(4), set(), 1)} == {0.0}


def test_content_leaves_stop_words_and_marks_out():
    found = content([(1, " Poland"), (2, " The"), (3, "the"), (4, "."), (5, "123"), (6, "Wars"), (7, " "), (8, "Żół"), (9, " C"), (10, "京")])
    assert found == {1, 6, 8, 10}


def test_scores_by_hand():
    """One row of two positions, a = (1, 2), (3, 0), g = (1, 1), (0, 2), columns (1, 0) and (0, 1).

    Noise 0.1: 0.005 * (1 * 2 + 9 * 4, 4 * 2 + 0). Removal: g v = (1, 1), (0, 2); 1/2 * (1^2 + 0, 2^2 + 0).
    """
    read, gradients = torch.tensor([[[1.0, 2], [3, 0]]]), torch.tensor([[[1.0, 1], [0, 2]]])
    assert noise_score(read, gradients, 0.1).tolist() == pytest.approx([0.19, 0.04])
    assert removal_score(read, gradients, torch.eye(2)).tolist() == pytest.approx([0.5, 2.0])
    twice = torch.cat([read, read]), torch.cat([gradients, gradients])
    assert noise_score(*twice, 0.1).tolist() == pytest.approx([0.38, 0.08])
    assert removal_score(*twice, torch.eye(2)).tolist() == pytest.approx([1.0, 4.0])


def test_noise_depends_on_place_and_seed_alone():
    one = noise(3, 7, 5000, 0.1, 0)
    assert torch.equal(one, noise(3, 7, 5000, 0.1, 0))
    assert not torch.equal(one, noise(3, 8, 5000, 0.1, 0)) and not torch.equal(one, noise(4, 7, 5000, 0.1, 0)) and not torch.equal(one, noise(3, 7, 5000, 0.1, 1))
    assert float(one.std()) == pytest.approx(0.1, rel=0.05) and abs(float(one.mean())) < 0.01
    assert not torch.equal(one, noise(3, 7, 5000, 0.1, 2**33 + 5))


def test_stop_words_are_small():
    assert all(word == word.casefold() and word.isalpha() for word in value_vectors.STOP_WORDS)
