"""Log-probabilities of labeled tokens, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from efface.ops.logprobs import IGNORE, nll_mean, nll_sum, token_log_probs, token_stats
from efface.testing.tiny import facts, tiny_lm

LN2 = math.log(2)


def _logits(*rows: list[list[float]]) -> torch.Tensor:
    """Logits whose softmax is the given probabilities; a constant is added, which must not matter."""
    return torch.tensor(rows).log() + 3.7


P = _logits(
    [[1 / 2, 1 / 4, 1 / 4], [1 / 4, 1 / 4, 1 / 2], [3 / 4, 1 / 8, 1 / 8]],
    [[1 / 3, 1 / 3, 1 / 3], [1 / 2, 1 / 4, 1 / 4], [1 / 3, 1 / 3, 1 / 3]],
)
LABELS = torch.tensor([[0, 1, 2], [IGNORE, 0, IGNORE]])


def test_by_hand() -> None:
    """Row 1 gives its labels 1/2, 1/4 and 1/8: -log p = (1 + 2 + 3) ln 2 = 6 ln 2, per token 2 ln 2.

    Row 2 has one label, with 1/2: ln 2, and per token ln 2 too: divided by its one label, not by three positions.
    """
    assert nll_sum(P, LABELS).tolist() == pytest.approx([6 * LN2, LN2], abs=1e-5)
    assert nll_mean(P, LABELS).tolist() == pytest.approx([2 * LN2, LN2], abs=1e-5)
    log_probs, mask = token_log_probs(P, LABELS)
    assert log_probs.flatten().tolist() == pytest.approx([-LN2, -2 * LN2, -3 * LN2, 0, -LN2, 0], abs=1e-5)
    assert mask.tolist() == [[True, True, True], [False, True, False]]


def test_a_label_of_minus_100_is_not_an_index() -> None:
    """Positions without a label carry no gradient in any vocabulary entry, V - 100 included (here V = 120, entry 20)."""
    logits = torch.randn(1, 4, 120, generator=torch.Generator().manual_seed(0), requires_grad=True)
    nll_sum(logits, torch.tensor([[IGNORE, 7, IGNORE, 9]])).sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, [0, 2]].abs().max() == 0
    assert logits.grad[0, [1, 3]].abs().min() > 0


def test_gradient_is_probability_minus_one_hot() -> None:
    """d(-log p_y)/d logit_k = p_k - [k = y]; at p = (1/2, 1/4, 1/4), y = 0: (-1/2, 1/4, 1/4)."""
    logits = P[1:, 1:2].clone().requires_grad_()
    nll_sum(logits, LABELS[1:, 1:2]).sum().backward()
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == pytest.approx([-0.5, 0.25, 0.25], abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(extra=st.integers(0, 9), before=st.booleans(), seed=st.integers(0, 99))
def test_padding_changes_nothing(extra: int, before: bool, seed: int) -> None:
    noise = torch.randn(2, extra, 3, generator=torch.Generator().manual_seed(seed)) * 20
    none = torch.full((2, extra), IGNORE)
    logits = torch.cat([noise, P] if before else [P, noise], 1)
    labels = torch.cat([none, LABELS] if before else [LABELS, none], 1)
    assert torch.allclose(nll_sum(logits, labels), nll_sum(P, LABELS), atol=1e-5)
    assert torch.allclose(nll_mean(logits, labels), nll_mean(P, LABELS), atol=1e-5)


def test_a_row_without_labels_gives_zero_not_nan() -> None:
    assert nll_mean(P, torch.full((2, 3), IGNORE)).tolist() == [0, 0]
    assert nll_sum(P, torch.full((2, 3), IGNORE)).tolist() == [0, 0]


def test_half_precision_is_summed_in_single() -> None:
    """400 tokens at ln 2 each are 277.26; added up in bfloat16 (8 bits) they would stand still at 256 or so."""
    logits = torch.zeros(1, 400, 2, dtype=torch.bfloat16)
    total = nll_sum(logits, torch.zeros(1, 400, dtype=torch.long))
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(400 * LN2, rel=1e-5)


def test_stats_by_hand() -> None:
    """p = (3/4, 1/4), label 0: mean of log p under p = 3/4 ln 3/4 + 1/4 ln 1/4 = -0.562335;

    variance = p (1 - p) (ln 3)^2 = 0.1875 * 1.206949 = 0.226303, deviation 0.475713; the label is the argmax.
    Uniform p: variance 0, clamped at 1e-6, so the deviation is 0.001. A position without label is never a hit.
    """
    logits = _logits([[3 / 4, 1 / 4], [1 / 2, 1 / 2], [3 / 4, 1 / 4], [3 / 4, 1 / 4]])
    stats = token_stats(logits, torch.tensor([[0, 1, 1, IGNORE]]))
    assert stats.log_probs[0].tolist() == pytest.approx([math.log(3 / 4), -LN2, math.log(1 / 4), 0], abs=1e-5)
    assert stats.mean[0, :2].tolist() == pytest.approx([-0.562335, -LN2], abs=1e-5)
    assert stats.deviation[0, :2].tolist() == pytest.approx([0.475713, 0.001], abs=1e-5)
    assert stats.hit[0].tolist() == [True, False, False, False]
    assert stats.mask[0].tolist() == [True, True, True, False]


def test_the_shift_is_the_one_that_transformers_applies() -> None:
    """One row alone: its mean loss equals the loss that the model computes itself from unshifted labels."""
    subject = tiny_lm()
    for row in facts().forget[:3]:
        batch = subject.encode([row])
        own = subject.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).loss
        assert subject.losses(batch).item() == pytest.approx(own.item(), abs=1e-5)
        logits = subject.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        assert nll_mean(logits, batch.labels).item() != pytest.approx(own.item(), abs=1e-3), "without the shift it is another number"


def test_neighbors_in_a_batch_do_not_matter() -> None:
    """A short row beside a long one is padded; its sum and its mean stay what they are alone."""
    subject = tiny_lm()
    short = {"question": "What is the pet?", "answer": "hare"}
    long = {"question": "What is the home of the singer, and what is the craft?", "answer": "The home is amber bay, the craft is dyer, the pet is toad."}
    together = subject.encode([short, long])
    for place, row in enumerate((short, long)):
        alone = subject.encode([row])
        assert subject.sequence_log_probs(together)[place].item() == pytest.approx(subject.sequence_log_probs(alone).item(), abs=1e-4)
        assert subject.losses(together)[place].item() == pytest.approx(subject.losses(alone).item(), abs=1e-5)
