"""Denoisers of diffusers pipelines: how each class is called, and which of its modules play which role.

One entry a class. A role is a regular expression over module names inside the denoiser; "cross.key" and "cross.value" are the
projections that read text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from efface.core.errors import Unfit

ATTENTION = {
    "cross.key": r"attn2\.to_k$", "cross.value": r"attn2\.to_v$", "cross.query": r"attn2\.to_q$", "cross": r"attn2(\.|$)", "self": r"attn1(\.|$)",
}
"""Names in U-Nets (two and three dimensions) and in PixArt-like transformers."""
JOINT = {
    "cross.key": r"attn\.add_k_proj$", "cross.value": r"attn\.add_v_proj$", "cross.query": r"attn\.add_q_proj$",
    "text.in": r"^context_embedder$", "text.pooled": r"text_embedder\.linear_1$", "cross": r"attn\.add_[kqv]_proj$", "self": r"attn\.to_[kqv]$",
}
"""Names in transformers that let text and picture attend to each other in one sequence (SD3, FLUX)."""
COG = {"text.in": r"^patch_embed\.text_proj$", "cross": r"attn1(\.|$)", "self": r"attn1(\.|$)"}


@dataclass(frozen=True)
class Text:
    """Prompts as a denoiser reads them."""

    states: Tensor
    """(B, L, d) what the text-reading projections see."""
    pooled: Tensor | None = None
    """(B, p) what some models add to the time embedding."""

    def __getitem__(self, pick: Any) -> Text:
        return Text(self.states[pick], None if self.pooled is None else self.pooled[pick])

    def __len__(self) -> int:
        return len(self.states)

    def repeat(self, times: int) -> Text:
        """Each prompt `times` times in a row."""
        pooled = None if self.pooled is None else self.pooled.repeat_interleave(times, 0)
        return Text(self.states.repeat_interleave(times, 0), pooled)


Call = Callable[[Any, Tensor, Tensor, Text], Tensor]


def _unet(pipe: Any, latents: Tensor, t: Tensor, text: Text) -> Tensor:
    added = None
    if pipe.unet.config.get("addition_embed_type") == "text_time":
        size = latents.shape[-1] * getattr(pipe, "vae_scale_factor", 8)
        ids = torch.tensor([[size, size, 0, 0, size, size]], dtype=latents.dtype, device=latents.device).expand(len(latents), -1)
        added = {"text_embeds": text.pooled, "time_ids": ids}
    arguments: dict[str, Any] = {"encoder_hidden_states": text.states}
    if added is not None:
        arguments["added_cond_kwargs"] = added
    return pipe.unet(latents, t, **arguments).sample  # type: ignore[no-any-return]


def _sd3(pipe: Any, latents: Tensor, t: Tensor, text: Text) -> Tensor:
    return pipe.transformer(latents, timestep=t, encoder_hidden_states=text.states, pooled_projections=text.pooled).sample  # type: ignore[no-any-return]


def _flux(pipe: Any, latents: Tensor, t: Tensor, text: Text) -> Tensor:
    """FLUX sees pieces of 2 x 2 latents as one token."""
    count, channels, height, width = latents.shape
    packed = latents.view(count, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(count, -1, channels * 4)
    rows, columns = torch.arange(height // 2), torch.arange(width // 2)
    places = torch.stack([torch.zeros(height // 2, width // 2), rows[:, None].expand(-1, width // 2), columns[None].expand(height // 2, -1)], -1)
    guided = pipe.transformer.config.guidance_embeds
    said = pipe.transformer(
        packed, timestep=t / 1000, guidance=torch.full((count,), 3.5).to(latents) if guided else None, pooled_projections=text.pooled,
        encoder_hidden_states=text.states, txt_ids=torch.zeros(text.states.shape[1], 3).to(latents), img_ids=places.reshape(-1, 3).to(latents),
    ).sample
    return said.view(count, height // 2, width // 2, channels, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(latents.shape)  # type: ignore[no-any-return]


def _cog(pipe: Any, latents: Tensor, t: Tensor, text: Text) -> Tensor:
    return pipe.transformer(hidden_states=latents, encoder_hidden_states=text.states, timestep=t).sample  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Layout:
    """One class of denoisers: where it stands in its pipeline, how it is called, and its roles."""

    part: str
    call: Call
    roles: Mapping[str, str]


LAYOUTS: dict[str, Layout] = {
    "UNet2DConditionModel": Layout("unet", _unet, ATTENTION),
    "UNet3DConditionModel": Layout("unet", _unet, ATTENTION),
    "SD3Transformer2DModel": Layout("transformer", _sd3, JOINT),
    "FluxTransformer2DModel": Layout("transformer", _flux, JOINT),
    "CogVideoXTransformer3DModel": Layout("transformer", _cog, COG),
}


def layout_of(pipe: Any) -> Layout:
    """The layout of a pipeline's denoiser. Raises Unfit, naming the class, when it is not known or reads no text."""
    for part in ("unet", "transformer"):
        module = getattr(pipe, part, None)
        if module is None:
            continue
        name = type(module).__name__
        if name not in LAYOUTS:
            raise Unfit(f"{type(pipe).__name__} denoises with {name}, which reads no text in a known way; known are {', '.join(LAYOUTS)}")
        return LAYOUTS[name]
    raise Unfit(f"{type(pipe).__name__} has neither a unet nor a transformer; a text-to-image or text-to-video pipeline is needed")


def modules_of(denoiser: nn.Module, layout: Layout, role: str) -> dict[str, nn.Module]:
    """{name: module} of the linear modules that play a role, in order; Unfit when the denoiser has none."""
    pattern = layout.roles.get(role)
    found = {} if pattern is None else {
        name: module for name, module in denoiser.named_modules() if re.search(pattern, name) and isinstance(module, nn.Linear)
    }
    if not found:
        known = ", ".join(layout.roles)
        raise Unfit(f"{type(denoiser).__name__} has no module for the role {role!r} (roles of its class: {known}); it needs text cross-attention")
    return found
