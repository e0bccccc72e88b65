"""SAFREE (arXiv:2410.12761): projects the words of a prompt that point to a concept out of the concept's subspace, in early steps.

    C = [summary of each concept phrase],  P_C = C (C^T C)^+ C^T;   p_i = summary of the prompt without word i,  P_I from p_1..p_n
    z_i = |(I - P_C) p_i|;                 word i is a trigger  <=>  z_i >= (1 + alpha) mean of z_j over j != i
    h_i <- (I - P_C) P_I h_i               for triggers alone; begin, end, padding and all other words keep their states
    b = 1 - mean over begin, words, end of cos((I - P_C) P_I h, h);  filtered are steps i <= t' = round(U sigmoid(2 k (10 b - m)))

The last line validates itself: a prompt that loses much is filtered for longer. Afterwards the plain states are put back at the
end of a step, through the pipeline's own callback (or, where it has none, before the denoiser reads). U = 10, m = 5.333, k = 2.5;
for artists m = 5.5, k = 3.5. Nothing of the weights changes, and a prompt without a trigger is drawn as ever.

A summary is the encoder's state at the end token, of the very layer that the denoiser reads; without an end token that sums up
(T5) it is the mean over the words. A word is left out by putting token 0 in its place. Each encoder has its own C, masks and
triggers. A prompt of one word has no others: it is compared with the whole prompt, where the released code always calls the word
a trigger. At least one word of nearly every prompt is above the mean, so harmless prompts lose words too; t' is what protects them.

End and padding keep their states in the paper. They hold much of the meaning: where the text encoder is small, or was trained
along, filtering the words alone hardly moves the picture, and `ends` filters them too.

Latent re-attention (off): a third row of each batch draws the plain prompt, and in the skip features of the two widest levels of
the up blocks frequencies in which the filtered prompt stands out are damped. It is half as much work again, and works here;
in the released script its registration is called without a mode and does nothing.

The released script also puts the concept into the negative prompt, and so does this (`negative`); report both arms.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import BadConfig, EffaceError, Unfit
from efface.core.types import Guard, Request
from efface.families import asking, shields, word_filter
from efface.families.text_readers import embedded, limits_of, readers_of
from efface.ops.text_filter import filtered_steps, reattended


class SafreeConfig(Config):
    """Settings of SAFREE."""

    alpha: float = Field(0.01, ge=0)
    """How far above the mean of the others a word's distance must be."""
    ends: bool = False
    """Filter the end token and the padding of a prompt with triggers too; the paper keeps them, and much of the meaning stands there."""
    steps: Literal["auto", "validated", "all"] = "auto"
    """Filter the steps that validation says, or all; auto validates pipelines with one CLIP encoder, for which it was tuned."""
    midpoint: float = 5.333
    """m of the validation; 5.5 for artists."""
    slope: float = Field(2.5, gt=0)
    """k of the validation; 3.5 for artists."""
    most: int = Field(10, ge=0)
    """U, the last step that validation can name."""
    first: bool = True
    """Filter the first step where validation gives 0, as the released code does; off leaves such prompts as they are."""
    encoders: tuple[str, ...] = ()
    """Text encoders to filter, such as "text_encoder_2"; none named: all that the denoiser attends to."""
    negative: bool = True
    """Put the concept into the negative prompt too."""
    true_guidance: float = Field(4.0, gt=1)
    """Guidance against the negative prompt for models with guidance built in (FLUX), unless the call says one."""
    reattention: Literal["off", "low", "high"] = "off"
    """Latent re-attention: damp low frequencies, or all others; U-Nets alone."""
    sizes: tuple[float, float] = (0.9, 0.2)
    """What damped frequencies become at the widest and the second level."""
    replace: bool = True
    """Put that number in a frequency's place; off multiplies by it."""


