"""Score forgetting distillation, SFD (arXiv:2409.11219): the model becomes a one-step generator that draws something else for the concept.

Teacher phi (the model, frozen), fake score psi and generator G all begin with the model's weights (ops/score_distillation.py has
the losses). Each iteration is a step of psi and a step of G, on prompts c of keep rows and c_f of forget rows:

    psi:  L_psi(G(c), c) + fake_forget_weight * L_psi(G(c_f), c_f)
    G:    L_SiD(x_phi(c), x_psi(c)) + forget_weight * L_SiD(x_phi(c_safe), x_psi(c_f))    on x_g = G(c), G(c_f)

c_safe is c_f with the concept's phrase replaced by the request's "instead", or by its near concepts in turn; a prompt that says
the concept in other words becomes the safe phrase alone. No picture is read or drawn for training: prompts are all.

The result draws in ONE step from training step `start`: its pipeline has an Euler scheduler whose noise levels end there, so the
saved folder works in plain diffusers with num_inference_steps=1 and guidance_scale=1. It is no multi-step denoiser any more.

Code for Stable Diffusion 1.5: alpha 1, guidance 4.5 for teacher and fake score, one prompt of ten emptied, steps 20 to 979, start
625, weights 1, batch 8, learning rates 1e-6 and 3e-6 from a generator that was distilled before; for CIFAR-10: alpha 1.2, no
guidance, steps 38 to 711, start 440, weights .01, batch 128, 1e-5, 50,000 iterations, decay .9999. Both clip gradient values at
1. `distil` makes the two stages of the code one run. Few steps on a small model want rates of 1e-4 and more, psi's two to six
times G's: a fake score that lags behind leaves the safe concept itself off its place.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import BadConfig, BadRows, Unfit
from efface.core.types import Method, Request, Row
from efface.families import tokens
from efface.families.denoisers import Text
from efface.families.diffusion import prompt_of
from efface.families.noising import schedule_of
from efface.ops import score_distillation as distillation
from efface.ops.loop import draw, in_steps
from efface.ops.score_distillation import Ask, Asked, Networks, Plan, Say


class SFDConfig(Config):
    """Settings of score forgetting distillation."""

    alpha: float = Field(1.0, ge=0)
    """Weight of the second part of the generator's loss; 1 and 1.2 are the paper's."""
    forget_weight: float = Field(1.0, ge=0)
    """Weight of the generator's loss on forget prompts; that on keep prompts has 1."""
    fake_forget_weight: float = Field(1.0, ge=0)
    """Weight of the fake score's loss on forget prompts."""
    guidance: float = Field(4.5, ge=1)
    """Guidance of the teacher, which the generator then has built in; 1 for none, and for models with guidance of their own."""
    fake_guidance: float = Field(4.5, ge=1)
    """Guidance of the fake score, when it is trained and when it is asked."""
    empty: float = Field(0.1, ge=0, lt=1)
    """Share of prompts that are emptied when a fake score with guidance is trained."""
    start: int = Field(625, ge=1)
    """Training step at which the generator draws; a flow model starts from pure noise instead."""
    low: int = Field(20, ge=0)
    """Lowest training step whose noise the losses add."""
    high: int = Field(980, ge=1)
    """Training step below which that noise stays."""
    fake_lr: float = Field(3e-6, gt=0)
    """Learning rate of the fake score; that of the generator is fit.lr."""
    ema: float = Field(0.9999, ge=0, lt=1)
    """Decay of the average of the generator's weights, reached by degrees; 0 takes the last weights."""
    distil: int = Field(0, ge=0)
    """First stage: so many steps of distillation without forgetting, forget prompts among the kept ones, before those of fit."""
    fit: Fit = Fit(optimizer="adam", lr=1e-6, steps=12500, batch=8)
    """Optimizer settings, Adam without momentum; fit.clip bounds each entry of a gradient; no checkpoint is kept, and fit.rank is not possible."""


