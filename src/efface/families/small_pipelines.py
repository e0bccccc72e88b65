"""Small StableDiffusionPipelines with random weights, and the tokenizer whose whole words are given: to train, and to test on."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

END = "</w>"
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789,.'-!"


@dataclass(frozen=True)
class Shape:
    """Sizes of a small pipeline."""

    pixels: int = 32
    latent: int = 8
    channels: int = 8
    width: int = 128
    """Width of the text states."""
    text_layers: int = 2
    length: int = 16
    """Most tokens of a prompt, begin and end included."""
    unet: tuple[int, int] = (40, 80)
    vae: tuple[int, ...] = (24, 48, 64)
    head: int = 8


def tokenizer(words: Sequence[str], length: int = 16) -> Any:
    """A CLIP tokenizer that knows each of `words` as one token and every other word by its letters."""
    from transformers import CLIPTokenizer

    merges = _merges(words)
    vocabulary = [*LETTERS, *(letter + END for letter in LETTERS), *("".join(pair) for pair in merges), "<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(dict.fromkeys(vocabulary))}), encoding="utf-8")
        (place / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
        return CLIPTokenizer(
            str(place / "vocab.json"), str(place / "merges.txt"), unk_token="<|endoftext|>", bos_token="<|startoftext|>", eos_token="<|endoftext|>",
            pad_token="<|endoftext|>", model_max_length=length,
        )


def _merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Merges after which every word is one token. A word that earlier merges cut in another way gets merges of its pieces."""
    merges: list[tuple[str, str]] = []
    ranks: dict[tuple[str, str], int] = {}
    for word in dict.fromkeys(words):
        pieces = _pieces(word, ranks)
        while len(pieces) > 1:
            pair = (pieces[0], pieces[1])  # not among the merges, or they would have made one piece of it
            ranks[pair] = len(merges)
            merges.append(pair)
            pieces = _pieces(word, ranks)
    return merges


def _pieces(word: str, ranks: dict[tuple[str, str], int]) -> list[str]:
    """What byte-pair encoding makes of a word."""
    pieces = [*word[:-1], word[-1] + END]
    while len(pieces) > 1:
        best = min(zip(pieces, pieces[1:], strict=False), key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        joined: list[str] = []
        at = 0
        while at < len(pieces):
            if at + 1 < len(pieces) and (pieces[at], pieces[at + 1]) == best:
                joined.append(pieces[at] + pieces[at + 1])
                at += 2
            else:
                joined.append(pieces[at])
                at += 1
        pieces = joined
    return pieces


def pipeline(words: Sequence[str], seed: int = 0, shape: Shape | None = None, vae: Any = None) -> Any:
    """A StableDiffusionPipeline with random weights (of `vae`, where one is given: its own), without a safety checker."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    shape = shape or Shape()
    known = tokenizer(words, shape.length)
    size = len(known)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**62)
        text = CLIPTextModel(CLIPTextConfig(
            vocab_size=size, hidden_size=shape.width, intermediate_size=2 * shape.width, num_hidden_layers=shape.text_layers, num_attention_heads=4,
            max_position_embeddings=shape.length, bos_token_id=size - 2, eos_token_id=size - 1, pad_token_id=size - 1, projection_dim=shape.width,
        ))
        # Tokens that are drawn alike give states that are alike; CLIP's own 0.02 is made for far longer training.
        table: Any = text.get_input_embeddings()
        torch.nn.init.normal_(table.weight, std=1.0)
        unet = UNet2DConditionModel(
            sample_size=shape.latent, in_channels=shape.channels, out_channels=shape.channels, block_out_channels=shape.unet, layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=shape.width, attention_head_dim=shape.head, norm_num_groups=8,
        )
        vae = vae or AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * len(shape.vae), up_block_types=("UpDecoderBlock2D",) * len(shape.vae), block_out_channels=shape.vae,
            latent_channels=shape.channels, layers_per_block=1, norm_num_groups=8, sample_size=shape.pixels, mid_block_add_attention=False,
        )
    scheduler = DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1, timestep_spacing="trailing",
    )
    return StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=known, unet=unet, scheduler=scheduler, safety_checker=None, feature_extractor=None,
        image_encoder=None, requires_safety_checker=False,
    )
