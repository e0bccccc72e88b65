"""Noisy latents as a model meets them on its way from noise to a picture, kept so that they are drawn once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
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

    `text` takes the prompts' place where the states are given. Guidance 1 asks for the prompt alone; where guidance is built
    into the denoiser (FLUX), it is told, and nothing is compared.
    """
    scheduler = _scheduler(subject, steps)
    held = []
    pieces = range(0, len(prompts), CHUNK)
    for at in ctx.progress(pieces, "drawing trajectories", len(pieces)) if ctx is not None else pieces:
        held.append(_piece(subject, scheduler, prompts[at : at + CHUNK], seeds[at : at + CHUNK], guidance, None if text is None else text[at : at + CHUNK]))
    return Path(torch.cat(held, 1), scheduler.timesteps.clone())


def _piece(subject: Any, scheduler: Any, prompts: Sequence[str], seeds: Sequence[int], guidance: float, text: Text | None) -> Tensor:
    wanted = text if text is not None else subject.embed_text(prompts)
    free = subject.free_text(len(wanted)) if guidance != 1 and subject.layout.guided == "outside" else None
    latents = starts(subject, seeds) * getattr(scheduler, "init_noise_sigma", 1.0)
    kept = [latents]
    if hasattr(scheduler, "_step_index"):
        scheduler._step_index = None
    for t in scheduler.timesteps:
        at = t.expand(len(latents))
        said = subject.noise(latents, at, wanted, guidance)
        if free is not None:
            blank = subject.noise(latents, at, free)
            said = blank + guidance * (said - blank)
        latents = scheduler.step(said, t, latents).prev_sample
        kept.append(latents)
    return torch.stack(kept)


def starts(subject: Any, seeds: Sequence[int]) -> Tensor:
    """Noise (N, C, h, w), one seed each: the same as generate() begins with."""
    shape = (1, *subject.latent_shape)
    return torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]).to(subject.device)


def _scheduler(subject: Any, steps: int) -> Any:
    """The deterministic scheduler of the pipeline's schedule, set to `steps` steps as the pipeline would."""
    from diffusers import CogVideoXDDIMScheduler, DDIMScheduler, FlowMatchEulerDiscreteScheduler

    config = subject.pipe.scheduler.config
    if subject.schedule.kind != "flow":
        # CogVideoX moves its noise levels, which the plain scheduler does not know of.
        kind = CogVideoXDDIMScheduler if "CogVideoX" in type(subject.pipe.scheduler).__name__ else DDIMScheduler
        scheduler = kind.from_config(config)
        scheduler.set_timesteps(steps)
        return scheduler
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
    evenly = np.linspace(1.0, 1 / steps, steps) if subject.layout.name == "flux" else None
    scheduler.set_timesteps(steps, sigmas=evenly, mu=_shift(subject, scheduler.config) if scheduler.config.use_dynamic_shifting else None)
    return scheduler


def _shift(subject: Any, config: Any) -> float:
    """How far flow schedulers move towards noise for a picture of so many tokens: a straight line through two points."""
    _, height, width = subject.latent_shape
    patch = subject.denoiser.config.patch_size if subject.layout.name == "sd3" else 2
    tokens = (height // patch) * (width // patch)
    slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
    return float(config.base_shift + slope * (tokens - config.base_image_seq_len))
