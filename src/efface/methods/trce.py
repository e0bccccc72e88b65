"""Towards reliable concept erasure, TRCE (arXiv:2503.07389): the end token of sentences is moved, then early denoising is trained apart.

Stage 1, closed form over all projections W that read text. A concept and what is safe stand at the same place of each template,
which gives N pairs of sentences; chosen states k of the one (begin token, first end token, last position, the concept's words)
are read as states k' of the other (its begin token, end token, last position, and the last position for every word):

    W' = W M,  M = (1/N sum w k' k^T + g B + lam I) (1/N sum w k k^T + g B + lam I)^-1

w = `weights` of the kind of state, times the number of padding tokens for the last position. By default only the first end
token moves. B is the mean over keep prompts of sum k k^T over all their positions (COCO captions in the paper); g = 1e-4, lam 0.

Stage 2 trains self-attention and the queries of cross-attention. x_t are steps of the original's own drawings of the concept, from
the first half of 50; e* is the original, e1 the model after stage 1:

    prefer = e*(safe) + G (e*(safe) - e*(""))      reject = e*(concept) + G (e*(concept) - e*(""))
    minimized = 1/2 sum over q in {concept, ""} of max(0, beta (|e(x_t, q) - prefer|^2 - |e(x_t, q) - reject|^2 + m))
                + retain |e(x'_t, "") - e1(x'_t, "")|^2,   x' from drawings of the empty prompt, four for each x_t

squares are means over elements. G = 15, beta 1, m .01, retain 100; AdamW at 1e-6, batch 1. fit.steps = 0 leaves stage 1. What is
safe should be something that can be drawn: with the empty prompt the preferred answer is e*("") itself, to which every
answer is nearer than to the rejected one, so that the contrast rests from the start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from pydantic import Field, field_validator
from torch import Tensor

from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import BadConfig
from efface.core.types import Method, Request, Row
from efface.families import concept_states, text_edit, text_readers, trajectories
from efface.families.denoisers import Text
from efface.ops import closed_form
from efface.ops.loop import descend

OBJECTS = ("{}", "an image of {}", "a picture of {}", "a photo of {}", "a drawing of {}", "a painting of {}", "{} in the picture")
STYLES = ("{}", "an image in {}", "a picture in {}", "a cat in {}", "a dog in {}", "a car in {}", "a tree in {}", "an apple in {}", "a boat in {}")
Weights = tuple[float, float, float, float]
PLAIN = 4
"""Steps of the empty prompt's drawings beside each step of the concept's."""


class TRCEConfig(Config):
    """Settings of TRCE."""

    safe: str = ""
    """What is drawn in the concept's place, where the request names nothing instead."""
    templates: tuple[str, ...] = ()
    """Sentences of stage 1, with {} where the concept stands; none given takes some for objects, or for concepts that end with the word style."""
    weights: Weights = (0.0, 1.0, 0.0, 0.0)
    """Weights of the begin token, the first end token, the last position and each token of the concept."""
    prior: float = Field(1e-4, ge=0)
    """Weight g of reading the keep prompts as before, all positions of a prompt together."""
    lam: float = Field(0.0, ge=0)
    """Weight of staying near the old weights in all directions."""
    picture: str = ""
    """Prompt of the drawings of stage 2, with {} where the concept stands; "" takes "an image of {}", or "an image in {}" for styles."""
    each: int = Field(5, ge=1)
    """Drawings of each concept."""
    plain: int = Field(64, ge=1)
    """Drawings of the empty prompt."""
    steps: int = Field(50, ge=2)
    """Sampling steps of the drawings, of which the first half is trained on."""
    guidance: float = Field(3.0, ge=0)
    """Guidance of the drawings of the concept."""
    push: float = Field(15.0, ge=0)
    """Guidance G of what is preferred and what is rejected."""
    beta: float = Field(1.0, gt=0)
    """Weight of the contrast between them."""
    margin: float = Field(0.01, ge=0)
    """How much nearer to the preferred than to the rejected the answer must be before the contrast rests."""
    retain: float = Field(100.0, ge=0)
    """Weight of answering the empty prompt as after stage 1."""
    fit: Fit = Fit(optimizer="adamw", lr=1e-6, weight_decay=0.01, steps=300, batch=1, clip=0)
    """Optimizer settings of stage 2; steps = 0 leaves stage 1, adapters (fit.rank) are not possible."""

    @field_validator("templates", "picture")
    @classmethod
    def _with_place(cls, given: Any) -> Any:
        if bad := [text for text in ([given] if isinstance(given, str) else given) if text and "{}" not in text]:
            raise ValueError(f"{bad[0]!r} has no {{}} where the concept stands")
        return given


