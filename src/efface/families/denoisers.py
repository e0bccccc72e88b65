"""Denoisers of diffusers pipelines: how each kind is called, what its latents look like, and which of its modules play which role.

One entry a kind. A role is a regular expression over module names inside the denoiser; "cross.key" and "cross.value" are the
projections that read text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from efface.core.errors import Unfit

ATTENTION = {
    "cross.key": r"attn2\.to_k$", "cross.value": r"attn2\.to_v$", "cross.query": r"attn2\.to_q$", "cross": r"attn2(\.|$)", "self": r"attn1(\.|$)",
}
"""Names in U-Nets for pictures."""
OVER_TIME = r"(?:transformer_in|temp_attentions)"
"""Modules of U-Nets for videos that look along the frames: what is called attn2 there reads pictures, not text."""
VIDEO_ATTENTION = {
    **{role: rf"^(?!.*{OVER_TIME}).*{pattern}" for role, pattern in ATTENTION.items() if role != "self"},
    "self": rf"(attn1(\.|$)|{OVER_TIME}.*attn2(\.|$))",
}
JOINT = {
    "cross.key": r"attn\.add_k_proj$", "cross.value": r"attn\.add_v_proj$", "cross.query": r"attn\.add_q_proj$",
    "text.in": r"^context_embedder$", "text.pooled": r"text_embedder\.linear_1$", "cross": r"attn\.add_[kqv]_proj$", "self": r"attn2?\.to_[kqv]$",
}
"""Names in transformers that let text and picture attend to each other in one sequence (SD3, FLUX). FLUX's single blocks hold
both in one sequence, so that what is called self there reads text too."""
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


Call = Callable[[Any, Tensor, Tensor, Text, float], Tensor]
"""(pipeline, latents, t, text, guidance) -> the denoiser's answer; guidance is read only by those that have it built in."""
Size = Callable[[Any, int, int], tuple[int, ...]]
"""(pipeline, pixels, frames) -> shape of one picture's or video's latents; 0 stands for the pipeline's own."""


def _unet(pipe: Any, latents: Tensor, t: Tensor, text: Text, guidance: float) -> Tensor:
    return pipe.unet(latents, t, encoder_hidden_states=text.states).sample  # type: ignore[no-any-return]


def _sdxl(pipe: Any, latents: Tensor, t: Tensor, text: Text, guidance: float) -> Tensor:
    """SDXL is told the size of the picture, where it was cut (nowhere), and the size that is wanted."""
    height, width = (side * pipe.vae_scale_factor for side in latents.shape[-2:])
    ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=text.states.dtype, device=latents.device).expand(len(latents), -1)
    added = {"text_embeds": text.pooled, "time_ids": ids}
    return pipe.unet(latents, t, encoder_hidden_states=text.states, added_cond_kwargs=added).sample  # type: ignore[no-any-return]


def _sd3(pipe: Any, latents: Tensor, t: Tensor, text: Text, guidance: float) -> Tensor:
    return pipe.transformer(latents, timestep=t, encoder_hidden_states=text.states, pooled_projections=text.pooled).sample  # type: ignore[no-any-return]


