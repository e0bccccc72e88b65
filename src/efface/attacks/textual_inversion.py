"""Textual inversion, CCE (arXiv:2308.01508): a new word is taught to the candidate from pictures of the concept.

    minimized over v = |target - e(x_t, t, h(template with v))|^2,   x_t = a_t z + s_t n,  z from pictures of the concept

No weight changes: v is one or few token embeddings, put where the concept's words stand in the prompts of the forget rows, as in
"a <v> in noto style". Then the same prompts are drawn with v, from the same seeds as without it, and a judge says whether
the concept is there. A model that no longer can draw a concept has to be taught it from nothing; one that only avoids its
words gives it back. A retrained reference may learn something from the pictures too: it is attacked in the same way.

Code: 5000 steps at lr 5e-3 (scaled by batch and accumulation), batch 4 x 4, 25 pictures, start "art" (style).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from efface.core import digest
from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import BudgetSpent
from efface.core.rows import evenly
from efface.core.types import Attack, Measurement, Request, Row
from efface.families import drawn, embedded, passes, soft_tokens, tokens
from efface.families.diffusion import pictures_of
from efface.ops import class_stats, erasing


class TextualInversionConfig(Config):
    """Settings of the attack."""

    tokens: int = Field(1, ge=1)
    """Token embeddings to learn."""
    steps: int = Field(100, ge=1)
    """Steps of Adam."""
    lr: float = Field(0.1, gt=0)
    """Learning rate; each number of an embedding moves by about this much a step."""
    batch: int = Field(16, ge=1)
    """Pictures of a step."""
    pictures: int = Field(25, ge=1)
    """Most pictures of the concept to learn from: those of the forget rows, or drawn by the original."""
    restarts: int = Field(1, ge=1)
    """Attempts, the best of which counts: the first begins as `start` says, every other with random words."""
    start: Literal["concept", "random"] = "concept"
    """What the embeddings begin with: that of the concept's last word, or random words of the vocabulary."""


@dataclass(frozen=True)
class Lesson:
    """What the adversary has: pictures of the concept, and the prompt of each."""

    pictures: np.ndarray
    prompts: list[str]
    concept: str

    @property
    def phrase(self) -> str:
        """What the learned word takes the place of: the concept without its article."""
        return erasing.bare(self.concept)


