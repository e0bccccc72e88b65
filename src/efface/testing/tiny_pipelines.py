"""Tiny pipelines of every kind, with diffusers' own classes, real tokenizers and random weights: for tests of what must hold of any weights.

    subject = tiny_pipelines.subject("sd3")
    subject.generate(["a cat"])                       # (1, 16, 16, 3)

Each takes 16 x 16 pixels and two steps, and is built in a moment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from efface.families import small_pipelines
from efface.families.diffusion import Diffusion, Sampling
from efface.families.diffusion_files import quiet

WORDS = ("a", "an", "in", "of", "style", "image", "picture", "cat", "dog", "boat", "plain", "glossy", "red")
WIDTH = 32
"""Width of each text encoder."""


def subject(kind: str, seed: int = 0) -> Diffusion:
    """The pipeline of one kind, of KINDS, as a subject: two steps, guidance 3; videos have five frames."""
    sampling = Sampling(2, 3.0, pixels=16, frames=5 if kind in VIDEOS else 0)
    return Diffusion(pipeline(kind, seed), sampling)


def pipeline(kind: str, seed: int = 0) -> Any:
    """The diffusers pipeline of one kind, of KINDS; equal seeds give equal weights."""
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        pipe = KINDS[kind]()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def t5_tokenizer(length: int = 16) -> Any:
    """A T5 tokenizer that knows each of WORDS as one token and every other word by its letters."""
    from transformers import T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces = [("▁" + word, -1.0) for word in WORDS if len(word) > 1]
    # One letter, with and without a space before it: "a" is a word of its own here.
    letters = [("▁", -5.0), ("▁a", -1.0), *((letter, -6.0) for letter in small_pipelines.LETTERS)]
    return T5Tokenizer(vocab=[*special, *pieces, *letters], extra_ids=0, model_max_length=length)


def _clip(known: Any, projected: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    size = len(known)
    config = CLIPTextConfig(
        vocab_size=size, hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=2, num_attention_heads=4, projection_dim=WIDTH,
        max_position_embeddings=known.model_max_length, bos_token_id=size - 2, eos_token_id=size - 1, pad_token_id=size - 1,
    )
    model = (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)
    table: Any = model.get_input_embeddings()
    torch.nn.init.normal_(table.weight, std=1.0)
    return model


def _t5(known: Any) -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=len(known), d_model=WIDTH * 2, d_kv=8, d_ff=64, num_layers=2, num_heads=4, pad_token_id=0, eos_token_id=1, feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config)


def _vae(shift: float | None = None) -> Any:
    from diffusers import AutoencoderKL

    blocks = 2
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks, up_block_types=("UpDecoderBlock2D",) * blocks, block_out_channels=(8, 16),
        latent_channels=4, layers_per_block=1, norm_num_groups=4, sample_size=16, shift_factor=shift, mid_block_add_attention=False,
    )


def _ddim() -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1, timestep_spacing="trailing",
    )


def _sd() -> Any:
    shape = small_pipelines.Shape(pixels=16, latent=8, channels=4, width=WIDTH, unet=(16, 32), vae=(8, 16))
    return small_pipelines.pipeline(WORDS, int(torch.randint(2**31, ())), shape)


def _sdxl() -> Any:
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel

    known = small_pipelines.tokenizer(WORDS)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, attention_head_dim=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=2 * WIDTH,
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + WIDTH, use_linear_projection=True,
    )
    return StableDiffusionXLPipeline(
        vae=_vae(), text_encoder=_clip(known), text_encoder_2=_clip(known, projected=True), tokenizer=known, tokenizer_2=small_pipelines.tokenizer(WORDS),
        unet=unet, scheduler=_ddim(), add_watermarker=False,
    )


def _sd3() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    clip, t5 = small_pipelines.tokenizer(WORDS), t5_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=4, joint_attention_dim=2 * WIDTH,
        caption_projection_dim=32, pooled_projection_dim=2 * WIDTH, out_channels=4, pos_embed_max_size=16,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=_vae(0.06), text_encoder=_clip(clip, projected=True), tokenizer=clip,
        text_encoder_2=_clip(clip, projected=True), tokenizer_2=small_pipelines.tokenizer(WORDS), text_encoder_3=_t5(t5), tokenizer_3=t5,
    )


def _flux() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    clip, t5 = small_pipelines.tokenizer(WORDS), t5_tokenizer()
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=2 * WIDTH,
        pooled_projection_dim=WIDTH, axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True), vae=_vae(0.06), text_encoder=_clip(clip), tokenizer=clip,
        text_encoder_2=_t5(t5), tokenizer_2=t5, transformer=transformer,
    )


def _video_unet() -> Any:
    from diffusers import TextToVideoSDPipeline, UNet3DConditionModel

    known = small_pipelines.tokenizer(WORDS)
    unet = UNet3DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, attention_head_dim=8,
        down_block_types=("DownBlock3D", "CrossAttnDownBlock3D"), up_block_types=("CrossAttnUpBlock3D", "UpBlock3D"), cross_attention_dim=WIDTH,
    )
    return TextToVideoSDPipeline(vae=_vae(), text_encoder=_clip(known), tokenizer=known, unet=unet, scheduler=_ddim())


def _cogvideox() -> Any:
    from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXPipeline, CogVideoXTransformer3DModel

    known = t5_tokenizer()
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=8, text_embed_dim=2 * WIDTH, num_layers=2,
        sample_width=2, sample_height=2, sample_frames=5, patch_size=2, temporal_compression_ratio=4, max_text_seq_length=226,
    )
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2, temporal_compression_ratio=4,
    )
    scheduler = CogVideoXDDIMScheduler(prediction_type="v_prediction", timestep_spacing="trailing", clip_sample=False)
    return CogVideoXPipeline(tokenizer=known, text_encoder=_t5(known), vae=vae, transformer=transformer, scheduler=scheduler)


KINDS: dict[str, Callable[[], Any]] = {
    "sd": _sd, "sdxl": _sdxl, "sd3": _sd3, "flux": _flux, "video-unet": _video_unet, "cogvideox": _cogvideox,
}
"""By the name of the layout."""
VIDEOS = ("video-unet", "cogvideox")