def _flux(pipe: Any, latents: Tensor, t: Tensor, text: Text, guidance: float) -> Tensor:
    """FLUX sees pieces of 2 x 2 latents as one token, and time from 0 to 1."""
    count, channels, height, width = latents.shape
    packed = latents.view(count, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(count, -1, channels * 4)
    rows, columns = torch.arange(height // 2), torch.arange(width // 2)
    places = torch.stack([torch.zeros(height // 2, width // 2), rows[:, None].expand(-1, width // 2), columns[None].expand(height // 2, -1)], -1)
    built_in = torch.full((count,), guidance, device=latents.device) if pipe.transformer.config.guidance_embeds else None
    said = pipe.transformer(
        packed, timestep=t.to(latents.dtype) / 1000, guidance=built_in, pooled_projections=text.pooled,
        encoder_hidden_states=text.states, txt_ids=torch.zeros(text.states.shape[1], 3).to(latents), img_ids=places.reshape(-1, 3).to(latents),
    ).sample
    return said.view(count, height // 2, width // 2, channels, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(latents.shape)  # type: ignore[no-any-return]


def _cog(pipe: Any, latents: Tensor, t: Tensor, text: Text, guidance: float) -> Tensor:
    turned = None
    if pipe.transformer.config.use_rotary_positional_embeddings:
        height, width = (side * pipe.vae_scale_factor_spatial for side in latents.shape[-2:])
        turned = pipe._prepare_rotary_positional_embeddings(height, width, latents.shape[1], latents.device)
    return pipe.transformer(  # type: ignore[no-any-return]
        hidden_states=latents, encoder_hidden_states=text.states, timestep=t, image_rotary_emb=turned,
    ).sample


def _side(pipe: Any, pixels: int, own: Any) -> tuple[int, int]:
    """Height and width of latents."""
    if pixels:
        return pixels // pipe.vae_scale_factor, pixels // pipe.vae_scale_factor
    height, width = (own, own) if isinstance(own, int) else own
    return int(height), int(width)


def _picture(pipe: Any, pixels: int, frames: int) -> tuple[int, ...]:
    config = (pipe.unet if hasattr(pipe, "unet") else pipe.transformer).config
    return (config.in_channels, *_side(pipe, pixels, config.sample_size))


def _packed(pipe: Any, pixels: int, frames: int) -> tuple[int, ...]:
    height, width = _side(pipe, pixels, pipe.default_sample_size)
    return (pipe.transformer.config.in_channels // 4, 2 * (height // 2), 2 * (width // 2))


def _film(pipe: Any, pixels: int, frames: int) -> tuple[int, ...]:
    channels, height, width = _picture(pipe, pixels, frames)
    return (channels, frames or 16, height, width)


def _squeezed_film(pipe: Any, pixels: int, frames: int) -> tuple[int, ...]:
    config, smaller = pipe.transformer.config, pipe.vae_scale_factor_spatial
    sides = (pixels // smaller, pixels // smaller) if pixels else (config.sample_height, config.sample_width)
    count = ((frames or config.sample_frames) - 1) // pipe.vae_scale_factor_temporal + 1
    patch = config.patch_size_t or 1
    return (-(-count // patch) * patch, config.in_channels, *sides)


@dataclass(frozen=True)
class Layout:
    """One kind of pipeline: where its denoiser stands, how that is called, its roles, and the shape of latents."""

    name: str
    part: str
    call: Call
    roles: Mapping[str, str]
    size: Size
    frames: Literal["", "channels, frames", "frames, channels"] = ""
    """Order of a video's latents; "" for pictures."""
    guided: Literal["outside", "inside"] = "outside"
    """Whether guidance compares two answers, or is told to the denoiser, which learned it."""


LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (
    Layout("sd", "unet", _unet, ATTENTION, _picture),
    Layout("sdxl", "unet", _sdxl, ATTENTION, _picture),
    Layout("sd3", "transformer", _sd3, JOINT, _picture),
    Layout("flux", "transformer", _flux, JOINT, _packed, guided="inside"),
    Layout("video-unet", "unet", _unet, VIDEO_ATTENTION, _film, "channels, frames"),
    Layout("cogvideox", "transformer", _cog, COG, _squeezed_film, "frames, channels"),
)}
CLASSES = {
    "UNet2DConditionModel": "sd", "UNet3DConditionModel": "video-unet", "SD3Transformer2DModel": "sd3", "FluxTransformer2DModel": "flux",
    "CogVideoXTransformer3DModel": "cogvideox",
}
"""Classes of denoisers that are known."""


def layout_of(pipe: Any) -> Layout:
    """The layout of a pipeline. Raises Unfit, naming the class, when its denoiser is not known or reads no text."""
    for part in ("unet", "transformer"):
        module = getattr(pipe, part, None)
        if module is None:
            continue
        name = type(module).__name__
        if name not in CLASSES:
            raise Unfit(f"{type(pipe).__name__} denoises with {name}, which reads no text in a known way; known are {', '.join(CLASSES)}")
        kind = CLASSES[name]
        if kind == "sd" and module.config.addition_embed_type == "text_time":
            kind = "sdxl"
        layout = LAYOUTS[kind]
        if not any(re.search(layout.roles["cross"], inner) for inner, _ in module.named_modules()):
            raise Unfit(f"the {name} of this {type(pipe).__name__} has no text cross-attention, so no prompt reaches it; a text-to-image pipeline is needed")
        return layout
    raise Unfit(f"{type(pipe).__name__} has neither a unet nor a transformer; a text-to-image or text-to-video pipeline is needed")


def modules_of(denoiser: nn.Module, layout: Layout, role: str) -> dict[str, nn.Module]:
    """{name: module} of the linear modules that play a role, in order; Unfit when the denoiser has none."""
    pattern = layout.roles.get(role)
    found: dict[str, nn.Module] = {} if pattern is None else {
        name: module for name, module in denoiser.named_modules() if re.search(pattern, name) and isinstance(module, nn.Linear)
    }
    if not found:
        known = ", ".join(layout.roles)
        raise Unfit(f"{type(denoiser).__name__} has no module for the role {role!r} (roles of its kind: {known})")
    return found