class Safree(Guard[SafreeConfig]):
    """Filters every prompt before it is drawn."""

    card = Card(
        name="safree", title="SAFREE", paper="arXiv:2410.12761", families=("diffusion",), needs=("generate",), uses=("names",),
        technique="filtering", intent="suppress", touches=("input", "activations"), locality="none", data=("names",), operator="weights",
        sequence="accumulates", reversible=True, guarantee="empirical",
        departs="every encoder that the denoiser attends to has triggers of its own, where the released code filters SDXL's second encoder alone and applies "
        "T5's triggers to CLIP's positions in SD3; T5 is summed up by the mean over its words, not by position 0; a word on its own is compared with the "
        "whole prompt; re-attention works, and leaves frequencies alone in which both prompts agree",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject behind the filter. Raises Unfit for a concept without words, BadConfig for what the pipeline lacks."""
        asking.check(request.names, (), None)
        config = self.config
        known = [reader.part for reader in readers_of(subject)]
        unknown = [name for name in config.encoders if name not in known]
        if unknown:
            raise BadConfig(f"setting encoders = {unknown[0]!r}: the denoiser of this pipeline attends to {', '.join(known)}")
        if config.reattention != "off" and not hasattr(subject.denoiser, "up_blocks"):
            raise BadConfig(f"setting reattention = {config.reattention!r}: a {type(subject.denoiser).__name__} has no up blocks; only U-Nets have")
        return subject.guarded(SafreeShield(request.names, config))


@dataclass
class Filtering:
    """One generation under way."""

    plain: Tensor
    """(B, L, d) states as ever."""
    filtered: Tensor
    last: Tensor
    """(B,) last step that is filtered; -1: none."""
    told: tuple[word_filter.Told, ...]
    """What was found in each prompt."""
    step: int = 0
    widened: int = 0
    """Rows of the call under way where a third prompt was added; 0 where none was."""
    first: bool = True
    """Whether the denoiser has not been asked yet."""

    @property
    def on(self) -> Tensor:
        """(B,) whether each prompt is filtered at this step."""
        return (self.last >= self.step).to(self.plain.device)

    @property
    def states(self) -> Tensor:
        """What the denoiser is to read at this step."""
        return torch.where(self.on[:, None, None], self.filtered, self.plain)


class SafreeShield(shields.Shield):
    """Hands filtered prompts to the pipeline, and plain ones once validation says so."""

    def __init__(self, concepts: tuple[str, ...], config: SafreeConfig) -> None:
        self.concepts, self.config = concepts, config
        self.told: tuple[word_filter.Told, ...] = ()
        """What was found in the prompts of the last call."""
        self._now: Filtering | None = None

    def arrange(self, subject: Any, call: shields.Call) -> dict[str, Any]:
        """The call with filtered states in place of its prompts. Raises Unfit for a call without prompts."""
        prompts = call.get("prompt")
        if not isinstance(prompts, list):
            raise Unfit("safree reads words, and the call gives none; put it before any guard that turns prompts into embeddings")
        if int(call.get("num_images_per_prompt", call.get("num_videos_per_prompt", 1))) != 1:
            raise Unfit("safree draws one picture a prompt; repeat the prompt instead")
        config, text = self.config, embedded(subject, prompts, call)
        parts = [reader for reader in readers_of(subject) if reader.part in (config.encoders or [each.part for each in readers_of(subject)])]
        filtered, self.told = word_filter.filtered(subject, prompts, self.concepts, text, word_filter.Rule(config.alpha, config.ends), parts, limits_of(call))
        self._now = now = Filtering(text.states, filtered, torch.tensor([self._last(subject, told) for told in self.told]), self.told)
        changed = {**call, "prompt": None, "prompt_embeds": now.states}
        if text.pooled is not None:
            changed["pooled_prompt_embeds"] = text.pooled
        if config.negative:
            changed = shields.with_negative(subject, changed, ", ".join(self.concepts), config.true_guidance, "safree's negative prompt")
        if _calls_back(subject.pipe):
            changed = shields.after_each_step(changed, ["prompt_embeds"], self._stepped)
        return changed

    @contextmanager
    def steer(self, subject: Any) -> Iterator[None]:
        """Inside the block, it is seen to that the denoiser reads what was filtered; re-attention is on where it is asked for."""
        with ExitStack() as stack:
            self._hook(stack, subject.denoiser.register_forward_pre_hook(lambda *given: self._asked(subject, *given), with_kwargs=True))
            if self.config.reattention != "off":
                self._hook(stack, subject.denoiser.register_forward_hook(self._answered))
                widths = sorted(set(subject.denoiser.config.block_out_channels), reverse=True)
                sizes = dict(zip(widths, self.config.sizes, strict=False))
                for block in subject.denoiser.up_blocks:
                    self._hook(stack, block.register_forward_pre_hook(lambda *given: self._skipped(sizes, *given), with_kwargs=True))
            try:
                yield
            finally:
                self._now = None

    def review(self, outputs: Any) -> Any:
        """The pictures. Raises EffaceError where the denoiser drew them without reading what was filtered."""
        if self._now is None or self._now.first:
            raise EffaceError("safree did not filter this picture: the pipeline never asked its denoiser")
        return outputs

    def _last(self, subject: Any, told: word_filter.Told) -> int:
        """The last step at which a prompt is filtered."""
        config = self.config
        if not any(told.words.values()):
            return -1
        if config.steps == "all" or (config.steps == "auto" and subject.layout.name not in ("sd", "video-unet")):
            return 10**6
        last = filtered_steps(told.near, config.midpoint, config.slope, config.most)
        return last if last > 0 or config.first else -1

    @staticmethod
    def _hook(stack: ExitStack, handle: Any) -> None:
        stack.callback(handle.remove)

    def _stepped(self, step: int, given: dict[str, Any]) -> dict[str, Any]:
        """At the end of a step: the states for the next one, in the rows of the prompts."""
        now = self._running()
        before, now.step = now.on, step + 1
        if not torch.equal(before, now.on):
            held = given["prompt_embeds"]
            given["prompt_embeds"] = torch.cat([held[: len(held) - len(now.plain)], now.states])
        return given

    def _asked(self, subject: Any, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Before the denoiser reads: its states are those that were filtered; a third row draws the plain prompt where asked for."""
        now = self._running()
        count, held = len(now.plain), kwargs["encoder_hidden_states"]
        if not _calls_back(subject.pipe):
            now.step = now.step if now.first else now.step + 1
            held = torch.cat([held[: len(held) - count], now.states])
            kwargs = {**kwargs, "encoder_hidden_states": held}
        if now.first and not torch.equal(held[-count:], now.states.to(held)):
            raise EffaceError("safree handed a filtered prompt to the pipeline, and the denoiser was given another one")
        now.first = False
        if self.config.reattention == "off" or not bool(now.on.any()):
            return args, kwargs
        rows = shields.rows_in(args, kwargs)
        args, kwargs = shields.picked((args, kwargs), rows, lambda given: torch.cat([given, given[-count:]]))
        held = kwargs["encoder_hidden_states"]
        now.widened = rows + count
        return args, {**kwargs, "encoder_hidden_states": torch.cat([held[:-count], now.plain.to(held)])}

    def _skipped(self, sizes: dict[int, float], module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Before an up block reads its skip features: those of the filtered prompts are damped by those of the plain ones."""
        now = self._running()
        skips = kwargs.get("res_hidden_states_tuple")
        if skips is None:
            raise EffaceError(f"latent re-attention found no skip features in a {type(module).__name__}; set reattention=off")
        if not now.widened:
            return args, kwargs
        return args, {**kwargs, "res_hidden_states_tuple": tuple(
            self._damped(skip, sizes[skip.shape[1]]) if skip.shape[1] in sizes else skip for skip in skips
        )}

    def _damped(self, skip: Tensor, size: float) -> Tensor:
        now = self._running()
        frames = len(skip) // now.widened  # of a video each is a row of its own here
        span = len(now.plain) * frames
        rest, filtered, plain = skip[: -2 * span], skip[-2 * span : -span], skip[-span:]
        where: Any = self.config.reattention
        on = now.on.repeat_interleave(frames).view(-1, *([1] * (skip.dim() - 1)))
        return torch.cat([rest, torch.where(on, reattended(filtered, plain, size, where, self.config.replace), filtered), plain])

    def _answered(self, module: Any, args: tuple[Any, ...], output: Any) -> Any:
        """The denoiser's answer without the third row."""
        now = self._running()
        widened, now.widened = now.widened, 0
        return shields.answered(output, shields.answer(output)[: widened - len(now.plain)]) if widened else None

    def _running(self) -> Filtering:
        if self._now is None:
            raise EffaceError("safree met a picture that it was not told of; draw through generate()")
        return self._now


def _calls_back(pipe: Any) -> bool:
    """Whether a pipeline lets a callback change the states between steps."""
    return "callback_on_step_end" in inspect.signature(type(pipe).__call__).parameters
