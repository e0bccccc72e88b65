"""Noise schedules: what a denoiser was trained to undo, for schedules of diffusion and of flow matching, item by item.

    diffusion   x_t = a x_0 + s n,  a = sqrt(abar_t), s = sqrt(1 - abar_t);  the network gives n (epsilon) or v = a n - s x_0
    flow        x_t = (1 - u) x_0 + u n,  u = t / T;                         the network gives v = n - x_0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from efface.core.errors import Unfit

Kind = Literal["epsilon", "v_prediction", "flow"]


@dataclass(frozen=True)
class Schedule:
    """How noise is mixed in. `signal` and `noise` hold one factor a training step (T,)."""

    kind: Kind
    signal: Tensor
    noise: Tensor

    @property
    def steps(self) -> int:
        """Number of training steps T."""
        return len(self.signal)

    def factors(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of signal and noise at steps `t` (B,), each shaped to multiply `like` (B, ...)."""
        shape = (-1, *([1] * (like.dim() - 1)))
        if self.kind == "flow":  # its schedulers stand between two training steps
            share = t.to("cpu", torch.float64) / self.steps
            return (1 - share).to(like).view(shape), share.to(like).view(shape)
        at = t.to("cpu", torch.long).clamp(0, self.steps - 1)
        return self.signal[at].to(like).view(shape), self.noise[at].to(like).view(shape)

    def mix(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t of clean latents (B, ...) and noise of the same shape, at steps t (B,)."""
        signal, sigma = self.factors(t, clean)
        return signal * clean + sigma * noise

    def noised(self, clean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(x_t, steps t (B,), the noise in x_t) of clean latents (B, ...), with t and noise from torch's global generator."""
        t = torch.randint(self.steps, (len(clean),))
        noise = torch.randn(clean.shape).to(clean)
        return self.mix(clean, noise, t), t, noise

    def target(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should give for mix(clean, noise, t)."""
        if self.kind == "epsilon":
            return noise
        if self.kind == "flow":
            return noise - clean
        signal, sigma = self.factors(t, clean)
        return signal * noise - sigma * clean

    def clean(self, mixed: Tensor, said: Tensor, t: Tensor) -> Tensor:
        """x_0 as the network's answer `said` about `mixed` at steps t (B,) implies it."""
        signal, sigma = self.factors(t, mixed)
        if self.kind == "epsilon":
            return (mixed - sigma * said) / signal
        if self.kind == "flow":
            return mixed - sigma * said
        return signal * mixed - sigma * said


def schedule_of(scheduler: Any) -> Schedule:
    """The schedule that a diffusers scheduler stands for. Raises Unfit for one that says neither alphas nor flow."""
    config = scheduler.config
    if "flow" in type(scheduler).__name__.lower() or config.get("prediction_type") == "flow_prediction":
        steps = int(config.get("num_train_timesteps", 1000))
        # A shift moves the steps at which samplers ask; what step t means, u = t / T, stays.
        share = torch.arange(steps, dtype=torch.float64) / steps
        return Schedule("flow", 1 - share, share)
    if not hasattr(scheduler, "alphas_cumprod"):
        raise Unfit(f"the scheduler {type(scheduler).__name__} has neither alphas_cumprod nor a flow; use DDIM, DDPM, DPM-Solver or a flow scheduler")
    kind = config.get("prediction_type", "epsilon")
    if kind not in ("epsilon", "v_prediction"):
        raise Unfit(f"the scheduler predicts {kind!r}; epsilon, v_prediction and flow are known")
    kept = scheduler.alphas_cumprod.to(torch.float64)
    return Schedule(kind, kept.sqrt(), (1 - kept).sqrt())
