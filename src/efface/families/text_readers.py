"""Text encoders of diffusers pipelines: how each kind of pipeline turns prompts into what its denoiser reads, and which
encoder stands where in it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from efface.core.errors import Unfit
from efface.families import tokens
from efface.families.denoisers import Text
from efface.families.tokens import Tokens

log = logging.getLogger("efface")
CHUNK = 64
"""Prompts of one pass of the text encoders."""
CHATTER = ("diffusers", "transformers")
"""Loggers that print every prompt that is too long, at every step."""


@contextmanager
def hushed(level: int = logging.ERROR) -> Iterator[None]:
    """A block in which diffusers and transformers say nothing below a level."""
    loggers = [logging.getLogger(name) for name in CHATTER]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, before in zip(loggers, levels, strict=True):
            logger.setLevel(before)


def say_cut(pipe: Any, prompts: Sequence[str]) -> None:
    """Warn, once for each pipeline, when its first tokenizer cuts some of the prompts short."""
    tokenizer = getattr(pipe, "tokenizer", None)
    if tokenizer is None or getattr(pipe, "_efface_said_cut", False):
        return
    most = tokenizer.model_max_length
    with hushed():
        ids = tokenizer(list(prompts)).input_ids
    long = [prompt for prompt, mine in zip(prompts, ids, strict=True) if len(mine) > most]
    if long:
        log.warning("%d of %d prompts are longer than the %d tokens that the model reads and are cut, the first: %r", len(long), len(prompts), most, long[0][:60])
        pipe._efface_said_cut = True


Embed = Callable[[Any, list[str], dict[str, int]], Text]
"""(pipeline, prompts, {"max_sequence_length": ...} or {}) -> what the denoiser reads."""


def _clip(pipe: Any, prompts: list[str], limits: dict[str, int]) -> Text:
    found = pipe.encode_prompt(prompt=prompts, device=pipe.unet.device, num_images_per_prompt=1, do_classifier_free_guidance=False)
    return Text(found[0])


def _two_clips(pipe: Any, prompts: list[str], limits: dict[str, int]) -> Text:
    found = pipe.encode_prompt(prompt=prompts, device=pipe.unet.device, num_images_per_prompt=1, do_classifier_free_guidance=False)
    return Text(found[0], found[2])


def _sd3(pipe: Any, prompts: list[str], limits: dict[str, int]) -> Text:
    found = pipe.encode_prompt(prompt=prompts, prompt_2=None, prompt_3=None, do_classifier_free_guidance=False, **limits)
    return Text(found[0], found[2])


def _flux(pipe: Any, prompts: list[str], limits: dict[str, int]) -> Text:
    found = pipe.encode_prompt(prompt=prompts, prompt_2=None, **limits)
    return Text(found[0], found[1])


def _cog(pipe: Any, prompts: list[str], limits: dict[str, int]) -> Text:
    return Text(pipe.encode_prompt(prompt=prompts, do_classifier_free_guidance=False, **limits)[0])


@dataclass(frozen=True)
class Reader:
    """One text encoder of a pipeline, and how the denoiser reads it."""

    part: str
    tokenizer: str
    layer: int = -1
    """Which of its layers is read: -1 the end, behind the last norm; -2 the layer before the last, without it."""
    length: int = 0
    """Tokens of a prompt; 0: as many as the tokenizer says."""
    behind: bool = False
    """Whether its states stand behind those of the encoders before it; otherwise side by side with them."""

    def cut(self, pipe: Any, prompts: Sequence[str], limits: dict[str, int]) -> Tokens:
        """The prompts' tokens, padded as the pipeline pads them."""
        return tokens.cut(getattr(pipe, self.tokenizer), prompts, limits.get("max_sequence_length", self.length) if self.length else 0)

    def states(self, pipe: Any, ids: Tensor, mask: Tensor) -> Tensor:
        """States (B, L, w) of token ids (B, L), as they stand in what the denoiser reads; differentiable."""
        encoder = getattr(pipe, self.part)
        ids = ids.to(encoder.device)
        if self.layer == -1:
            given = {"attention_mask": mask.to(encoder.device)} if getattr(encoder.config, "use_attention_mask", None) else {}
            return encoder(ids, **given)[0]  # type: ignore[no-any-return]
        return encoder(ids, output_hidden_states=True).hidden_states[self.layer]  # type: ignore[no-any-return]

    def begins(self, pipe: Any) -> bool:
        """Whether its prompts begin and end with tokens of their own and the end token sums them up (CLIP), or not (T5)."""
        return getattr(pipe, self.tokenizer).bos_token_id is not None


