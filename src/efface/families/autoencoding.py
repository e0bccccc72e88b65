"""Pictures and videos in and out of a pipeline's autoencoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from efface.families.denoisers import Layout

CHUNK = 64
"""Pictures of one pass."""


@torch.no_grad()
def encoded(pipe: Any, layout: Layout, pictures: np.ndarray) -> Tensor:
    """Latents of pictures (N, H, W, 3) or videos (N, frames, H, W, 3) of 0 to 255: the mean of the posterior, scaled."""
    vae = pipe.vae
    pixels = torch.from_numpy(np.ascontiguousarray(pictures)).to(vae.device, vae.dtype) / 127.5 - 1
    if layout.frames == "frames, channels":  # the autoencoder squeezes frames together
        mean = _pieces(lambda x: vae.encode(x).latent_dist.mean, pixels.permute(0, 4, 1, 2, 3))
        return _scaled(vae, mean).permute(0, 2, 1, 3, 4)
    flat = pixels.flatten(0, 1) if layout.frames else pixels
    found = _scaled(vae, _pieces(lambda x: vae.encode(x).latent_dist.mean, flat.permute(0, 3, 1, 2)))
    return found.unflatten(0, pixels.shape[:2]).transpose(1, 2) if layout.frames else found


@torch.no_grad()
def decoded(pipe: Any, layout: Layout, latents: Tensor) -> np.ndarray:
    """Pictures (N, H, W, 3) or videos (N, frames, H, W, 3), uint8, of latents."""
    vae = pipe.vae
    latents = latents.to(vae.device, vae.dtype)
    if layout.frames == "frames, channels":
        pixels = _pieces(lambda x: vae.decode(x).sample, _raw(vae, latents.permute(0, 2, 1, 3, 4))).permute(0, 2, 3, 4, 1)
    elif layout.frames:
        flat = _pieces(lambda x: vae.decode(x).sample, _raw(vae, latents.transpose(1, 2).flatten(0, 1)))
        pixels = flat.unflatten(0, (len(latents), latents.shape[2])).permute(0, 1, 3, 4, 2)
    else:
        pixels = _pieces(lambda x: vae.decode(x).sample, _raw(vae, latents)).permute(0, 2, 3, 1)
    return ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()


def _pieces(work: Any, given: Tensor) -> Tensor:
    return torch.cat([work(given[at : at + CHUNK]) for at in range(0, len(given), CHUNK)])


def _scaled(vae: Any, raw: Tensor) -> Tensor:
    mean, spread = _statistics(vae, raw)
    return (raw - mean) * (vae.config.scaling_factor / spread)


def _raw(vae: Any, latents: Tensor) -> Tensor:
    mean, spread = _statistics(vae, latents)
    return latents * (spread / vae.config.scaling_factor) + mean


def _statistics(vae: Any, like: Tensor) -> tuple[Any, Any]:
    """What an autoencoder's latents are centered at, and their spread: numbers a channel, one number, or neither."""
    mean, spread = vae.config.get("latents_mean"), vae.config.get("latents_std")
    if mean is not None and spread is not None:
        shape = (1, -1, *([1] * (like.dim() - 2)))
        return torch.tensor(mean).to(like).view(shape), torch.tensor(spread).to(like).view(shape)
    return vae.config.get("shift_factor") or 0.0, 1.0
