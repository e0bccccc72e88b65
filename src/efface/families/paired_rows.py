"""What trained erasure needs of a request's rows: what to draw in place of the concept, clean latents, states of the prompts, noise."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from efface.core.context import Context
from efface.core.errors import Unfit
from efface.core.types import Request, Row
from efface.families import tokens, trajectories
from efface.families.diffusion import pictures_of, prompt_of

CHUNK = 64
ARTICLE = re.compile(r"^(a|an|the)\s+", re.IGNORECASE)
LINK = r"(?:(?<!\w)(?:in|of|by|with|on)\s+)?"
"""A word that has nothing to say once what follows it is gone."""


def paired(subject: Any, request: Request, ctx: Context) -> list[Row]:
    """The forget rows with "other": the prompt whose picture takes their place; one row for each of several such prompts.

    The concept in a prompt is exchanged for `instead`, else for each of `near`; without both, every row gets the prompt of
    a keep row. Raises Unfit for an empty concept and where a prompt would stand for itself.
    """
    tokenizer = getattr(subject.pipe, "tokenizer", None)
    named = [*request.names, *request.near, *([request.instead] if request.instead is not None else [])]
    if tokenizer is not None and request.instead != "":
        tokens.refuse_empty(tokenizer, named, "the concept")
    found: list[Row] = []
    source = ctx.random("other prompts")
    others = [request.instead] if request.instead is not None else list(request.near)
    for row in request.rows("forget"):
        prompt = prompt_of(row)
        made = [exchanged(prompt, request.names, other) for other in others] or [prompt_of(source.choice(request.rows("keep")))]
        if prompt in made:
            raise Unfit(f"the prompt {prompt!r} was to be drawn as itself; give another concept with --instead or --near")
        found += [{**row, "other": other} for other in made]
    return found


def exchanged(prompt: str, concepts: Sequence[str], other: str) -> str:
    """The prompt with the concept's phrase exchanged for another one; `other` alone where the phrase does not stand in it.

    "a cat" by "a dog" makes "noto style dog" of "noto style cat": where the phrase with its article is not found, the phrase
    without one is exchanged. Exchanged for nothing, a phrase takes the word along that led to it.
    """
    for bare in (False, True):
        for concept in concepts:
            phrase, by = (ARTICLE.sub("", concept), ARTICLE.sub("", other)) if bare else (concept, other)
            pattern = re.compile(rf"{'' if by else LINK}(?<!\w){re.escape(phrase)}(?!\w)", re.IGNORECASE)
            if phrase and pattern.search(prompt):
                return " ".join(pattern.sub(lambda found, by=by: by, prompt).split())  # type: ignore[misc]
    return other


def clean_latents(subject: Any, rows: Sequence[Row], ctx: Context, each: int = 1) -> Tensor:
    """Latents (N, each, C, h, w) of the rows' pictures; those of rows without "image" are drawn by the subject, `each` of a prompt.

    A row with a picture has it `each` times.
    """
    own = [at for at, row in enumerate(rows) if row.get("image") is not None]
    prompts = list(dict.fromkeys(prompt_of(row) for row in rows if row.get("image") is None))
    drawn = ctx.once((subject, "clean latents", tuple(prompts), each, ctx.seed), lambda: _drawn(subject, prompts, ctx, each)) if prompts else {}
    given = {}
    if own:
        coded = subject.latents(pictures_of([rows[at] for at in own]))
        given = {at: latents.expand(each, *latents.shape) for at, latents in zip(own, coded, strict=True)}
    return torch.stack([given[at] if at in given else drawn[prompt_of(row)] for at, row in enumerate(rows)])


def as_many(each: int, rows: Sequence[Row], others: Sequence[Row]) -> int:
    """Pictures of each of `others` that make as many together as `each` of `rows` do; at least one."""
    return max(1, math.ceil(each * len(rows) / max(1, len(others))))


def _drawn(subject: Any, prompts: Sequence[str], ctx: Context, each: int) -> dict[str, Tensor]:
    """{prompt: latents (each, C, h, w)} as the subject's own sampling ends with them."""
    many = [prompt for prompt in prompts for _ in range(each)]
    seeds = [ctx.seed_for("picture", prompt, number) % 2**62 for prompt in prompts for number in range(each)]
    sampling, ends = subject.sampling, []
    pieces = range(0, len(many), CHUNK)
    for at in ctx.progress(pieces, "drawing pictures to train on", len(pieces)):
        path = trajectories.drawn(subject, many[at : at + CHUNK], seeds[at : at + CHUNK], sampling.steps, sampling.guidance)
        ends.append(path.latents[-1].clone())  # the way there would hold a large model's memory
    return dict(zip(prompts, torch.cat(ends).split(each), strict=True))


def views(latents: Tensor, index: Tensor) -> Tensor:
    """One of the pictures (B, C, h, w) of each row of a batch, drawn from torch's global generator."""
    return latents[index, torch.randint(latents.shape[1], (len(index),))]


def noised(subject: Any, clean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(noisy latents, steps t (B,), what the denoiser should answer), with t and noise from torch's global generator."""
    mixed, t, noise = subject.schedule.noised(clean)
    return mixed, t, subject.schedule.target(clean, noise, t)