EMBEDS: dict[str, Embed] = {"sd": _clip, "sdxl": _two_clips, "sd3": _sd3, "flux": _flux, "video-unet": _clip, "cogvideox": _cog}
"""By a layout's name."""
READERS: dict[str, tuple[Reader, ...]] = {
    "sd": (Reader("text_encoder", "tokenizer"),),
    "sdxl": (Reader("text_encoder", "tokenizer", -2), Reader("text_encoder_2", "tokenizer_2", -2)),
    "sd3": (
        Reader("text_encoder", "tokenizer", -2), Reader("text_encoder_2", "tokenizer_2", -2), Reader("text_encoder_3", "tokenizer_3", -1, 256, True),
    ),
    "flux": (Reader("text_encoder_2", "tokenizer_2", -1, 512),),
    "video-unet": (Reader("text_encoder", "tokenizer"),),
    "cogvideox": (Reader("text_encoder", "tokenizer", -1, 226),),
}
"""The encoders whose states the denoiser attends to, by a layout's name. (FLUX's first encoder gives its pooled vector alone.)"""


def readers_of(subject: Any) -> list[Reader]:
    """The readers of a subject that its pipeline has."""
    found = [reader for reader in READERS[subject.layout.name] if getattr(subject.pipe, reader.part, None) is not None]
    if not found:
        raise Unfit(f"this {type(subject.pipe).__name__} has no text encoder; load it with one")
    return found


def places(subject: Any, length: int, widths: Sequence[int]) -> list[tuple[int, int]]:
    """(first position, first column) of each reader's states in what the denoiser reads; `length` is that of the first one's."""
    found: list[tuple[int, int]] = []
    position = column = 0
    for reader, width in zip(readers_of(subject), widths, strict=True):
        if reader.behind and found:
            position, column = length, 0
        found.append((position, column))
        column += width
    return found


def limits_of(call: Mapping[str, Any]) -> dict[str, int]:
    """How long prompts may be in a pipeline call. Raises Unfit for a call that reads its prompts in a way of its own."""
    for name in ("clip_skip", "prompt_2", "prompt_3"):
        if call.get(name) is not None:
            raise Unfit(f"a guard reads the prompt as the pipeline usually does; the call says {name} = {call[name]!r}; leave it away")
    return {"max_sequence_length": int(call["max_sequence_length"])} if call.get("max_sequence_length") else {}


def embedded(subject: Any, prompts: Sequence[str], call: Mapping[str, Any]) -> Text:
    """The prompts as the denoiser reads them in a pipeline call with these keyword arguments. Raises Unfit as limits_of does."""
    return EMBEDS[subject.layout.name](subject.pipe, list(prompts), limits_of(call))


@torch.no_grad()
def read(subject: Any, prompts: Sequence[str]) -> Text:
    """The prompts as the subject's denoiser reads them, without gradients, in passes of 64."""
    found = [subject.embed_text(list(prompts[at : at + CHUNK])) for at in range(0, len(prompts), CHUNK)]
    pooled = None if found[0].pooled is None else torch.cat([part.pooled for part in found])
    return Text(torch.cat([part.states for part in found]), pooled)


class Texts:
    """The states of prompts under a text encoder that stays as it is, each computed once."""

    def __init__(self, subject: Any, prompts: Sequence[str]) -> None:
        self.places = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
        self.held = read(subject, list(self.places))

    def __call__(self, prompts: Sequence[str]) -> Text:
        return self.held[[self.places[prompt] for prompt in prompts]]


def free(subject: Any, count: int, limits: dict[str, int]) -> Text:
    """What guidance compares with where no negative prompt is given: the empty prompt, or nothing at all where the pipeline says so."""
    text = EMBEDS[subject.layout.name](subject.pipe, [""], limits)
    if subject.layout.name == "sdxl" and subject.pipe.config.force_zeros_for_empty_prompt:
        text = Text(torch.zeros_like(text.states), None if text.pooled is None else torch.zeros_like(text.pooled))
    return text.repeat(count)
