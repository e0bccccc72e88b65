"""Score distillation's loop: a mixture of Gaussians forgets a class from labels alone; samples that are not finite, pieces, clipping, seeds."""

import copy
import dataclasses
import functools

import pytest
import torch
from torch import nn

from efface.core.config import Fit
from efface.core.context import Context
from efface.core.errors import BudgetSpent, Diverged
from efface.families.noising import Schedule
from efface.ops import score_distillation
from efface.ops.score_distillation import Asked, Drawn, Networks, Plan, distill, fake_loss, fake_term, generator_term, one_step

KEPT = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
SHARE = torch.arange(1000, dtype=torch.float64) / 1000
PLAN = Plan(alpha=1.2, start=440, low=38, high=712, forget=1.0, fake_forget=1.0, distil=0, decay=0.9999)


def schedule(kind="epsilon"):
    return Schedule(kind, 1 - SHARE, SHARE) if kind == "flow" else Schedule(kind, KEPT.sqrt(), (1 - KEPT).sqrt())


def with_(**changes):
    """The plan with changes."""
    return dataclasses.replace(PLAN, **changes)


MODES = torch.tensor([[1.5, 1.5], [-1.5, 1.5], [-1.5, -1.5], [1.5, -1.5]])
STD = 0.4
FORGET, OVERRIDE = 0, 1
KIND = "v_prediction"
"""Where nothing else is said."""
RATES = {"epsilon": (800, 5e-4, 3e-3, "linear"), "v_prediction": (300, 1e-3, 2e-3, "constant"), "flow": (300, 1e-3, 2e-3, "constant")}
"""Steps, learning rates of G and psi, and their schedule. With epsilon psi must be far faster than G: at equal rates the
override's own class ends up to half a standard deviation off; with v and flow it does not."""


class Net(nn.Module):
    """A small network over points, steps and class labels."""

    def __init__(self, width=64):
        super().__init__()
        self.label = nn.Embedding(4, 8)
        self.body = nn.Sequential(nn.Linear(18, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2))

    def forward(self, x, t, c):
        angle = t[:, None].float() / 1000 * torch.tensor([1.5, 3.0, 6.0, 12.0])
        return self.body(torch.cat([x, angle.sin(), angle.cos(), self.label(c)], 1))


@functools.cache
def teacher(kind, steps=800):
    """A denoiser of four Gaussians (standard deviation .4) by their labels; the only code here that sees a sample."""
    noising = schedule(kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Net()
        optimizer = torch.optim.Adam(net.parameters(), 5e-3, fused=True)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / steps)
            c, t = torch.randint(4, (256,)), torch.randint(1000, (256,))
            clean, noise = MODES[c] + STD * torch.randn(256, 2), torch.randn(256, 2)
            loss = (net(noising.mix(clean, noise, t), t, c) - noising.target(clean, noise, t)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.requires_grad_(False)


def labels(seen=None, batch=64):
    """Labels of each batch: remaining classes, and the forget class, for which the teacher is asked about the override."""

    def ask(step, who, name):
        own = torch.randint(1, 4, (batch,)) if name == "remain" else torch.full((batch,), FORGET)
        if seen is not None:
            seen.append((step, who, name, own))
        return Asked(own, own if name == "remain" else torch.full((batch,), OVERRIDE), batch)

    return ask


def trained(kind=KIND, steps=0, ask=None, ctx=None, fit=None, **changes):
    """(generator, fake score) after distillation of the mixture's teacher."""
    first = teacher(kind)
    fake, generator = (copy.deepcopy(first).requires_grad_(True) for _ in range(2))
    networks = Networks(schedule(kind), first, fake, generator, list(fake.parameters()), list(generator.parameters()), (2,))
    count, rate, fake_rate, form = RATES[kind]
    fit = fit or Fit.model_validate({"lr": rate, "steps": steps or count, "optimizer": "adam", "schedule": form, "clip": 1.0})
    distill(networks, ask or labels(), with_(**changes), fit, fake_rate, ctx or Context())
    return generator, fake


@functools.cache
def forgotten(kind):
    return trained(kind)


@torch.no_grad()
def samples(generator, label, kind=KIND, count=2000, seed=0):
    noise = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    return one_step(schedule(kind), generator, noise, PLAN.start, torch.full((count,), label))


@torch.no_grad()
def teachers_mean(kind, label, count=2000):
    """Mean of the teacher's own samples, by 50 deterministic steps (DDIM; Euler for a flow)."""
    noising, net = schedule(kind), teacher(kind)
    x = torch.randn(count, 2, generator=torch.Generator().manual_seed(1))
    steps = torch.linspace(999, 0, 51).round().long()
    for t, after in zip(steps[:-1].tolist(), steps[1:].tolist(), strict=True):
        at, to = torch.full((count,), t), torch.full((count,), after)
        clean = noising.clean(x, net(x, at, torch.full((count,), label)), at)
        a, s = noising.factors(at, x)
        x = noising.mix(clean, (x - a * clean) / s, to)
    return x.mean(0)


@pytest.mark.parametrize("kind", [pytest.param("epsilon", marks=pytest.mark.slow), "v_prediction", pytest.param("flow", marks=pytest.mark.slow)])
def test_a_mixture_forgets_a_class_from_labels_alone(kind):
    """Calibration: share near the override's mode at least .998; means at most .22 (epsilon) or .14 standard deviations off, two seeds each."""
    generator, _ = forgotten(kind)
    drawn = samples(generator, FORGET, kind)
    nearer = (drawn - MODES[OVERRIDE]).norm(dim=1) < (drawn - MODES[FORGET]).norm(dim=1)
    assert float(nearer.float().mean()) >= 0.9
    for label in (1, 2, 3):
        of_class = samples(generator, label, kind)
        assert ((of_class.mean(0) - teachers_mean(kind, label)) / STD).abs().max() < 0.3
        assert 0.5 < float(of_class.std(0).mean() / STD) < 1.5  # one step of the teacher gives a quarter of it


def test_only_labels_are_read():
    seen = []
    before = {name: tensor.clone() for name, tensor in teacher(KIND).state_dict().items()}
    trained(steps=3, ask=labels(seen))
    assert all(own.dtype == torch.long and own.shape == (64,) for *_, own in seen)
    assert [(step, who, name) for step, who, name, _ in seen[:5]] == [
        (0, "fake", "remain"), (0, "fake", "forget"), (0, "generator", "remain"), (0, "generator", "forget"), (1, "fake", "remain"),
    ]
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher(KIND).state_dict().items())


