"""What a denoiser reads for concepts: the states that a closed-form erasure moves, what it moves them to, and what it holds.

Positions are those of real tokens, in every text encoder whose states the denoiser reads: one for Stable Diffusion and FLUX, two
one after the other for Stable Diffusion 3. Stable Diffusion XL joins two encoders' states of the same tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from efface.core.config import Config
from efface.core.context import Context
from efface.core.types import Request
from efface.families import asking, text_edit, text_readers, tokens
from efface.ops import closed_form

log = logging.getLogger("efface")
CHUNK = 64
"""Prompts of one pass through the text encoders."""
Where = Literal["last", "last_to_end", "all"]
"""The last token of the text (the begin token of an empty one), everything from there on, or all positions."""


class ClosedForm(Config):
    """Settings that closed-form erasures share."""

    guide: str = ""
    """What the concept is read as, where the request names nothing instead; "" is the empty prompt."""
    tokens: Where = "last"
    """Positions that are moved: the last token of the text, everything from there to the end, or all."""
    expansions: tuple[str, ...] = ()
    """Further ways to say a concept or a neighbor, with {} in its place, such as "image of {}" or, for a style, "a house in {}"."""
    expand_guide: bool = False
    """Say the guide in the same ways, so that what stands around the concept stays; the paper's code reads each way as the guide alone."""
    lam: float = Field(0.5, ge=0)
    """Weight of staying near the old weights in all directions."""
    erase: float = Field(1.0, gt=0)
    """Weight of each state that is moved."""
    preserve: float = Field(1.0, ge=0)
    """Weight of each state of a neighbor or keep prompt that is held; 0 holds none."""
    kept: int = Field(20, ge=0)
    """Most prompts of the keep rows that are held, evenly chosen; the more of a width they fill, the less room is left to move anything."""

    @field_validator("expansions")
    @classmethod
    def _with_place(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        if bad := [text for text in given if "{}" not in text]:
            raise ValueError(f"{bad[0]!r} has no {{}} where the concept stands")
        return given


@dataclass(frozen=True)
class Reader:
    """A tokenizer whose tokens stand at some of the positions that the denoiser reads."""

    tokenizer: Any
    first: int
    """Where they begin."""
    length: int
    """How many they are."""

    def positions(self, text: str, which: tokens.Which) -> list[int]:
        """Positions of one text among all that the denoiser reads."""
        return [self.first + at for at in tokens.cut(self.tokenizer, [text], self.length).positions(which)]

    def span(self, text: str, phrase: str) -> list[int]:
        """Positions of a phrase inside a text among all that the denoiser reads."""
        return [self.first + at for at in tokens.span(self.tokenizer, text, phrase) if at < self.length]


@dataclass(frozen=True)
class Asked:
    """Texts to move, what they become, and texts to hold."""

    names: tuple[str, ...]
    """The concepts as they are named."""
    guide: str
    """What stands in their place."""
    concepts: tuple[str, ...]
    """The concepts in all ways they are said."""
    guides: tuple[str, ...]
    """What each of those becomes."""
    held: tuple[str, ...]


def readers(subject: Any, length: int) -> list[Reader]:
    """The tokenizers behind the `length` positions that the denoiser reads, in order."""
    pipe = subject.pipe
    if subject.layout.name == "sd3":  # CLIP's positions, then T5's, which are zeros where there is no T5
        clip = Reader(pipe.tokenizer, 0, int(pipe.tokenizer_max_length))
        return [clip] if pipe.text_encoder_3 is None else [clip, Reader(pipe.tokenizer_3, clip.length, length - clip.length)]
    return [Reader(pipe.tokenizer_2 if subject.layout.name == "flux" else pipe.tokenizer, 0, length)]


def asked(subject: Any, request: Request, settings: ClosedForm, ctx: Context) -> Asked:
    """What a request wants of a closed-form erasure. Raises Unfit for a concept that is empty, or kept as well.

    Neighbors and keep prompts are held. Words that a tokenizer does not know whole are noted.
    """
    instead = request.instead if request.instead is not None else settings.guide
    prompts = request.sample("keep", settings.kept) if request.keep is not None and settings.kept else []
    keep = [str(row["prompt"]) for row in prompts if isinstance(row.get("prompt"), str)]
    asking.check(request.names, [*request.near, *(text for text in keep if text.strip())], instead)
    text_edit.text_layers(subject)
    for reader in readers(subject, text_readers.read(subject, [""]).states.shape[1]):
        tokens.refuse_empty(reader.tokenizer, request.names, "the concept")
        note_pieces(reader.tokenizer, request.names, ctx)
    held = [*expanded(request.near, settings.expansions), *keep] if settings.preserve else []
    concepts = tuple(expanded(request.names, settings.expansions))
    said = (instead, *(expanded([instead], settings.expansions)[1:] if settings.expand_guide else [instead] * len(settings.expansions)))
    guides = tuple(text.strip() for _ in request.names for text in said)
    return Asked(request.names, instead, concepts, guides, tuple(dict.fromkeys(held)))


def expanded(phrases: Sequence[str], expansions: Sequence[str]) -> list[str]:
    """Each phrase, and each of the ways to say it."""
    return [text.replace("{}", phrase) for phrase in phrases for text in ("{}", *expansions)]


def note_pieces(tokenizer: Any, phrases: Sequence[str], ctx: Context) -> None:
    """Note, and warn of, words that the tokenizer cuts into pieces: it hardly knows them, and neither may the model."""
    found = {word: count for phrase in phrases for word, count in tokens.in_pieces(tokenizer, phrase).items()}
    if found:
        said = ", ".join(f"{word} ({count} pieces)" for word, count in found.items())
        ctx.note(in_pieces=said)
        log.warning("the tokenizer does not know whole: %s; the model may not either, so look at what it draws for the concept", said)


def moves(subject: Any, texts: Asked, settings: ClosedForm) -> closed_form.Moves:
    """States of the concepts, those of the guide in their place, and those to hold."""
    contexts, targets = pairs(subject, texts.concepts, texts.guides, settings.tokens)
    held = chosen(subject, texts.held, settings.tokens) if texts.held else None
    return weighted(contexts, targets, held, settings.erase, settings.preserve)


def weighted(contexts: Tensor, targets: Tensor, held: Tensor | None, erase: float, preserve: float) -> closed_form.Moves:
    """The moves with one weight for all that is moved and one for all that is held."""
    return closed_form.Moves(
        contexts, targets, torch.full((len(contexts),), erase), held, None if held is None else torch.full((len(held),), preserve),
    )


def pairs(subject: Any, concepts: Sequence[str], guides: Sequence[str], which: Where) -> tuple[Tensor, Tensor]:
    """States (n, d) of the concepts at the chosen positions, and as many of their guides', matched from the end."""
    said, other = text_readers.read(subject, concepts).states, text_readers.read(subject, guides).states
    contexts, targets = [], []
    for reader in readers(subject, said.shape[1]):
        for at, (text, guide) in enumerate(zip(concepts, guides, strict=True)):
            here, there = reader.positions(text, which), reader.positions(guide, which)
            count = min(len(here), len(there))
            contexts.append(said[at, here[-count:]])
            targets.append(other[at, there[-count:]])
    return torch.cat(contexts), torch.cat(targets)


def chosen(subject: Any, texts: Sequence[str], which: tokens.Which) -> Tensor:
    """States (n, d) of the texts at the chosen positions, one under the other."""
    states = text_readers.read(subject, texts).states
    places = readers(subject, states.shape[1])
    return torch.cat([own[reader.positions(text, which)] for text, own in zip(texts, states, strict=True) for reader in places])


def edits(subject: Any, texts: Asked, settings: ClosedForm, ctx: Context) -> list[text_edit.Edit]:
    """The maps of unified concept editing: one for the states of the texts, and one for pooled states where the denoiser projects them too.

    Notes the condition number, and what was added to lam where the system was rank-deficient.
    """
    main = solved(moves(subject, texts, settings), settings.lam, ctx)
    found = [text_edit.Edit(main.map, tuple(text_edit.text_layers(subject)), main.factors)]
    if "text.pooled" in subject.layout.roles and (said := text_readers.read(subject, [*texts.concepts, *texts.guides, *texts.held]).pooled) is not None:
        count = len(texts.concepts)
        held = said[2 * count :] if texts.held else None
        pooled = weighted(said[:count], said[count : 2 * count], held, settings.erase, settings.preserve)
        other = solved(pooled, settings.lam, ctx, "pooled_")
        found.append(text_edit.Edit(other.map, tuple(subject.modules_of("text.pooled")), other.factors))
    return found


def solved(
    wanted: closed_form.Moves, lam: float, ctx: Context, label: str = "", prior: Tensor | None = None, start: Tensor | None = None,
) -> closed_form.Solved:
    """The solution of the moves; notes its condition number and what was added to lam, and warns where that is not 0."""
    found = closed_form.solve(wanted, lam, prior, start)
    ctx.note(**{f"{label}condition": found.condition, f"{label}added_to_lam": found.added})
    if found.added:
        log.warning("the system is rank-deficient at lam = %g: %.3g was added to it; set lam higher to choose the value yourself", lam, found.added)
    return found


def applied(subject: Any, found: Sequence[text_edit.Edit], ctx: Context) -> Any:
    """A fork of the subject with the edits; they are written into the run's folder, for it is they that undo the erasure."""
    after = subject
    for number, edit in enumerate(found):
        after = text_edit.applied(after, edit)
        if ctx.folder is not None:
            place = ctx.folder / ("edit" if not number else "edit_pooled")
            place.mkdir(exist_ok=True)
            edit.save(place)
    return after
