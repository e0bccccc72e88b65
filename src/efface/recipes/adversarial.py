"""Adversarial training of a generator (arXiv:1406.2661), with a penalty on the critic's slope at real pictures (arXiv:1801.04406).

critic     mean softplus(-D(x)) + mean softplus(D(G(z))) + penalty / 2 * mean |grad_x D(x)|^2
generator  mean softplus(-D(G(z)))

The critic sees several pictures at once (PacGAN, arXiv:1712.04086): one alone does not show it which kinds a generator never draws.
The penalty is applied at every fourth step with four times the weight (arXiv:1912.04958). What is returned is the running mean of
the generator's weights, not the last ones.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import softplus

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import BadConfig, Diverged
from efface.core.types import Recipe, Request
from efface.families.diffusion import pictures_of
from efface.families.generators import Critic

EVERY = 4
"""Steps between two penalties."""


class Duel(Config):
    """Optimizer settings of both players: Adam with moments 0 and 0.99."""

    lr: float = Field(2e-3, gt=0)
    """Learning rate at the start; it falls to a tenth along a line."""
    steps: int = Field(5000, ge=0)
    """Steps of each player."""
    batch: int = Field(64, ge=1)
    """Real pictures, and as many drawn ones, in a step; it must be a multiple of pack."""


class AdversarialConfig(Config):
    """Settings of adversarial training."""

    penalty: float = Field(0.1, ge=0)
    """Weight of the critic's slope."""
    average: float = Field(0.998, ge=0, lt=1)
    """Share of the running mean that a step leaves."""
    pack: int = Field(4, ge=1)
    """Pictures that the critic sees at once."""
    channels: int = Field(32, ge=1)
    """Width of the critic's first layer."""
    fit: Duel = Duel()
    """Optimizer settings."""


class Adversarial(Recipe[AdversarialConfig]):
    """Trains a generator on pictures: the keep rows of the request."""

    card = Card(
        name="adversarial", title="Adversarial training of a generator", paper="arXiv:1406.2661", families=("gan",), uses=("keep",),
        departs="the critic is a small convolutional network; pictures are square, with a side of four times a power of two",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the trained generator. Raises Diverged at the first loss that is not finite."""
        config = self.config
        if config.fit.batch % config.pack:
            raise BadConfig(f"fit.batch = {config.fit.batch} must be a multiple of pack = {config.pack}")
        pixels = torch.from_numpy(pictures_of(request.rows("keep"))).permute(0, 3, 1, 2).float().to(subject.device) / 127.5 - 1
        after, mean = subject.fork(), subject.fork()
        after.model.requires_grad_(True).train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(ctx.seed_for("adversarial") % 2**62)
            critic = Critic(pixels.shape[-1], config.channels, config.pack).to(subject.device)
            players = [torch.optim.Adam(model.parameters(), lr=config.fit.lr, betas=(0.0, 0.99), fused=True) for model in (critic, after.model)]
            for step in ctx.progress(range(config.fit.steps), "adversarial training", config.fit.steps):
                for player in players:
                    player.param_groups[0]["lr"] = config.fit.lr * (1 - 0.9 * step / config.fit.steps)
                _round(after, critic, pixels, players, config, step, ctx)
                follow(mean.model, after.model, min(config.average, (step + 1) / (step + 10)))
                ctx.spend(steps=1)
        mean.model.requires_grad_(False).eval()
        mean.lineage, mean.origin = subject.lineage, ""
        return mean


def _round(after: Any, critic: nn.Module, pixels: Tensor, players: list[Any], config: AdversarialConfig, step: int, ctx: Context) -> None:
    """One step of each player."""
    real = pixels[torch.randint(len(pixels), (config.fit.batch,))].requires_grad_(step % EVERY == 0)
    drawn = 2 * after.sample(torch.randn(config.fit.batch, *after.latent, device=pixels.device)) - 1
    said = critic(real)
    loss = softplus(-said).mean() + softplus(critic(drawn.detach())).mean()
    if step % EVERY == 0 and config.penalty:
        slope, = torch.autograd.grad(said.sum(), real, create_graph=True)
        loss = loss + EVERY * config.penalty / 2 * slope.square().flatten(1).sum(1).mean()
    _moved(players[0], loss)
    critic.requires_grad_(False)
    own = softplus(-critic(drawn)).mean()
    _moved(players[1], own)
    critic.requires_grad_(True)
    numbers = {"critic": float(loss.detach()), "generator": float(own.detach())}
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise Diverged(f"the {name}'s loss is {value} at step {step}; lower fit.lr, then run again")
    ctx.log(step=step, **numbers)


def _moved(player: Any, loss: Tensor) -> None:
    player.zero_grad(set_to_none=True)
    loss.backward()
    player.step()


@torch.no_grad()
def follow(mean: nn.Module, model: nn.Module, share: float) -> None:
    """Move `mean` towards `model`, keeping `share` of it; what normalization has counted is taken over."""
    for old, new in zip(mean.parameters(), model.parameters(), strict=True):
        old.lerp_(new, 1 - share)
    for counted, own in zip(mean.buffers(), model.buffers(), strict=True):
        counted.copy_(own)
