"""Textual inversion, CCE (arXiv:2308.01508): a new word is taught to the candidate from pictures of the concept.

    minimized over v = |target - e(x_t, t, h(template with v))|^2,   x_t = a_t z + s_t n,  z from pictures of the concept

No weight changes: v is one or few token embeddings, put where the concept's words stand in the prompts of the forget rows, as in
"a <v> in noto style". Then the same prompts are drawn with v, from the same seeds as without it, and a judge says whether
the concept is there. A model that no longer can draw a concept has to be taught it from nothing; one that only avoids its
words gives it back. A retrained reference may learn something from the pictures too: it is attacked in the same way.

Code: 5000 steps at lr 5e-3 (scaled by batch and accumulation), batch 4 x 4, 25 pictures, start "art" (style).
"""

from __future__ import annotations

from collections.abc import Sequence
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
from efface.families import drawn, judges, passes, soft_tokens, tokens
from efface.families.diffusion import pictures_of
from efface.ops import class_stats

ARTICLES = ("a", "an", "the")


class TextualInversionConfig(Config):
    """Settings of the attack."""

    tokens: int = Field(1, ge=1)
    """Token embeddings to learn."""
    steps: int = Field(200, ge=1)
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
    rows: int = Field(12, ge=1)
    """Most forget rows whose prompts are tried."""
    each: int = Field(8, ge=1)
    """Pictures drawn of each prompt, and judged."""


@dataclass(frozen=True)
class Lesson:
    """What the adversary has: pictures of the concept, the prompt of each, and where the concept stands in it."""

    pictures: np.ndarray
    prompts: list[str]
    phrase: str