class SFD(Method[SFDConfig]):
    """Distills the model into a one-step generator that follows the teacher's score of something else for the concept."""

    card = Card(
        name="sfd", title="Score forgetting distillation", paper="arXiv:2409.11219", families=("diffusion",),
        uses=("forget", "keep", "names", "near", "instead"),
        technique="parameter optimization", intent="remove", touches=("weights",), locality="one module", data=("forget rows", "keep rows", "names"), operator="weights",
        sequence="accumulates", reversible=False, guarantee="empirical",
        departs="a sample that is not finite is left out and the mean taken over the others, where the code divides by all; a gradient that is "
        "not finite ends the run, where the code zeroes it; the average's decay rises by degrees; both networks are clipped at any precision; "
        "a prompt without the concept's phrase becomes the safe phrase, where the code leaves it; flow models and near concepts in turn are added",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the one-step generator. Raises BadConfig, Unfit or Diverged."""
        config, keep = self.config, [prompt_of(row) for row in request.rows("keep")]
        check(config, subject)
        pairs = paired(request, subject)
        own = [prompt for prompt, _ in pairs]
        pools: dict[str, Sequence[Row]] = {"remain": [{"prompt": p} for p in keep], "forget": [{"prompt": p} for p in own]}
        if empty := [name for name, rows in pools.items() if not rows]:
            raise BadRows(f"there are no {' and no '.join(empty)} rows to train on")
        fit = in_steps(config.fit, pools)
        fit = fit.model_copy(update={"steps": fit.steps + config.distil})
        names = subject.names_of("denoiser")
        after, fake = subject.trainable(names), subject.trainable(names)
        kind = next(after.denoiser.parameters()).dtype
        for trained in (after, fake) if kind != torch.float32 else ():
            trained.denoiser.float()  # steps of 1e-6 are nothing to weights in half precision
        networks = cast(subject, fake, after, config)
        plan = Plan(
            config.alpha, config.start, config.low, config.high, config.forget_weight, config.fake_forget_weight, config.distil, config.ema,
        )
        began = time.monotonic()
        distillation.distill(networks, asking(subject, keep, pairs, config, ctx), plan, fit, config.fake_lr, ctx)
        ctx.note(training_seconds=time.monotonic() - began, safe_prompts="; ".join(sorted({safe for _, safe in pairs})[:5]))
        if kind != torch.float32:
            after.denoiser.to(kind)
        return one_step(after, config.start)


def check(config: SFDConfig, subject: Any) -> None:
    """Raise BadConfig or Unfit for settings and models that make no distillation."""
    steps = subject.schedule.steps
    if config.fit.rank:
        raise BadConfig(f"setting fit.rank = {config.fit.rank}: sfd trains whole networks; leave fit.rank at 0")
    if not config.low < config.high <= steps:
        raise BadConfig(f"settings low = {config.low}, high = {config.high}: low must be below high, and high at most {steps}, the model's training steps")
    if config.start >= steps:
        raise BadConfig(f"setting start = {config.start}: it must be below {steps}, the model's training steps")
    if subject.layout.frames:
        raise Unfit(f"sfd distills models that draw single pictures; {type(subject.pipe).__name__} draws videos")


def paired(request: Request, subject: Any) -> list[tuple[str, str]]:
    """(forget prompt, safe prompt) of every forget row. Raises Unfit when nothing says what to draw instead, or it is the concept."""
    safe = [request.instead] if request.instead else list(request.near)
    if not safe:
        raise Unfit("sfd draws something else for the concept, and the request does not say what; give --instead or --near")
    tokens.refuse_empty(subject.pipe.tokenizer, [*request.names, *safe], "the concept")
    if same := {_plain(name) for name in request.names} & {_plain(phrase) for phrase in safe}:
        raise Unfit(f"{sorted(same)[0]!r} is to be forgotten and to be drawn instead; name something else with --instead or --near")
    prompts = [prompt_of(row) for row in request.rows("forget")]
    return [(prompt, replaced(prompt, request.names, safe[at % len(safe)])) for at, prompt in enumerate(prompts)]


def replaced(prompt: str, concepts: Sequence[str], safe: str) -> str:
    """The prompt with a concept's phrase, or the phrase without its article, replaced; the safe phrase alone where neither is there."""
    for concept in concepts:
        for old, new in ((concept, safe), (_plain(concept), _plain(safe))):
            changed, count = re.subn(rf"(?<!\w){re.escape(old)}(?!\w)", lambda _, new=new: new, prompt, flags=re.IGNORECASE)  # type: ignore[misc]
            if count:
                return changed
    return safe


def _plain(phrase: str) -> str:
    """The phrase without its article, in lower case."""
    return re.sub(r"^(an?|the)\s+", "", phrase.strip().lower())


def cast(teacher: Any, fake: Any, generator: Any, config: SFDConfig) -> Networks:
    """The three networks; the fake score and the generator train their denoisers."""
    blank = teacher.embed_text([""])
    mixed = config.fit.precision == "bf16"

    def empty(count: int) -> Text:
        return blank.repeat(count)

    return Networks(
        teacher.schedule, distillation.guided(_say(teacher, mixed), config.guidance, empty), distillation.guided(_say(fake, mixed), config.fake_guidance, empty),
        _say(generator, mixed), list(fake.denoiser.parameters()), list(generator.denoiser.parameters()), teacher.latent_shape,
    )


def _say(subject: Any, mixed: bool) -> Say:
    kind, device = next(subject.denoiser.parameters()).dtype, subject.device

    def say(latents: Tensor, t: Tensor, text: Text) -> Tensor:
        read = Text(text.states.to(kind), None if text.pooled is None else text.pooled.to(kind))
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            return subject.noise(latents.to(kind), t.to(device), read).float()  # type: ignore[no-any-return]

    return say


def asking(subject: Any, keep: Sequence[str], pairs: Sequence[tuple[str, str]], config: SFDConfig, ctx: Context) -> Ask:
    """Draws the prompts of each batch, without replacement within an epoch, and embeds them."""
    everything = [*((prompt, prompt) for prompt in keep), *((prompt, prompt) for prompt, _ in pairs)]
    remain = everything[: len(keep)]
    chance = config.empty if config.fake_guidance != 1 else 0.0

    def ask(step: int, who: str, name: str) -> Asked:
        rows = pairs if name == "forget" else everything if step < config.distil else remain
        picked = [rows[at] for at in draw(len(rows), config.fit.batch, step, ctx.seed_for("rows", who, name))]
        if who == "fake":
            emptied = (torch.rand(len(picked)) < chance).tolist()
            picked = [("", "") if gone else pair for gone, pair in zip(emptied, picked, strict=True)]
        with torch.no_grad():
            own = subject.embed_text([prompt for prompt, _ in picked])
            safe = own if name == "remain" or who == "fake" else subject.embed_text([prompt for _, prompt in picked])
        return Asked(own, safe, len(picked))

    return ask


def one_step(after: Any, start: int) -> Any:
    """The subject with a sampler that draws in one step from training step `start`; a flow model's own does so already."""
    after.denoiser.requires_grad_(False)
    after.model.eval()
    after.origin = ""  # these are no longer the weights that the name stood for
    built_in = bool(after.denoiser.config.get("guidance_embeds", False))  # then the denoiser reads it, and was trained with it
    after.sampling = replace(after.sampling, steps=1, guidance=after.sampling.guidance if built_in else 1.0)
    if after.schedule.kind != "flow":
        after.pipe.register_modules(scheduler=ending_at(after.pipe.scheduler, start))
        after.schedule = schedule_of(after.pipe.scheduler)
    return after


def ending_at(scheduler: Any, start: int) -> Any:
    """An Euler scheduler with the noise levels of another up to step `start`, so that its one step is G's: s n in, x_g out.

    With one step from the top, Euler scales noise n by s / a, feeds the network that times a, and ends at s / a (n - e) = x_g.
    """
    from diffusers import EulerDiscreteScheduler

    config = scheduler.config
    return EulerDiscreteScheduler(
        num_train_timesteps=start + 1, trained_betas=scheduler.betas[: start + 1].tolist(), prediction_type=config.get("prediction_type", "epsilon"),
        timestep_spacing="trailing", steps_offset=1, beta_start=config.beta_start, beta_end=config.beta_end, beta_schedule=config.beta_schedule,
    )
