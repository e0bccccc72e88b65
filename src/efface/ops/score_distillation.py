"""Score identity distillation (SiD, arXiv:2404.04057) and its forgetting variant (SFD, arXiv:2409.11219): losses and the loop of two optimizers.

Three networks that answer about noisy samples: the teacher phi (frozen), the fake score psi, which learns the score of what
the generator G draws, and G itself, which draws in one step:

    x_T = s_i n,    x_g = (x_T - s_i e_G(x_T, t_i, c)) / a_i            a, s: factors of signal and noise; i: the generator's step
    x_t = a x_g + s e,    x_net = (x_t - s e_net(x_t, t, c)) / a        what a network takes x_g for

    psi:  sum over elements |e - e_psi(x_t, t, c)|^2
    G:    sum over elements (x_phi - x_psi) . [(x_phi - x_g) - alpha (x_phi - x_psi)] / omega,    omega = stopgrad mean |x_phi - x_g|

Nothing is read but conditions. To forget, the teacher is asked about another condition than G and psi.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from efface.core.config import Fit
from efface.core.context import Context
from efface.core.errors import Diverged
from efface.ops.loop import optimizer_for, peak_mb

Say = Callable[[Tensor, Tensor, Any], Tensor]
"""A network: its raw answer about noisy samples (B, ...) at training steps (B,), given one condition a sample."""
FLOOR = 1e-5
"""Least omega."""
BETAS = (0.0, 0.999)
"""Of Adam: no momentum, because each network's target moves with the other network."""