def test_without_forget_terms_the_class_stays():
    """Plain distillation: G(c_f) is at the forget mode, and none of it nearer to the override's."""
    ctx = Context()
    generator, _ = trained(steps=150, ctx=ctx, forget=0.0, fake_forget=0.0)
    drawn = samples(generator, FORGET)
    assert float(((drawn - MODES[FORGET]).norm(dim=1) < (drawn - MODES[OVERRIDE]).norm(dim=1)).float().mean()) >= 0.95
    assert (drawn.mean(0) - MODES[FORGET]).abs().max() < 2 * STD
    assert all("generator_forget" not in line and "fake_forget" not in line for line in ctx.curve)


def test_the_fake_score_follows_the_generator():
    """Error of the noise of fresh samples of G(c_f): about .36 of psi, about 4.6 of the teacher, which expects another class there."""
    generator, fake = forgotten(KIND)
    clean = samples(generator, FORGET, seed=7)
    noise, t = torch.randn(clean.shape, generator=torch.Generator().manual_seed(8)), torch.arange(38, 712).repeat(3)[: len(clean)]
    noising = schedule(KIND)
    c, mixed = torch.full((len(clean),), FORGET), noising.mix(clean, noise, t)
    with torch.no_grad():
        own, others = (float(fake_loss(noising, net(mixed, t, c), clean, noise, t).mean()) for net in (fake, teacher(KIND)))
    assert own < 0.5 * others


def test_the_first_stage_does_not_forget():
    ctx = Context()
    trained(steps=4, ctx=ctx, distil=2)
    assert ["generator_forget" in line for line in ctx.curve] == [False, False, True, True]
    assert [line["step"] for line in ctx.curve] == [0, 1, 2, 3] and ctx.spent["steps"] == 4


def test_it_repeats_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    one, _ = trained(steps=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    other, _ = trained(steps=3)
    third, _ = trained(steps=3, ctx=Context(seed=1))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), third.parameters(), strict=True))


def test_pieces_do_not_change_the_result():
    whole, _ = trained(fit=Fit(lr=1e-3, steps=2, optimizer="sgd", clip=0), decay=0.0)
    pieces, _ = trained(fit=Fit(lr=1e-3, steps=2, optimizer="sgd", clip=0, accumulate=4), decay=0.0)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(whole.parameters(), pieces.parameters(), strict=True))


