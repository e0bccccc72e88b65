"""Noisy latents as a model meets them on its way from noise to a picture, kept so that they are drawn once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from efface.core.context import Context
from efface.families.denoisers import Text

CHUNK = 64


@dataclass(frozen=True)
class Path:
    """Latents before each step, and the training step at which each stands."""

    latents: Tensor
    """(S + 1, N, C, h, w): what step s begins with; the last is the picture."""
    steps: Tensor
    """(S,) training steps t."""

    def at(self, step: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (B, C, h, w) and t (B,) of trajectories `index` (B,) before their steps `step` (B,)."""
        return self.latents[step, index], self.steps[step]


@torch.no_grad()
def drawn(
    subject: Any, prompts: Sequence[str], seeds: Sequence[int], steps: int, guidance: float, ctx: Context | None = None, text: Text | None = None,
) -> Path:
    """Trajectories of the subject for prompts (one a seed) with deterministic sampling: DDIM, or Euler for flow models.

    `text` takes the prompts' place where the states are given. Guidance 1 asks for the prompt alone.
    """
    scheduler = _scheduler(subject)
    scheduler.set_timesteps(steps)
    held = []
    pieces = range(0, len(prompts), CHUNK)
    for at in ctx.progress(pieces, "drawing trajectories", len(pieces)) if ctx is not None else pieces:
        held.append(_piece(subject, scheduler, prompts[at : at + CHUNK], seeds[at : at + CHUNK], guidance, None if text is None else text[at : at + CHUNK]))
    return Path(torch.cat(held, 1), scheduler.timesteps.clone())


def _piece(subject: Any, scheduler: Any, prompts: Sequence[str], seeds: Sequence[int], guidance: float, text: Text | None) -> Tensor:
    wanted = text if text is not None else subject.embed_text(prompts)
    free = subject.embed_text([""]) if guidance != 1 else None
    latents = starts(subject, seeds) * getattr(scheduler, "init_noise_sigma", 1.0)
    kept = [latents]
    if hasattr(scheduler, "_step_index"):
        scheduler._step_index = None
    for t in scheduler.timesteps:
        at = t.expand(len(latents))
        said = subject.noise(latents, at, wanted)
        if free is not None:
            blank = subject.noise(latents, at, free.repeat(len(latents)))
            said = blank + guidance * (said - blank)
        latents = scheduler.step(said, t, latents).prev_sample
        kept.append(latents)
    return torch.stack(kept)


def starts(subject: Any, seeds: Sequence[int]) -> Tensor:
    """Noise (N, C, h, w), one seed each: the same as generate() begins with."""
    shape = (1, *subject.latent_shape)
    return torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]).to(subject.device)


def _scheduler(subject: Any) -> Any:
    from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

    kind = FlowMatchEulerDiscreteScheduler if subject.schedule.kind == "flow" else DDIMScheduler
    return kind.from_config(subject.pipe.scheduler.config)