class Noising(Protocol):
    """A noise schedule; `kind` is "epsilon", "v_prediction" or "flow"."""

    @property
    def kind(self) -> str: ...
    @property
    def steps(self) -> int: ...
    def factors(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]: ...
    def mix(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor: ...
    def target(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor: ...
    def clean(self, mixed: Tensor, said: Tensor, t: Tensor) -> Tensor: ...


# -- losses -----------------------------------------------------------------------------------------------------------------


def one_step(schedule: Noising, say: Say, noise: Tensor, start: int, condition: Any) -> Tensor:
    """Samples x_g (B, ...) drawn in one step from standard noise of the same shape; a flow starts from pure noise, whatever `start`."""
    if schedule.kind == "flow":
        return noise - say(noise, torch.full((len(noise),), schedule.steps), condition)
    t = torch.full((len(noise),), start)
    mixed = schedule.factors(t, noise)[1] * noise
    return schedule.clean(mixed, say(mixed, t, condition), t)


def fake_loss(schedule: Noising, said: Tensor, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Squared error (B,) of the noise that an answer about mix(clean, noise, t) implies, summed over elements.

    For v-prediction that is the error in v times a^2 = snr / (snr + 1); so it is, times a^2, for a flow.
    """
    error = (said - schedule.target(clean, noise, t)).square().flatten(1).sum(1)
    if schedule.kind == "epsilon":
        return error
    return schedule.factors(t, clean)[0].flatten().square() * error


def sid_loss(x_phi: Tensor, x_psi: Tensor, x_g: Tensor, alpha: float) -> Tensor:
    """The generator's loss (B,) from what teacher and fake score take x_g for, and x_g, all (B, ...)."""
    omega = (x_phi - x_g).detach().abs().flatten(1).mean(1).clamp_min(FLOOR)
    apart = x_phi - x_psi
    return (apart * ((x_phi - x_g) - alpha * apart)).flatten(1).sum(1) / omega


def guided(say: Say, scale: float, blank: Callable[[int], Any]) -> Say:
    """The network with classifier-free guidance; `blank(B)` gives the empty condition B times. Scale 1 is the network itself."""
    if scale == 1:
        return say

    def both(x: Tensor, t: Tensor, condition: Any) -> Tensor:
        free = say(x, t, blank(len(x)))
        return free + scale * (say(x, t, condition) - free)

    return both


# -- the loop ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Networks:
    """Who takes part, and which tensors are trained."""

    schedule: Noising
    teacher: Say
    fake: Say
    generator: Say
    fake_weights: Sequence[Tensor]
    generator_weights: Sequence[Tensor]
    shape: tuple[int, ...]
    """Of one sample."""


@dataclass(frozen=True)
class Plan:
    """Settings of a distillation."""

    alpha: float
    start: int
    """Training step at which the generator works."""
    low: int
    high: int
    """Noise for both losses is of steps low to high - 1."""
    forget: float
    fake_forget: float
    """Weights of the forget terms of G and psi, beside the remain terms' 1; 0 leaves a term out."""
    distil: int
    """How many of the first steps have no forget terms."""
    decay: float
    """Of the average of G's weights."""


class Asked(NamedTuple):
    """Conditions of one batch, each to be indexed by positions (B,)."""

    own: Any
    """What generator and fake score are asked for."""
    safe: Any
    """What the teacher is asked for."""
    size: int


class Drawn(NamedTuple):
    """Randomness of one batch."""

    start: Tensor
    noise: Tensor
    t: Tensor


Ask = Callable[[int, str, str], Asked]
"""(step, "fake" or "generator", "remain" or "forget") -> the conditions of that batch."""


def distill(networks: Networks, ask: Ask, plan: Plan, fit: Fit, fake_lr: float, ctx: Context) -> None:
    """Train psi and G in place, in turns; in the end G's weights are their average over the steps.

    Gradients are clipped element by element (`fit.clip`). The average's decay rises to its value as (1 + n) / (10 + n), anew
    where forgetting begins. Raises Diverged when no sample of a batch, or not every gradient, is finite.
    """
    optimizers = {"fake": _optimizer(networks.fake_weights, fit, fake_lr), "generator": _optimizer(networks.generator_weights, fit, fit.lr)}
    average = [weight.detach().clone() for weight in networks.generator_weights]
    dropped = 0
    for step in ctx.progress(range(fit.steps), "distilling", fit.steps):
        numbers: dict[str, float] = {"step": step}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(ctx.seed_for("noise", step) % 2**62)
            for who, optimizer in optimizers.items():
                weights = optimizer.param_groups[0]["params"]
                found, bad = _gradients(networks, ask, plan, (who, step), (weights, fit))
                numbers.update(found)
                dropped += bad
                _update(optimizer, fit, step)
        passed = step - plan.distil if step >= plan.distil else step
        _average(average, networks.generator_weights, min(plan.decay, (1 + passed) / (10 + passed)))
        ctx.log(**numbers)
        ctx.spend(steps=1)
    with torch.no_grad():
        for weight, mean in zip(networks.generator_weights, average, strict=True):
            weight.copy_(mean)
    ctx.note(steps=fit.steps, stopped="all steps done", samples_not_finite=dropped, peak_mb=peak_mb())


def _gradients(networks: Networks, ask: Ask, plan: Plan, turn: tuple[str, int], trained: tuple[Sequence[Tensor], Fit]) -> tuple[dict[str, float], int]:
    """Sets the gradients of one network's two terms; their values, and how many samples were left out."""
    (who, step), (weights, fit) = turn, trained
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    loss = fake_term if who == "fake" else generator_term
    share = 0.0 if step < plan.distil else plan.fake_forget if who == "fake" else plan.forget
    numbers, bad = {}, 0
    for name, factor in (("remain", 1.0), ("forget", share)):
        if not factor:
            continue
        asked = ask(step, who, name)
        drawn = _drawn(networks, plan, asked.size, weights[0].device)
        value, found, valid = _mean(networks, plan, asked, drawn, loss, weights, fit)
        if not valid:
            raise Diverged(f"the {who}'s {name} loss is not finite for any sample at step {step}; lower fit.lr and fake_lr, then run again")
        for weight, gradient in zip(weights, found, strict=True):
            weight.grad = weight.grad + factor * gradient  # type: ignore[operator]
        numbers[f"{who}_{name}"] = value
        bad += asked.size - valid
    norm = float(torch.stack([weight.grad.norm() for weight in weights]).norm())  # type: ignore[union-attr]
    if not math.isfinite(norm):
        raise Diverged(f"the {who}'s gradient is {norm} at step {step}; lower fit.lr and fake_lr, then run again")
    return {**numbers, f"{who}_gradient": norm}, bad


def _mean(
    networks: Networks, plan: Plan, asked: Asked, drawn: Drawn, loss: Callable[[Networks, Plan, Asked, Drawn], Tensor], weights: Sequence[Tensor], fit: Fit,
) -> tuple[float, list[Tensor], int]:
    """Mean loss over the samples for which it is finite, its gradients, and how many they are; computed in `fit.accumulate` pieces."""
    sums = [torch.zeros_like(weight) for weight in weights]
    total, valid = 0.0, 0
    for rows in torch.arange(asked.size).chunk(fit.accumulate):
        losses = loss(networks, plan, _picked(asked, rows), _cut(drawn, rows))
        fine = losses.detach().isfinite().cpu()
        if not fine.all():
            if not fine.any():
                continue
            # Zero times NaN is NaN: no gradient may pass through the computation that the bad samples were part of.
            losses = loss(networks, plan, _picked(asked, rows[fine]), _cut(drawn, rows[fine]))
        found = torch.autograd.grad(losses.sum(), list(weights), allow_unused=True)
        for total_gradient, gradient in zip(sums, found, strict=True):
            if gradient is not None:
                total_gradient.add_(gradient)
        total, valid = total + float(losses.detach().sum()), valid + len(losses)
    share = max(valid, 1)
    return total / share, [gradient / share for gradient in sums], valid


def fake_term(networks: Networks, plan: Plan, asked: Asked, drawn: Drawn) -> Tensor:
    """Psi's loss (B,) on what the generator draws."""
    with torch.no_grad():
        clean = one_step(networks.schedule, networks.generator, drawn.start, plan.start, asked.own)
    mixed = networks.schedule.mix(clean, drawn.noise, drawn.t)
    return fake_loss(networks.schedule, networks.fake(mixed, drawn.t, asked.own), clean, drawn.noise, drawn.t)


def generator_term(networks: Networks, plan: Plan, asked: Asked, drawn: Drawn) -> Tensor:
    """The generator's loss (B,); gradients pass through teacher and fake score into what it draws."""
    clean = one_step(networks.schedule, networks.generator, drawn.start, plan.start, asked.own)
    mixed = networks.schedule.mix(clean, drawn.noise, drawn.t)
    x_psi = networks.schedule.clean(mixed, networks.fake(mixed, drawn.t, asked.own), drawn.t)
    x_phi = networks.schedule.clean(mixed, networks.teacher(mixed, drawn.t, asked.safe), drawn.t)
    return sid_loss(x_phi, x_psi, clean, plan.alpha)


def _drawn(networks: Networks, plan: Plan, count: int, device: torch.device) -> Drawn:
    start, noise = torch.randn(count, *networks.shape), torch.randn(count, *networks.shape)
    return Drawn(start.to(device), noise.to(device), torch.randint(plan.low, plan.high, (count,)))


def _cut(drawn: Drawn, rows: Tensor) -> Drawn:
    at = rows.to(drawn.start.device)
    return Drawn(drawn.start[at], drawn.noise[at], drawn.t[rows])


def _picked(asked: Asked, rows: Tensor) -> Asked:
    return Asked(asked.own[rows], asked.safe[rows], len(rows))


def _optimizer(weights: Sequence[Tensor], fit: Fit, lr: float) -> torch.optim.Optimizer:
    optimizer = optimizer_for(list(weights), fit)
    for group in optimizer.param_groups:
        group["initial_lr"] = lr
        if "betas" in group:
            group["betas"] = BETAS
    return optimizer


def _update(optimizer: torch.optim.Optimizer, fit: Fit, step: int) -> None:
    rise = min(1.0, (step + 1) / fit.warmup) if fit.warmup else 1.0
    fall = 1.0 - step / fit.steps if fit.schedule == "linear" else 1.0
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * rise * fall
        if fit.clip:
            torch.nn.utils.clip_grad_value_(group["params"], fit.clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


@torch.no_grad()
def _average(average: Sequence[Tensor], weights: Sequence[Tensor], decay: float) -> None:
    for mean, weight in zip(average, weights, strict=True):
        mean.lerp_(weight.detach(), 1 - decay)