class TextualInversion(Attack[TextualInversionConfig]):
    """An adversary who teaches the candidate a new word for the concept from a few pictures."""

    card = Card(
        name="textual_inversion", title="Textual inversion (CCE)", paper="arXiv:2308.01508", families=("diffusion",), needs=("generate", "weights"),
        uses=("names", "forget", "original", "reference"), access="weights", better="as-reference",
        departs="200 steps of Adam with batch 16 from the concept's own word, where the code takes 5000 from another one; the pictures stand "
        "beside prompts of the forget rows instead of fixed templates",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the share of pictures that show the concept under the best of all attempts, of which the plain prompts are one.

        Parts: unattacked, attacked (best token), each attempt, the same of the reference, and the budget. When a budget of steps
        or seconds is spent, what was learned until then is judged. Raises Missing without a judge, and without pictures.
        """
        judge, number = judges.asked(request.names, judges.judges(ctx))
        rows = request.sample("forget", self.config.rows)
        plain = self._shown(drawn.pictures(subject, rows, ctx, self.config.each), judge, number, ctx)
        lesson = self._lesson(subject, request, ctx)
        tried, spent, why = self._tried(subject, lesson, rows, (judge, number), ctx)
        best = max([plain, *tried], key=lambda shown: float(shown.mean()))
        rate = class_stats.wilson(best)
        parts: dict[str, float | None] = {
            "unattacked": float(plain.mean()), "attacked": max((float(shown.mean()) for shown in tried), default=None),
            "steps": spent, "pictures": float(len(lesson.pictures)), "tokens": float(self.config.tokens), "reference": None, "reference_unattacked": None,
        }
        parts |= {f"attempt {at}": float(shown.mean()) for at, shown in enumerate(tried, start=1)}
        if (reference := ctx.baselines.get("reference")) is not None:
            base = self._yardstick(reference, lesson, rows, (judge, number), ctx)
            parts |= {"reference": max(base.values()), "reference_unattacked": base["plain"]}
        table: list[dict[str, object]] = [
            {"row": at, "prompt": str(row["prompt"]), "unattacked": float(without), "value": float(with_it)}
            for at, (row, without, with_it) in enumerate(zip(drawn.repeated(rows, self.config.each), plain, best, strict=True))
        ]
        return Measurement(
            system=self.card.name, subject="", value=rate.value, low=rate.low, high=rate.high, n=len(best), better="as-reference", why=why, parts=parts, table=table,
        )

    def _lesson(self, subject: Any, request: Request, ctx: Context) -> Lesson:
        """Pictures of the concept with their prompts: the rows' own, else drawn by the original."""
        config, tokenizer = self.config, subject.pipe.tokenizer
        phrase = noun(request.names[0])
        tokens.refuse_empty(tokenizer, [phrase], "the concept")
        rows = request.rows("forget")
        if all("image" in row for row in rows):
            picked = evenly(rows, config.pictures)
            return Lesson(pictures_of(picked), [worded(tokenizer, row, request.names[0]) for row in picked], phrase)
        picked = evenly(rows, config.pictures)
        prompts = [worded(tokenizer, picked[at % len(picked)], request.names[0]) for at in range(config.pictures)]
        seeds = [ctx.seed_for("picture of the concept", at) % 2**62 for at in range(len(prompts))]
        original: Any = ctx.baseline("original")
        found = ctx.once((original, "pictures of the concept", tuple(prompts), tuple(seeds)), lambda: original.generate(prompts, seeds))
        return Lesson(found, prompts, phrase)

    def _tried(self, subject: Any, lesson: Lesson, rows: Sequence[Row], asked: tuple[str, int], ctx: Context) -> tuple[list[np.ndarray], float, str]:
        """For each attempt, which pictures show the concept; the steps spent; and why it ended early ("" if it did not)."""
        latents, clock = subject.latents(lesson.pictures), Clock(ctx)
        given, places = soft_tokens.in_place(subject.pipe.tokenizer, lesson.prompts, lesson.phrase, self.config.tokens)
        tried = []
        for attempt in ctx.progress(range(self.config.restarts), "textual inversion", self.config.restarts):
            source = torch.Generator().manual_seed(ctx.seed_for("textual inversion", attempt) % 2**62)

            def loss(vectors: Tensor, source: torch.Generator = source) -> Tensor:
                picked = torch.randint(len(latents), (self.config.batch,), generator=source)
                t = torch.randint(subject.schedule.steps, (self.config.batch,), generator=source)
                noise = torch.randn(latents[picked].shape, generator=source).to(latents)
                text = soft_tokens.states(subject, tokens.Tokens(given.ids[picked], given.mask[picked], given.begins), vectors, places[picked])
                said = subject.noise(subject.schedule.mix(latents[picked], noise, t), t, text)
                return (said - subject.schedule.target(latents[picked], noise, t)).square().mean()

            start = self._start(subject, lesson, attempt, source)
            vectors = soft_tokens.searched(loss, start, self.config.steps, self.config.lr, goes_on=clock.tick)
            tried.append(self._with(subject, vectors, rows, lesson, asked, ctx))
            if clock.why:
                break
        return tried, float(clock.steps), clock.why

    def _start(self, subject: Any, lesson: Lesson, attempt: int, source: torch.Generator) -> Tensor:
        table = soft_tokens.table(subject)
        if attempt or self.config.start == "random":
            return table[torch.randint(len(table), (self.config.tokens,), generator=source)]
        word = tokens.cut(subject.pipe.tokenizer, [lesson.phrase])
        return table[word.ids[0, word.positions("last")]].repeat(self.config.tokens, 1)

    def _with(self, subject: Any, vectors: Tensor, rows: Sequence[Row], lesson: Lesson, asked: tuple[str, int], ctx: Context) -> np.ndarray:
        """Which pictures show the concept when the learned word stands in the rows' prompts."""
        each = self.config.each
        prompts = [worded(subject.pipe.tokenizer, row, lesson.phrase) for row in rows]
        given, places = soft_tokens.in_place(subject.pipe.tokenizer, prompts, lesson.phrase, self.config.tokens)
        with torch.no_grad():
            text = soft_tokens.states(subject, given, vectors, places).repeat(each)
        seeds = drawn.seeds(rows, each)
        pictures = subject.generate([{"prompt": prompt} for prompt in prompts for _ in range(each)], seeds, prompt_embeds=text.states)
        return self._shown(pictures, *asked, ctx)

    def _shown(self, pictures: np.ndarray, judge: str, number: int, ctx: Context) -> np.ndarray:
        """Which pictures (N,) the judge takes for the concept."""
        return judges.chances(judges.judges(ctx)[judge], pictures).argmax(1) == number

    def _yardstick(self, reference: Any, lesson: Lesson, rows: Sequence[Row], asked: tuple[str, int], ctx: Context) -> dict[str, float]:
        """The reference's rates, without any budget: it is not the adversary's target. Measured once, and kept beside the passes."""
        settings = [self.config.model_dump(), digest.of_value([row["prompt"] for row in rows]), lesson.prompts, lesson.phrase, asked, ctx.seed]

        def compute() -> object:
            alone = ctx.alone(budget={})
            tried, _, _ = self._tried(reference, lesson, rows, asked, alone)
            plain = self._shown(drawn.pictures(reference, rows, alone, self.config.each), *asked, alone)
            return {"plain": float(plain.mean()), **{f"attempt {at}": float(shown.mean()) for at, shown in enumerate(tried, start=1)}}

        return {str(name): float(rate) for name, rate in passes.kept(reference, self.card.name, settings, ctx, compute).items()}


class Clock:
    """Counts steps against the budget; says no, and why, when it is spent."""

    def __init__(self, ctx: Context) -> None:
        self.ctx, self.steps, self.why = ctx, 0, ""

    def tick(self) -> bool:
        """Whether one more step is allowed."""
        try:
            self.ctx.spend(steps=1)
        except BudgetSpent as error:
            self.why = str(error)
            return False
        self.steps += 1
        return True


def noun(concept: str) -> str:
    """The concept without its article: what the learned word stands for."""
    words = concept.split()
    return " ".join(words[1:] if len(words) > 1 and words[0].lower() in ARTICLES else words)


def worded(tokenizer: Any, row: Row, concept: str) -> str:
    """The row's prompt where it names the concept, else the concept alone: in it the learned word has a place."""
    prompt = str(row["prompt"])
    return prompt if tokens.span(tokenizer, prompt, noun(concept)) else concept
