"""Safe latent diffusion, SLD (arXiv:2211.05105): guidance that also moves away from a safety concept, where the prompt nears it.

    mu    = min(|e_p - e_S| s_S, 1),  0 where e_p - e_S >= threshold
    gamma = mu (e_S - e_0) + s_m nu,           nu <- b nu + (1 - b) gamma
    e     = e_0 + s_g (e_p - e_0 - gamma)      from step `warmup` on; before it, plain guidance (nu moves all the same)

No pipeline of its own is needed: e_0 + s_g ((e_p - gamma) - e_0) is the same sum, so a hook on the denoiser gives back
e_p - gamma in place of e_p, and whatever the pipeline then does with its two answers (guidance, rescaling) stays its own. The
third answer e_S is asked for in a call of its own, which leaves the other two as they are, bit for bit.

Presets (s_S, threshold, warmup, s_m, b): weak (200, 0, 15, 0, 0), medium (1000, .01, 10, .3, .4), strong (2000, .025, 7, .5, .7),
max (5000, 1, 0, .5, .7). Warm-up counts STEPS, as in the paper and diffusers; one released copy compares it with the training
step, of which there are a thousand. The sizes are made for answers that are noise: for networks that give v (v-prediction, flow)
the difference in noise is a_t times the difference in v, with a_t the signal's factor; mu is computed from that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import EffaceError, Unfit
from efface.core.types import Guard, Request
from efface.families import asking, shields
from efface.families.denoisers import Text
from efface.families.text_readers import embedded


class Strength(NamedTuple):
    """How hard SLD steers."""

    scale: float
    threshold: float
    warmup: int
    momentum_scale: float
    momentum: float


PRESETS: Mapping[str, Strength] = {
    "weak": Strength(200, 0, 15, 0, 0), "medium": Strength(1000, 0.01, 10, 0.3, 0.4), "strong": Strength(2000, 0.025, 7, 0.5, 0.7),
    "max": Strength(5000, 1, 0, 0.5, 0.7),
}


class SLDConfig(Config):
    """Settings of SLD; what is None comes from the preset."""

    preset: Literal["weak", "medium", "strong", "max"] = "medium"
    """The paper's four strengths."""
    concept: str = ""
    """The safety concept; empty: the names of the concepts, with commas between them."""
    scale: float | None = Field(None, ge=0)
    """s_S, how fast the move away reaches its full size; 0 is plain guidance."""
    threshold: float | None = None
    """Differences e_p - e_S from which on nothing is moved."""
    warmup: int | None = Field(None, ge=0)
    """Steps before the first that is moved."""
    momentum_scale: float | None = Field(None, ge=0, le=1)
    """s_m, how much of the momentum is added."""
    momentum: float | None = Field(None, ge=0, lt=1)
    """b, how much of the momentum is kept from step to step."""


class SLD(Guard[SLDConfig]):
    """Moves every picture away from the concept during sampling."""

    card = Card(
        name="sld", title="Safe latent diffusion", paper="arXiv:2211.05105", families=("diffusion",), needs=("generate",), uses=("names",),
        technique="filtering", intent="suppress", touches=("logits",), locality="none", data=("names",), operator="logits",
        sequence="accumulates", reversible=True, guarantee="empirical",
        departs="the safety concept is the request's own, where the paper has a list of unsafe things; for networks that give v, sizes are those of the "
        "noise that v implies (the paper knows networks that give noise alone)",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject behind SLD. Raises Unfit for a concept without words, or a denoiser with guidance built in."""
        config = self.config
        concept = config.concept or ", ".join(request.names)
        asking.check([concept] if config.concept else request.names, (), None)
        if subject.layout.guided == "inside":
            raise Unfit(f"sld works through guidance by two answers; {type(subject.pipe).__name__} has its guidance built in; use negative_prompt or safree")
        given = {name: value for name in Strength._fields if (value := getattr(config, name)) is not None}
        return subject.guarded(SLDShield(concept, PRESETS[config.preset]._replace(**given)))


@dataclass
class Moving:
    """One generation under way."""

    count: int
    """Pictures."""
    text: Text
    """The safety concept, once for each."""
    step: int = 0
    momentum: Tensor | None = None


class SLDShield(shields.Shield):
    """Gives back e_p - gamma in place of e_p, at every step from `warmup` on."""

    def __init__(self, concept: str, strength: Strength) -> None:
        self.concept, self.strength = concept, strength
        self._now: Moving | None = None

    def arrange(self, subject: Any, call: shields.Call) -> dict[str, Any]:
        """The call as it is; the safety concept is read for it. Raises Unfit without guidance."""
        shields.refuse_unguided(subject, call, "sld")
        count = shields.count_of(call) * int(call.get("num_images_per_prompt", call.get("num_videos_per_prompt", 1)))
        self._now = Moving(count, embedded(subject, [self.concept], call).repeat(count))
        return dict(call)

    @contextmanager
    def steer(self, subject: Any) -> Iterator[None]:
        """Inside the block, the denoiser's answers are moved."""
        handle = subject.denoiser.register_forward_hook(lambda *given: self._moved(subject, *given), with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()
            self._now = None

    def review(self, outputs: Any) -> Any:
        """The pictures. Raises EffaceError where the denoiser drew them without being steered."""
        if self._now is None or self._now.step == 0:
            raise EffaceError("sld did not steer this picture: the pipeline never asked its denoiser for two answers at once")
        return outputs

    def _moved(self, subject: Any, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        now = self._now
        said = shields.answer(output)
        if now is None:
            raise EffaceError("sld met a picture that it was not told of; draw through generate()")
        if len(said) < 2 * now.count:  # asked for something else than guidance
            return None
        free, prompt = said[: now.count], said[now.count : 2 * now.count]
        rows = shields.rows_in(args, kwargs)
        args, kwargs = shields.picked((args, kwargs), rows, lambda given: given[now.count : 2 * now.count])
        # forward(), not a call: hooks of this denoiser, this one among them, must not see the third question.
        unsafe = shields.answer(module.forward(*args, **shields.with_text(kwargs, now.text)))
        t = args[1] if len(args) > 1 else kwargs["timestep"]
        size = 1.0 if subject.schedule.kind == "epsilon" else subject.schedule.factors(torch.as_tensor(t).reshape(-1)[:1], said)[0]
        gamma = away(free, prompt, unsafe, size, self.strength)
        if now.momentum is not None:
            gamma = gamma + self.strength.momentum_scale * now.momentum
        kept = self.strength.momentum
        now.momentum = (1 - kept) * gamma if now.momentum is None else kept * now.momentum + (1 - kept) * gamma
        moving, now.step = now.step >= self.strength.warmup, now.step + 1
        if not moving:
            return None
        return shields.answered(output, torch.cat([free, prompt - gamma, said[2 * now.count :]]))


def away(free: Tensor, prompt: Tensor, unsafe: Tensor, size: Any, strength: Strength) -> Tensor:
    """mu (e_S - e_0); `size` times a difference of answers is a difference in noise."""
    difference = (prompt - unsafe) * size
    mu = (difference.abs() * strength.scale).clamp(max=1.0)
    return torch.where(difference >= strength.threshold, torch.zeros_like(mu), mu) * (unsafe - free)
