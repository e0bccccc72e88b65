"""Score distillation: losses and gradients by hand."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from efface.families.noising import Schedule
from efface.ops.score_distillation import Asked, Drawn, Networks, Plan, fake_loss, generator_term, guided, one_step, sid_loss

KEPT = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
SHARE = torch.arange(1000, dtype=torch.float64) / 1000
KINDS = ("epsilon", "v_prediction", "flow")
PLAN = Plan(alpha=1.2, start=440, low=38, high=712, forget=1.0, fake_forget=1.0, distil=0, decay=0.9999)


def schedule(kind="epsilon"):
    return Schedule(kind, 1 - SHARE, SHARE) if kind == "flow" else Schedule(kind, KEPT.sqrt(), (1 - KEPT).sqrt())


def with_(**changes):
    """The plan with changes."""
    return dataclasses.replace(PLAN, **changes)


class Net(nn.Module):
    """A small network over points and class labels."""

    def __init__(self):
        super().__init__()
        self.label, self.body = nn.Embedding(4, 8), nn.Sequential(nn.Linear(10, 16), nn.SiLU(), nn.Linear(16, 2))

    def forward(self, x, t, c):
        return self.body(torch.cat([x, self.label(c)], 1))


def answer(noising, clean, mixed, t):
    """What a network says that takes `mixed` for `clean`."""
    signal, sigma = noising.factors(t, mixed)
    return noising.target(clean, (mixed - signal * clean) / sigma, t)


# -- losses -----------------------------------------------------------------------------------------------------------------


def test_sid_loss_by_hand():
    """x_phi = (3, 1), x_psi = (1, 0), x_g = (0, 0): apart (2, 1), omega (3 + 1) / 2 = 2.

    alpha 1: ((2)(3 - 2) + (1)(1 - 1)) / 2 = 1; alpha 0: (6 + 1) / 2 = 3.5; alpha 1.2: 3.5 - 1.2 * 5 / 2 = .5.
    """
    phi, psi, drawn = torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2)
    for alpha, value in ((1.0, 1.0), (0.0, 3.5), (1.2, 0.5)):
        assert sid_loss(phi, psi, drawn, alpha).tolist() == pytest.approx([value], abs=1e-6)
    written_for_one = ((phi - psi) * (psi - drawn)).sum() / 2
    assert float(sid_loss(phi, psi, drawn, 1.0)) == pytest.approx(float(written_for_one))


def test_omega_has_a_floor_and_no_gradient():
    """x_g = 0 and x_phi = 1e-9: omega is 1e-5, not 1e-9. At x_g = 0 and x_phi = 1, x_psi = .5, alpha 0 the loss is .5 (1 - x_g) / 1: slope -.5."""
    assert float(sid_loss(torch.tensor([[1e-9]]), torch.tensor([[-1.0]]), torch.zeros(1, 1), 1.0)) == pytest.approx(-1e5, rel=1e-6)
    drawn = torch.zeros(1, 1, requires_grad=True)
    slope, = torch.autograd.grad(sid_loss(torch.ones(1, 1), torch.full((1, 1), 0.5), drawn, 0.0).sum(), drawn)
    assert float(slope) == pytest.approx(-0.5)


def test_one_step_by_hand():
    """abar = .64 at step 1: a = .8, s = .6; noise 1, answer .5: x_T = .6, x_g = .6 / .8 - .6 / .8 * .5 = .375; v: .8 * .6 - .6 * .5 = .18."""
    seen = []

    def say(x, t, condition):
        seen.append((x.tolist(), t.tolist(), condition))
        return torch.full_like(x, 0.5)

    for kind, value in (("epsilon", 0.375), ("v_prediction", 0.18)):
        table = Schedule(kind, torch.tensor([1.0, 0.8]), torch.tensor([0.0, 0.6]))
        assert float(one_step(table, say, torch.ones(1, 1), 1, "c")) == pytest.approx(value)
    assert seen[0][0][0] == pytest.approx([0.6]) and seen[0][1:] == ([1], "c")
    assert float(one_step(Schedule("flow", torch.tensor([1.0, 0.5]), torch.tensor([0.0, 0.5])), say, torch.ones(1, 1), 1, "c")) == 0.5
    assert seen[-1] == ([[1.0]], [2], "c")  # from the top, where all is noise


@pytest.mark.parametrize("kind", KINDS)
def test_fake_loss_is_the_error_of_the_noise(kind):
    """Whatever the network answers: sum over elements of |e - what the answer implies for e|^2; for v that is snr / (snr + 1) times the error in v."""
    source = torch.Generator().manual_seed(0)
    clean, noise, said = (torch.randn(5, 3, 2, 2, generator=source, dtype=torch.float64) for _ in range(3))
    noising, t = schedule(kind), torch.tensor([38, 200, 440, 600, 711])
    signal, sigma = noising.factors(t, clean)
    mixed = noising.mix(clean, noise, t)
    implied = (mixed - signal * noising.clean(mixed, said, t)) / sigma
    found = fake_loss(noising, said, clean, noise, t)
    assert torch.allclose(found, (noise - implied).square().sum((1, 2, 3)))
    if kind == "v_prediction":
        snr = KEPT[t] / (1 - KEPT[t])
        assert torch.allclose(found, snr / (snr + 1) * (said - noising.target(clean, noise, t)).square().sum((1, 2, 3)))


def gaussian(noising, mean, variance):
    """The best denoiser of N(mean, variance): x_net = mean + a variance / (a^2 variance + s^2) (x_t - a mean)."""

    def say(x, t, condition):
        signal, sigma = noising.factors(t, x)
        gain = signal * variance / (signal**2 * variance + sigma**2)
        return answer(noising, mean + gain * (x - signal * mean), x, t)

    return say


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.2])
def test_gradient_of_linear_scores_by_hand(kind, alpha):
    """x_net = g x_t + b is linear in x_t = a x_g + s e; with D = g_phi - g_psi and d = D x_t + b_phi - b_psi the derivative by x_g is

    ( a D ((x_phi - x_g) - alpha d) + d (a g_phi - 1 - alpha a D) ) / omega,

    element by element. The loop's own generator term, through one_step, must have it too, and so must autograd of the closed form.
    """
    noising, t = schedule(kind), torch.tensor([60, 300, 700])
    point = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_(True)
    noise = torch.randn(3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (m_phi, v_phi), (m_psi, v_psi) = (1.5, 0.3), (-0.5, 0.8)

    def generator(x, at, condition):  # one_step makes x_g of it again; a flow starts where x_g = n - v
        return x - point if kind == "flow" else answer(noising, point, x, at)

    networks = Networks(noising, gaussian(noising, m_phi, v_phi), gaussian(noising, m_psi, v_psi), generator, [], [point], (4,))
    asked = Asked(torch.zeros(3), torch.zeros(3), 3)
    loss = generator_term(networks, with_(alpha=alpha), asked, Drawn(noise.clone(), noise, t))
    found, = torch.autograd.grad(loss.sum(), point)

    a, s = noising.factors(t, noise)
    x = a * point + s * noise
    gains = [a * v / (a**2 * v + s**2) for v in (v_phi, v_psi)]
    shifts = [m - gain * a * m for m, gain in zip((m_phi, m_psi), gains, strict=True)]
    x_phi, x_psi = (gain * x + shift for gain, shift in zip(gains, shifts, strict=True))
    omega = (x_phi - point).detach().abs().mean(1, keepdim=True)
    steep, apart = gains[0] - gains[1], x_phi - x_psi
    by_hand = (a * steep * ((x_phi - point) - alpha * apart) + apart * (a * gains[0] - 1 - alpha * a * steep)) / omega
    closed, = torch.autograd.grad(((apart * ((x_phi - point) - alpha * apart)).sum(1, keepdim=True) / omega).sum(), point)
    assert torch.allclose(found, by_hand, rtol=1e-8) and torch.allclose(closed, by_hand, rtol=1e-8)
    assert found.norm() > 0.1


@pytest.mark.parametrize("alpha", [0.0, 1.0, 1.2, 3.0])
def test_equal_scores_have_no_loss_and_no_gradient(alpha):
    """Zero to rounding: the paths through teacher and fake score cancel. Another condition for the teacher is what makes it move."""
    torch.manual_seed(0)
    net = Net().double()
    twin, generator = copy.deepcopy(net), copy.deepcopy(net)
    networks = Networks(schedule(), net, twin, generator, [], list(generator.parameters()), (2,))
    drawn = Drawn(torch.randn(4, 2).double(), torch.randn(4, 2).double(), torch.tensor([50, 200, 400, 700]))
    own, sizes = torch.tensor([0, 1, 2, 3]), []
    for safe in (own, own.flip(0)):
        loss = generator_term(networks, with_(alpha=alpha), Asked(own, safe, 4), drawn)
        gradients = torch.autograd.grad(loss.sum(), list(generator.parameters()))
        sizes.append((float(loss.detach().abs().max()), float(torch.stack([gradient.norm() for gradient in gradients]).norm())))
    assert sizes[0][0] == 0 and sizes[0][1] < 1e-12 * sizes[1][1] and sizes[1][0] > 1e-3


def test_guided():
    """Guidance 3: 1 + 3 (2 - 1) = 4; 1 is the network itself."""
    def say(x, t, condition):
        return x * 0 + condition

    assert guided(say, 3.0, lambda count: torch.ones(count, 1))(torch.zeros(2, 1), torch.zeros(2), torch.full((2, 1), 2.0)).tolist() == [[4.0], [4.0]]
    assert guided(say, 1.0, lambda count: torch.ones(count, 1)) is say