def test_gradients_are_clipped_by_value_and_the_average_rises():
    """SGD at rate 1 with values clipped at .01 moves no weight by more than .01 a step; after one step the average is .1 old + .9 new."""
    last, _ = trained(fit=Fit(lr=1.0, steps=1, optimizer="sgd", clip=0.01), decay=0.0)
    mean, _ = trained(fit=Fit(lr=1.0, steps=1, optimizer="sgd", clip=0.01), decay=0.9999)
    for old, new, average in zip(teacher(KIND).parameters(), last.parameters(), mean.parameters(), strict=True):
        assert (new - old).abs().max() <= 0.01 + 1e-6
        assert torch.allclose(average, 0.1 * old + 0.9 * new, atol=1e-6)
    assert max(float((new - old).detach().abs().max()) for old, new in zip(teacher(KIND).parameters(), last.parameters(), strict=True)) > 0.009


def broken(net, bad):
    """The network, with NaN for samples whose label is `bad`."""

    def say(x, t, c):
        return torch.where((c == bad)[:, None], x.new_tensor(float("nan")), net(x, t, c.clamp(max=3)))

    return say


@pytest.mark.parametrize("who", ["fake", "generator"])
def test_samples_that_are_not_finite_are_left_out_of_the_mean(who):
    """Label 9 breaks the network that is trained; loss and gradients are those of the five other samples, divided by five."""
    nets = {name: copy.deepcopy(teacher(KIND)).requires_grad_(True) for name in ("fake", "generator")}
    says = {name: broken(net, 9 if name == who else -1) for name, net in nets.items()}
    weights = list(nets[who].parameters())
    networks = Networks(schedule(KIND), teacher(KIND), says["fake"], says["generator"], [], [], (2,))
    own = torch.tensor([0, 9, 1, 2, 9, 3, 1])
    safe, fine = own.clamp(max=3), own != 9
    source = torch.Generator().manual_seed(0)
    drawn = Drawn(torch.randn(7, 2, generator=source), torch.randn(7, 2, generator=source), torch.tensor([50, 100, 200, 300, 400, 500, 600]))
    term = {"fake": fake_term, "generator": generator_term}[who]
    value, found, valid = score_distillation._mean(networks, PLAN, Asked(own, safe, 7), drawn, term, weights, Fit())
    alone = term(networks, PLAN, Asked(own[fine], safe[fine], 5), Drawn(*(part[fine] for part in drawn))).mean()
    expected = torch.autograd.grad(alone, weights)
    assert valid == 5 and value == pytest.approx(float(alone.detach()), rel=1e-5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))
    assert sum(float(gradient.norm()) for gradient in found) > 0


def test_a_run_without_a_finite_sample_stops():
    fake, generator = (copy.deepcopy(teacher(KIND)).requires_grad_(True) for _ in range(2))
    networks = Networks(schedule(KIND), teacher(KIND), broken(fake, 0), generator, list(fake.parameters()), list(generator.parameters()), (2,))
    with pytest.raises(Diverged, match="fake's forget loss is not finite for any sample at step 0"):
        distill(networks, labels(), PLAN, Fit(lr=1e-3, steps=2), 1e-3, Context())


def test_it_keeps_to_its_budget():
    with pytest.raises(BudgetSpent):
        trained(steps=5, ctx=Context(budget={"steps": 2}))


def test_rates_warm_up_and_fall():
    """Warm-up over 2 of 4 steps, linear: G at .5, .75, .5, .25 of its rate; SGD with gradients clipped far below their size moves by just that."""
    seen = []
    weight = nn.Parameter(torch.zeros(1))
    fake = nn.Parameter(torch.zeros(1))


    def generator(x, t, c):
        seen.append(weight.item())
        return x * 0 + weight * 100

    networks = Networks(schedule(), lambda x, t, c: 0.5 * x, lambda x, t, c: 100 * fake + x, generator, [fake], [weight], (1,))
    ctx = Context()
    distill(networks, labels(), with_(decay=0.0), Fit(lr=1.0, steps=4, optimizer="sgd", clip=1e-6, warmup=2, schedule="linear"), 1.0, ctx)
    places = [seen[at] for at in range(0, len(seen), 4)] + [weight.item()]
    moved = [abs(after - before) / 1e-6 for before, after in zip(places, places[1:], strict=False)]
    assert moved == pytest.approx([0.5, 0.75, 0.5, 0.25], rel=1e-3)