class Drawings(NamedTuple):
    """What stage 2 trains on: steps of both kinds of drawings, and texts one to each drawing of a concept."""

    concept: trajectories.Path
    plain: trajectories.Path
    unsafe: Text
    safe: Text
    empty: Text


class TRCE(Method[TRCEConfig]):
    """Moves the end token of sentences with the concept, then drives early denoising from the concept to what is safe."""

    card = Card(
        name="trce", title="Towards reliable concept erasure", paper="arXiv:2503.07389", families=("diffusion",), needs=("weights",),
        uses=("names", "near", "instead", "keep"),
        technique="closed form", intent="remove", touches=("weights",), locality="selected parameters", data=("keep rows", "names"), operator="weights",
        sequence="accumulates", reversible=False, guarantee="empirical",
        departs="weights are built for every token of the concept, the preserve sum starts at 0, gradients are zeroed at each step, latents are kept "
        "with the step they stand before, 64 drawings of the empty prompt where the code has 2,000, and templates of our own",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject after both stages; text encoder, autoencoder and all other weights are shared.

        Raises Unfit for a concept that is empty or also kept, BadConfig for fit.rank or when nothing is to move.
        """
        config = self.config
        if config.fit.rank:
            raise BadConfig(f"setting fit.rank = {config.fit.rank}: trce trains the model's own weights; leave fit.rank at 0")
        if not any(config.weights) or min(config.weights) < 0:
            raise BadConfig(f"setting weights = {config.weights}: each must be 0 or more, and one above 0")
        texts = concept_states.asked(subject, request, concept_states.ClosedForm(guide=config.safe), ctx)
        moves = sentence_moves(subject, sentences(texts, config.templates), config.weights)
        keep = [*dict.fromkeys([*request.near, *(str(row["prompt"]) for row in request.rows("keep"))])]
        found = concept_states.solved(moves, config.lam, ctx, prior=config.prior * prior_of(text_readers.read(subject, keep).states))
        first = concept_states.applied(subject, [text_edit.Edit(found.map, tuple(text_edit.text_layers(subject)), found.factors)], ctx)
        if not (config.fit.steps or config.fit.epochs):
            return first
        rows: list[Row] = [{"prompt": depiction(texts, config.picture).replace("{}", name)} for name in texts.names for _ in range(config.each)]
        loss = self._loss(subject, first, after := first.trainable(trained(first)), self._drawn(subject, rows, texts, ctx))
        return descend(after, {"concept": rows}, loss, config.fit, ctx)

    def _drawn(self, subject: Any, rows: Sequence[Row], texts: concept_states.Asked, ctx: Context) -> Drawings:
        """Drawings of the unedited model, with every step kept."""
        config = self.config
        unsafe = [str(row["prompt"]) for row in rows]
        seeds = [ctx.seed_for("trce", kind, at) for kind, count in (("concept", len(rows)), ("plain", config.plain)) for at in range(count)]
        read = text_readers.read(subject, [*unsafe, depiction(texts, config.picture).replace("{}", texts.guide).strip(), ""])
        return Drawings(
            trajectories.drawn(subject, unsafe, seeds[: len(rows)], config.steps, config.guidance, ctx),
            trajectories.drawn(subject, [""] * config.plain, seeds[len(rows) :], config.steps, 1.0, ctx),
            read[: len(rows)], read[len(rows) : len(rows) + 1], read[len(rows) + 1 :],
        )

    def _loss(self, subject: Any, first: Any, after: Any, drawn: Drawings) -> Callable[[Mapping[str, Any]], Mapping[str, Tensor]]:
        """The two terms of stage 2, for batches of drawings of the concept."""
        config = self.config

        def loss(batches: Mapping[str, Any]) -> Mapping[str, Tensor]:
            at = batches["concept"].index
            x, t = drawn.concept.at(torch.randint(len(drawn.concept.steps) // 2, (len(at),)), at)
            prefer, reject = references(subject, x, t, (drawn.unsafe[at], drawn.safe.repeat(len(at)), drawn.empty.repeat(len(at))), config.push)
            said = [after.noise(x, t, text) for text in (drawn.unsafe[at], drawn.empty.repeat(len(at)))]
            count = PLAIN * len(at)
            z, u = drawn.plain.at(torch.randint(len(drawn.plain.steps), (count,)), torch.randint(drawn.plain.latents.shape[1], (count,)))
            with torch.no_grad():
                before = first.noise(z, u, drawn.empty.repeat(count))
            kept = (after.noise(z, u, drawn.empty.repeat(count)) - before).square().mean()
            contrast = torch.stack([hinge(one, prefer, reject, config.beta, config.margin) for one in said]).sum(0) / 2
            return {"contrast": contrast.mean(), "retain": config.retain * kept}

        return loss


def is_style(name: str) -> bool:
    """Whether a concept is a style, by its last word."""
    return name.lower().split()[-1:] == ["style"]


def depiction(texts: concept_states.Asked, picture: str) -> str:
    """The template of drawings of the concepts: `picture`, or what goes with the first of them."""
    return picture or ("an image in {}" if is_style(texts.names[0]) else "an image of {}")


def sentences(texts: concept_states.Asked, templates: Sequence[str]) -> list[tuple[str, str, str]]:
    """(sentence with the concept, the same with what is safe, the concept) for all concepts and templates."""
    return [
        (template.replace("{}", name), template.replace("{}", texts.guide).strip(), name)
        for name in texts.names
        for template in (templates or (STYLES if is_style(name) else OBJECTS))
    ]


def sentence_moves(subject: Any, given: Sequence[tuple[str, str, str]], weights: Weights) -> closed_form.Moves:
    """Stage 1's states and weights, over all sentences; each weight is divided by the number of sentence pairs."""
    old = text_readers.read(subject, [one for one, _, _ in given]).states
    new = text_readers.read(subject, [two for _, two, _ in given]).states
    contexts, targets, scales = [], [], []
    for reader in concept_states.readers(subject, old.shape[1]):
        last = reader.first + reader.length - 1
        for row, (one, two, concept) in enumerate(given):
            begin, ends, words = reader.positions(one, "bos"), reader.positions(one, "eot"), reader.span(one, concept)
            padding = max(1, len(reader.positions(one, "padding")))
            here = [*begin, *ends, last, *words]
            there = [*reader.positions(two, "bos"), *reader.positions(two, "eot"), last, *[last] * len(words)]
            contexts.append(old[row, here])
            targets.append(new[row, there])
            scales += [weights[0]] * len(begin) + [weights[1], weights[2] * padding] + [weights[3]] * len(words)
    used = torch.tensor(scales) > 0  # what weighs nothing must not even be rounded
    return closed_form.Moves(torch.cat(contexts)[used], torch.cat(targets)[used], torch.tensor(scales, dtype=torch.float64)[used] / len(given))


def prior_of(states: Tensor) -> Tensor:
    """B (d, d): the mean over prompts of sum k k^T over all positions of states (N, L, d)."""
    flat = states.double().cpu().flatten(0, 1)
    return flat.T @ flat / len(states)


def trained(subject: Any) -> list[str]:
    """Names of the parameters of stage 2: self-attention, and the queries of cross-attention."""
    return [*subject.names_of("self"), *subject.names_of("cross.query")]


@torch.no_grad()
def references(original: Any, x: Tensor, t: Tensor, texts: tuple[Text, Text, Text], push: float) -> tuple[Tensor, Tensor]:
    """What is preferred and what is rejected, from the original's answers to the concept, to what is safe, and to the empty prompt."""
    unsafe, safe, empty = (original.noise(x, t, text) for text in texts)
    return safe + push * (safe - empty), unsafe + push * (unsafe - empty)


def hinge(said: Tensor, prefer: Tensor, reject: Tensor, beta: float, margin: float) -> Tensor:
    """How far each answer (B, ...) is from being `margin` nearer to the preferred than to the rejected, at least 0, (B,)."""
    near, far = ((said - other).square().flatten(1).mean(1) for other in (prefer, reject))
    return (beta * (near - far + margin)).clamp_min(0)
