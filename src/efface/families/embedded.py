"""Pictures drawn from states of texts rather than from texts: what an adversary sees who may feed a denoiser what he likes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from efface.core.context import Context
from efface.core.errors import Unfit
from efface.core.types import Request, Row
from efface.families import drawn, judges, text_edit, text_readers
from efface.families.denoisers import Text

CHUNK = 64


@dataclass(frozen=True)
class Question:
    """Prompts that ask for the concept, the judge who knows it, and the number of its class."""

    prompts: list[Row]
    """Different prompts, of which `each` pictures are drawn."""
    each: int
    judge: Any
    number: int

    @property
    def rows(self) -> list[Row]:
        """One row a picture."""
        return drawn.repeated(self.prompts, self.each)

    @property
    def seeds(self) -> list[int]:
        """One seed a picture."""
        return drawn.seeds(self.prompts, self.each)

    def shown(self, pictures: np.ndarray) -> np.ndarray:
        """Whether each picture (N, H, W, 3) shows the concept, bool (N,)."""
        found: np.ndarray = judges.chances(self.judge, pictures).argmax(1) == self.number
        return found

    def plain(self, subject: Any, ctx: Context) -> np.ndarray:
        """Whether the subject draws the concept when it is asked in words, bool (N,)."""
        return self.shown(drawn.pictures(subject, self.prompts, ctx, self.each))

    def fed(self, subject: Any, text: Text, ctx: Context) -> np.ndarray:
        """Whether the subject draws the concept from given states, one a prompt, with the seeds of plain(), bool (N,)."""
        seeds, all_states = self.seeds, text.repeat(self.each)
        rows = [{name: value for name, value in row.items() if name in ("prompt", "guidance")} for row in self.rows]
        found = []
        pieces = range(0, len(rows), CHUNK)
        for at in ctx.progress(pieces, "drawing from states", len(pieces)):
            part = all_states[at : at + CHUNK]
            given: dict[str, Tensor] = {"prompt_embeds": part.states} if part.pooled is None else {"prompt_embeds": part.states, "pooled_prompt_embeds": part.pooled}
            found.append(subject.generate(rows[at : at + CHUNK], seeds[at : at + CHUNK], **given))
        return self.shown(np.concatenate(found))


def question(request: Request, ctx: Context, most: int) -> Question:
    """The question of a request, in at most `most` pictures of its forget rows. Raises Missing without a judge who knows the concept."""
    found = judges.judges(ctx)
    name, number = judges.asked(request.names, found)
    prompts = request.sample("forget", most)
    return Question(prompts, max(1, most // len(prompts)), found[name], number)


def bare(subject: Any) -> Any:
    """The subject without shields, which do not bind an adversary who holds the weights."""
    return subject.unguarded() if subject.shields else subject


def texts(original: Any, ask: Question) -> Text:
    """The prompts as the original's denoiser reads them."""
    return text_readers.read(original, [str(row["prompt"]) for row in ask.prompts])


def projections(original: Any, subject: Any, role: str = "") -> tuple[list[Tensor], list[Tensor]]:
    """Weights, in order, that read the states of texts (or play `role`) in both models. Raises Unfit when the models differ in build."""
    found: list[dict[str, Any]] = []
    for model in (original, subject):
        layers = model.modules_of(role) if role else text_edit.text_layers(model)
        found.append({name: layer.weight for name, layer in layers.items()})
    if [(name, weight.shape) for name, weight in found[0].items()] != [(name, weight.shape) for name, weight in found[1].items()]:
        raise Unfit("the original and the candidate differ in the projections that read text; give the model that the candidate was made from")
    return list(found[0].values()), list(found[1].values())


def pooled_too(subject: Any, text: Text) -> bool:
    """Whether the denoiser projects pooled states as it does the others (Stable Diffusion 3, FLUX)."""
    return text.pooled is not None and "text.pooled" in subject.layout.roles


def through(text: Text, back: Tensor, pooled: Tensor | None = None) -> Text:
    """States and pooled states read through a linear map each: h B^T."""
    def moved(states: Tensor, by: Tensor) -> Tensor:
        return (states.double() @ by.to(states.device).T).to(states)

    return Text(moved(text.states, back), text.pooled if text.pooled is None or pooled is None else moved(text.pooled, pooled))


def relative(old: Sequence[Tensor], new: Sequence[Tensor], found: Tensor) -> float:
    """How much of the change from old to new weights one map W M leaves unexplained: |W M - W'| / |W' - W|; 0 where nothing changed."""
    one, two = (torch.cat([weight.detach().double().cpu() for weight in side]) for side in (old, new))
    change = float((two - one).norm())
    return float((one @ found - two).norm()) / change if change else 0.0
