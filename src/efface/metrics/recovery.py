"""Recovery index (RESTOR, arXiv:2411.00204): does old knowledge come back when what overwrote it is unlearned?

    index = (acc_u - acc_x) / (acc_c - acc_x)

acc is the share of questions whose answer's first line says an accepted value: of the candidate (u), of the model that is asked to
forget (x, the baseline "original"), and of the model before it read what it must forget (c, the baseline "clean", or the reference
where there is none). Forgetting the false answers is not enough: a model that says nothing has an index of 0 or less.

Published runs repair the candidate before they ask, by training on other rows, as gradient ascent breaks its grammar. Repair is
training, and may restore facts by itself: candidate and original are both repaired here, on the keep rows, and stand side by side.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.types import Measurement, Metric, Request, Row
from efface.families import passes, recall
from efface.families.decoding import Sampling
from efface.ops import recovery
from efface.ops.facts import Fact
from efface.ops.loop import descend


class RecoveryConfig(Config):
    """Settings of the metric."""

    on: str = ""
    """Rows that are asked; "" takes the set "questions" where the run has one, else the forget rows."""
    rows: int = Field(400, ge=1)
    """Most questions, evenly spaced."""
    shots: int | None = Field(None, ge=0)
    """Answered questions shown before, of the same property about other entities; 0 asks as the model is usually asked; by default five where the run has a set "examples", else none."""
    new_tokens: int = Field(12, ge=1)
    """Most tokens of an answer."""
    draws: int = Field(0, ge=0)
    """Answers drawn for each question, over which accuracy is averaged (3 in the paper); 0 takes the greedy one."""
    temperature: float = Field(1.0, gt=0)
    """Temperature of drawn answers."""
    fit: Fit = Fit(lr=1e-4, steps=24, batch=8, rank=4)
    """Repair: training of candidate and original on the keep rows; no steps leave it out."""


class Marks(NamedTuple):
    """For each question the share of answers that are right, and that say what the forget rows say, (N,) each."""

    right: np.ndarray
    corrupted: np.ndarray


class Recovery(Metric[RecoveryConfig]):
    """How much of the knowledge that the forget rows overwrote is back."""

    card = Card(
        name="recovery", title="Recovery index", paper="arXiv:2411.00204", families=("causal-lm",), needs=("generate", "losses", "weights"),
        uses=("forget", "keep", "clean", "original", "reference"), better="as-reference",
        departs="the index is a ratio of the paper's accuracies; answers are matched by their words, without a judge; greedy by default; repair is 24 steps on the keep rows, "
        "in place of two epochs on LIMA",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the index with a paired bootstrap over entities. Raises Missing without original or clean model, or when corruption cost less than 0.1."""
        config = self.config
        asked = recall.questions(request, ctx, config.on, config.rows)
        rows = recall.prompts(asked, request, ctx, config.shots)
        clean_model = ctx.baselines.get("clean") or ctx.baseline("reference")
        original = ctx.baseline("original")
        groups = [fact.subject or fact.question for fact in asked]
        clean, before, after = (self._marks(model, asked, rows, ctx) for model in (clean_model, original, subject))
        found, drawn = recovery.interval(after.right, before.right, clean.right, groups)
        parts: dict[str, float | None] = {
            "accuracy": float(after.right.mean()), "clean": float(clean.right.mean()), "original": float(before.right.mean()),
            "majority": float(recovery.majority(asked).mean()), "corrupted answers": float(after.corrupted.mean()),
            "original corrupted answers": float(before.corrupted.mean()), "entities": float(len(set(groups))),
        }
        if config.fit.steps or config.fit.epochs:
            parts |= self._repaired(subject, asked, rows, request, ctx, (before.right, clean.right, groups))
        parts |= by_property(asked, {"accuracy": after.right, "clean": clean.right, "original": before.right, "majority": recovery.majority(asked)})
        table: list[dict[str, object]] = [
            {
                "row": at, "entity": fact.subject, "property": fact.relation, "value": float(after.right[at]), "original": float(before.right[at]),
                "clean": float(clean.right[at]), "corrupted": float(after.corrupted[at]),
            }
            for at, fact in enumerate(asked)
        ]
        low, high = (None if np.isnan(end) else end for end in (found.low, found.high))
        return Measurement(
            system=self.card.name, subject="", value=found.value, low=low, high=high, n=len(asked), better="as-reference", parts=parts, table=table,
            why="" if low is not None else "no interval: too few entities lost anything in the bootstrap's draws",
        )

    def _repaired(
        self, subject: Any, asked: list[Fact], rows: list[Row], request: Request, ctx: Context, frame: tuple[np.ndarray, np.ndarray, list[str]]
    ) -> dict[str, float | None]:
        """Index of candidate and original, each after the same repair, and how far the candidate's is above."""
        before, clean, groups = frame
        mine, theirs = (self._repair(model, asked, rows, request, ctx) for model in (subject, ctx.baseline("original")))
        (one, drawn), (other, others) = (recovery.interval(marks, before, clean, groups) for marks in (mine, theirs))
        beyond = recovery.spread(one.value - other.value, drawn - others)
        return {
            "repaired": one.value, "repaired low": number(one.low), "repaired high": number(one.high), "repaired accuracy": float(mine.mean()),
            "original repaired": other.value, "original repaired low": number(other.low), "original repaired high": number(other.high),
            "repaired beyond original": beyond.value, "repaired beyond original low": number(beyond.low), "repaired beyond original high": number(beyond.high),
        }

    def _repair(self, subject: Any, asked: list[Fact], rows: list[Row], request: Request, ctx: Context) -> np.ndarray:
        """Share of right answers (N,) after training a copy on the keep rows; kept, as it depends on nothing that changes."""
        fit, keep = self.config.fit, request.rows("keep")
        settings = [self.config.model_dump(), [dict(row) for row in rows], [fact.accepted for fact in asked], [dict(row) for row in keep], ctx.seed]

        def compute() -> object:
            # Folded in, so that every model, adapter or not, is repaired through an adapter of the same kind.
            copy = (subject.merged() if fit.rank and subject.adapted else subject).trainable(fit.rank, ctx.seed_for("repair adapter"))
            apart = ctx.alone(folder=None, budget={}, curve=[], passes=(), memo={})
            descend(copy, {"keep": keep}, lambda batch: {"loss": copy.losses(batch["keep"]).mean()}, fit, apart)
            return self._marks(copy, asked, rows, apart).right.tolist()

        if subject.shields:
            return np.array(compute(), float)
        return np.array(passes.kept(subject, "repaired", settings, ctx, compute), float)

    def _marks(self, subject: Any, asked: list[Fact], rows: list[Row], ctx: Context) -> Marks:
        config = self.config
        sampling = Sampling(config.draws, config.temperature, seed=ctx.seed_for("recovery") % 2**62) if config.draws else None
        said = recall.answers(subject, rows, ctx, config.new_tokens, sampling)
        wrong = [found["corrupted"] for found in recovery.options(asked, len(asked))]
        return Marks(recall.share(said, [fact.accepted for fact in asked], asked), recall.share(said, wrong, asked))


def by_property(asked: list[Fact], numbers: dict[str, np.ndarray]) -> dict[str, float | None]:
    """The mean of each number over the questions of each property, as "property: number"; nothing where no property is named."""
    found: dict[str, float | None] = {}
    for relation in sorted({fact.relation for fact in asked if fact.relation}):
        here = np.array([fact.relation == relation for fact in asked])
        found |= {f"{relation}: {name}": float(values[here].mean()) for name, values in numbers.items()}
    return found


def number(value: float) -> float | None:
    """The value, None where it is not a number."""
    return None if np.isnan(value) else value