class TextualInversion(Attack[TextualInversionConfig]):
    """An adversary who teaches the candidate a new word for the concept from a few pictures."""

    card = Card(
        name="textual_inversion", title="Textual inversion (CCE)", paper="arXiv:2308.01508", families=("diffusion",), needs=("generate", "weights"),
        uses=("names", "forget", "original", "reference"), access="weights", better="as-reference",
        departs="100 steps of Adam with batch 16 from the concept's own word, where the code takes 5000 from another one; the pictures stand "
        "beside prompts of the forget rows instead of fixed templates",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the share of pictures that show the concept under the best of all attempts, of which the plain prompts are one.

        Parts: unattacked, attacked (best token), each attempt, the same of the reference, and the budget. When a budget of steps
        or seconds is spent, what was learned until then is judged. Raises Missing without a judge, and without pictures.
        """
        exam = embedded.question(request, ctx, drawn.FORGET)
        plain = exam.plain(subject, ctx)
        lesson = self._lesson(subject, request, ctx)
        tried, steps, why = self._tried(subject, lesson, exam, ctx)
        best = max([plain, *tried], key=lambda shown: float(shown.mean()))
        rate = class_stats.wilson(best)
        parts: dict[str, float | None] = {
            "unattacked": float(plain.mean()), "attacked": max(float(shown.mean()) for shown in tried), "reference": None, "reference_unattacked": None,
            "steps": steps, "pictures": float(len(lesson.pictures)), "tokens": float(self.config.tokens),
        }
        parts |= {f"attempt {at}": float(shown.mean()) for at, shown in enumerate(tried, start=1)}
        if (reference := ctx.baselines.get("reference")) is not None:
            base = self._yardstick(reference, request, lesson, exam, ctx)
            parts |= {"reference": max(base.values()), "reference_unattacked": base["unattacked"]}
        table: list[dict[str, object]] = [
            {"row": at, "prompt": str(row["prompt"]), "seed": seed, "unattacked": float(plain[at]), "value": float(best[at])}
            for at, (row, seed) in enumerate(zip(exam.rows, exam.seeds, strict=True))
        ]
        return Measurement(
            system=self.card.name, subject="", value=rate.value, low=rate.low, high=rate.high, n=len(best), better="as-reference", why=why, parts=parts, table=table,
        )

    def _lesson(self, subject: Any, request: Request, ctx: Context) -> Lesson:
        """Pictures of the concept with their prompts: the rows' own, else drawn by the original."""
        concept, tokenizer = erasing.concepts(request, self.card.name)[0], subject.pipe.tokenizer
        rows = evenly(request.rows("forget"), self.config.pictures)
        if all("image" in row for row in rows):
            return Lesson(pictures_of(rows), [worded(tokenizer, row, concept) for row in rows], concept)
        prompts = [worded(tokenizer, rows[at % len(rows)], concept) for at in range(self.config.pictures)]
        seeds = [ctx.seed_for("picture of the concept", at) % 2**62 for at in range(len(prompts))]
        original: Any = ctx.baseline("original")
        found = ctx.once((original, "pictures of the concept", tuple(prompts), tuple(seeds)), lambda: original.generate(prompts, seeds))
        return Lesson(found, prompts, concept)

    def _tried(self, subject: Any, lesson: Lesson, exam: embedded.Question, ctx: Context) -> tuple[list[np.ndarray], float, str]:
        """For each attempt, which pictures show the concept; the steps spent; and why it ended early ("" if it did not)."""
        clock, tried = Clock(ctx, self.config.steps * self.config.restarts), []
        latents = subject.latents(lesson.pictures)
        for attempt in range(self.config.restarts):
            source = torch.Generator().manual_seed(ctx.seed_for("textual inversion", attempt) % 2**62)
            loss = self._loss(subject, latents, lesson, source)
            vectors = soft_tokens.searched(loss, self._start(subject, lesson, attempt, source), self.config.steps, self.config.lr, goes_on=clock.tick)
            tried.append(exam.shown(self._with(subject, vectors, lesson, exam)))
            if clock.why:
                break
        return tried, float(clock.steps), clock.why

    def _loss(self, subject: Any, latents: Tensor, lesson: Lesson, source: torch.Generator) -> Callable[[Tensor], Tensor]:
        """The denoising error on some of the pictures at random steps, as a function of the learned word."""
        given, places = soft_tokens.in_place(subject.pipe.tokenizer, lesson.prompts, lesson.phrase, self.config.tokens)
        count = self.config.batch

        def loss(vectors: Tensor) -> Tensor:
            picked = torch.randint(len(latents), (count,), generator=source)
            t = torch.randint(subject.schedule.steps, (count,), generator=source)
            clean = latents[picked.to(latents.device)]
            noise = torch.randn(clean.shape, generator=source).to(clean)
            text = soft_tokens.states(subject, given[picked], vectors, places[picked])
            said = subject.noise(subject.schedule.mix(clean, noise, t), t, text)
            return (said - subject.schedule.target(clean, noise, t)).square().mean()

        return loss

    def _start(self, subject: Any, lesson: Lesson, attempt: int, source: torch.Generator) -> Tensor:
        """(k, w) where an attempt begins."""
        table = soft_tokens.table(subject)
        if attempt or self.config.start == "random":
            return table[torch.randint(len(table), (self.config.tokens,), generator=source)]
        word = tokens.cut(subject.pipe.tokenizer, [lesson.phrase])
        return table[word.ids[0, word.positions("last")]].repeat(self.config.tokens, 1)

    def _with(self, subject: Any, vectors: Tensor, lesson: Lesson, exam: embedded.Question) -> np.ndarray:
        """What the subject draws for the exam's prompts when the learned word stands in them, through its shields."""
        tokenizer = subject.pipe.tokenizer
        prompts = [worded(tokenizer, row, lesson.concept) for row in exam.rows]
        given, places = soft_tokens.in_place(tokenizer, prompts, lesson.phrase, self.config.tokens)
        with torch.no_grad():
            text = soft_tokens.states(subject, given, vectors, places)
        rows = [{**row, "prompt": prompt} for row, prompt in zip(exam.rows, prompts, strict=True)]
        pictures: np.ndarray = subject.generate(rows, exam.seeds, prompt_embeds=text.states)
        return pictures

    def _yardstick(self, reference: Any, request: Request, lesson: Lesson, exam: embedded.Question, ctx: Context) -> dict[str, float]:
        """The reference's rates, without any budget: it is not the adversary's target. Measured once, and kept beside the passes."""
        settings = [self.config.model_dump(), [str(row["prompt"]) for row in exam.rows], exam.seeds, exam.number, digest.of_value(lesson.pictures), ctx.seed]

        def compute() -> object:
            alone = ctx.alone(budget={})
            tried, _, _ = self._tried(reference, lesson, exam, alone)
            plain = exam.plain(reference, alone)
            return {"unattacked": float(plain.mean()), **{f"attempt {at}": float(shown.mean()) for at, shown in enumerate(tried, start=1)}}

        return {str(name): float(rate) for name, rate in passes.kept(reference, self.card.name, settings, ctx, compute).items()}


class Clock:
    """Counts steps against the budget; says no, and why, when it is spent."""

    def __init__(self, ctx: Context, most: int) -> None:
        self.ctx, self.steps, self.why = ctx, 0, ""
        self.shown = ctx.progress(range(most), "textual inversion", most)

    def tick(self) -> bool:
        """Whether one more step is allowed."""
        try:
            self.ctx.spend(steps=1)
        except BudgetSpent as error:
            self.why = str(error)
            return False
        next(self.shown, None)
        self.steps += 1
        return True


def worded(tokenizer: Any, row: Row, concept: str) -> str:
    """The row's prompt where it names the concept, else the concept alone: in it the learned word has a place."""
    prompt = str(row["prompt"])
    return prompt if tokens.span(tokenizer, prompt, erasing.bare(concept)) else concept
