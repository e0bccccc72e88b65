"""Accountants against known values, and the exponential mechanism against its promise."""

import math

import pytest
import torch

pytest.importorskip("opacus")

from efface.core.errors import BadConfig, Missing, Unsound
from efface.ops import private
from efface.ops.private import count_epsilon, exponential, likeness, noise_for


@pytest.mark.parametrize(
    ("rate", "noise", "steps", "delta", "epsilon"),
    [
        (0.01, 1.1, 1000, 1e-5, 1.7118), (0.01, 1.0, 10000, 1e-5, 6.7127), (0.1, 2.0, 100, 1e-5, 2.5806), (1.0, 5.0, 100, 1e-5, 10.7255),
        (1.0, 1.0, 1, 1e-5, 4.7285), (0.004, 1.0, 2500, 1e-12, 3.0547),
    ],
)  # fmt: skip
def test_epsilon_by_renyi_divergences(rate, noise, steps, delta, epsilon):
    """For q < 1 the divergence at integer a is log(sum_i C(a, i) (1 - q)^(a - i) q^i exp((i^2 - i) / (2 noise^2))) / (a - 1)."""
    assert count_epsilon(noise, rate, steps, delta) == pytest.approx(epsilon, abs=1e-4)


def test_one_gaussian_by_hand():
    """q = 1, noise 1, one step: rdp(a) = a / 2 and epsilon = a / 2 - (log delta + log a) / (a - 1) + log((a - 1) / a), least over orders.

    The exact epsilon solves Phi(1/2 - e) - e^e Phi(-1/2 - e) = delta; it is 4.3772, and the bound must not be below it.
    """
    delta = 1e-5
    orders = [1 + x / 10 for x in range(1, 100)] + list(range(12, 64))
    bound = min(a / 2 - (math.log(delta) + math.log(a)) / (a - 1) + math.log((a - 1) / a) for a in orders)
    assert count_epsilon(1.0, 1.0, 1, delta) == pytest.approx(bound, abs=1e-9)

    def phi(z):
        return 0.5 * math.erfc(-z / math.sqrt(2))

    exact = 4.3772
    assert phi(0.5 - exact) - math.exp(exact) * phi(-0.5 - exact) == pytest.approx(delta, rel=1e-3)
    assert bound >= exact


def test_epsilon_moves_the_right_way():
    """It grows with steps and sampling rate and falls with noise; halving the noise raises it; without noise there is no bound."""
    base = count_epsilon(2.0, 0.1, 20, 1e-5)
    assert count_epsilon(2.0, 0.1, 40, 1e-5) > base and count_epsilon(2.0, 0.2, 20, 1e-5) > base and count_epsilon(2.0, 0.1, 20, 1e-7) > base
    assert count_epsilon(4.0, 0.1, 20, 1e-5) < base < count_epsilon(1.0, 0.1, 20, 1e-5)
    assert count_epsilon(0.0, 0.1, 20, 1e-5) == math.inf


def test_privacy_loss_distributions_are_tighter():
    assert count_epsilon(1.0, 1.0, 1, 1e-5, "prv") == pytest.approx(4.3772, abs=0.02)
    assert count_epsilon(1.0, 1.0, 1, 1e-5, "prv") < count_epsilon(1.0, 1.0, 1, 1e-5)


def test_noise_keeps_to_epsilon():
    noise = noise_for(3.0, 1e-5, 1.0, 10)
    assert 2.97 <= count_epsilon(noise, 1.0, 10, 1e-5) <= 3.0 < count_epsilon(noise * 0.99, 1.0, 10, 1e-5) + 0.03
    small = noise_for(0.2, 1e-5, 1.0, 1)
    assert 0.19 <= count_epsilon(small, 1.0, 1, 1e-5) <= 0.2


def test_what_cannot_be_counted_is_said(monkeypatch):
    """The mesh of the prv accountant grows as delta falls, until rounding is more than delta."""
    with pytest.raises(Unsound, match="accountant 'prv' cannot count this: Floating point errors will dominate"):
        count_epsilon(1.0, 1.0, 1, 1e-18, "prv")
    with pytest.raises(BadConfig, match="epsilon = 5 at delta = 1e-18: the accountant 'prv' finds no noise for 1 steps.*take accountant = rdp"):
        noise_for(5.0, 1e-18, 1.0, 1, "prv")
    with pytest.raises(BadConfig, match="the accountant 'rdp' finds no noise.*budget is too low"):
        noise_for(1e-9, 1e-5, 1.0, 10)
    monkeypatch.setitem(__import__("sys").modules, "opacus", None)
    with pytest.raises(Missing, match="efface\\[dp\\]"):
        private.count_epsilon(1.5, 1.0, 3, 1e-5)


@pytest.mark.slow
def test_prv_at_a_large_epsilon_and_tiny_delta():
    """Epsilon 100 at delta 1e-12, 4000 rows, batch 16, 10 epochs: noise 0.3 gives it, and halving from 10 the search meets 0.16 before."""
    with pytest.raises(Unsound, match="Floating point errors will dominate"):
        count_epsilon(0.25, 16 / 4000, 2500, 1e-12, "prv")


@pytest.mark.parametrize(("low", "sensitivity"), [(-1.0, 2.0), (0.0, 1.0)])
def test_no_output_tells_two_inputs_apart(low, sensitivity):
    """10,000 pairs of random utility tables in the range [low, 1], extremes among them: |log P(v | w) - log P(v | w')| <= epsilon."""
    source = torch.Generator().manual_seed(0)
    for epsilon in (0.1, 1.0, 10.0, 100.0):
        one, other = (torch.rand(2500, 20, generator=source, dtype=torch.double) * (1 - low) + low for _ in range(2))
        extreme = torch.rand(2500, 20, generator=source) < 0.5  # the worst case: all at one end or the other
        half = torch.arange(2500) % 2 == 0
        one[half], other[half] = torch.where(extreme, 1.0, low).double()[half], torch.where(extreme, low, 1.0).double()[half]
        gap = (exponential(one, epsilon, sensitivity) - exponential(other, epsilon, sensitivity)).abs().max()
        assert 0.5 * epsilon < gap <= epsilon * (1 + 1e-9)


def test_by_hand():
    """Utilities 1 and 0, epsilon 2, sensitivity 1: P ~ exp(1), exp(0), so 0.7311 and 0.2689. Epsilon 0 draws any."""
    assert exponential(torch.tensor([1.0, 0.0]), 2.0, 1.0).exp().tolist() == pytest.approx([0.731059, 0.268941], abs=1e-6)
    assert exponential(torch.tensor([1.0, -1.0]), 0.0, 2.0).exp().tolist() == [0.5, 0.5]
    with pytest.raises(BadConfig, match="needs epsilon of at least 0 and a sensitivity above 0"):
        exponential(torch.zeros(2), 1.0, 0.0)


def test_likeness_keeps_to_its_range():
    """Cosines: equal 1, opposite -1, a vector of zeros 0; raised to 0 where they are below."""
    words, table = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert likeness(words, table)[0].tolist() == pytest.approx([1.0, -1.0, 0.0, 0.5**0.5]) and likeness(words, table)[1].tolist() == [0.0] * 4
    assert likeness(words, table, 0.0)[0].tolist() == pytest.approx([1.0, 0.0, 0.0, 0.5**0.5])
    source = torch.Generator().manual_seed(0)
    random = likeness(torch.randn(50, 8, generator=source), torch.randn(60, 8, generator=source))
    assert -1.0 <= float(random.min()) and float(random.max()) <= 1.0
