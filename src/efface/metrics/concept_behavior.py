"""Behavior on a concept (ConceptVectors, arXiv:2406.11614): do answers still sound like the ORIGINAL'S OWN answers?

No gold answer is needed: what the original says to each question, greedily and in at most 100 tokens after
"Question: ..\\n Answer:", is what the model is compared with. On questions about the concept likeness should be low, on
unrelated ones high; a model that breaks down is unlike on both.

    value = mean ROUGE-L F on the concept's questions; beside it BLEU, and both on the unrelated questions

Concept questions are the row set "questions", else the forget rows; unrelated ones the row set "unrelated", else the keep rows.
The reference's likeness is what a model that never learned the rows has by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import Missing
from efface.core.rows import PROMPT
from efface.core.types import Measurement, Metric, Request, Row
from efface.families import forms, passes
from efface.ops import stats
from efface.ops.bleu import bleu
from efface.ops.rouge_l import rouge_l

MEASURES: dict[str, Callable[[str, str], float]] = {"rouge": lambda answer, own: rouge_l(answer, own).f, "bleu": bleu}


class ConceptBehaviorConfig(Config):
    """Settings of the metric."""

    rows: int = Field(20, ge=1)
    """Most questions of each kind, evenly spaced."""
    max_new: int = Field(100, ge=1)
    """Most tokens of an answer."""


class ConceptBehavior(Metric[ConceptBehaviorConfig]):
    """Likeness of the answers to the original's own."""

    card = Card(
        name="concept_behavior",
        title="Likeness to the original's answers (ROUGE-L F as in package rouge, no stemmer, case kept; BLEU with smoothing 3)",
        paper="arXiv:2406.11614", families=("causal-lm",), needs=("generate",), uses=("forget", "original"), better="as-reference",
        departs="answers end where they end, where the paper's code takes the last 100 positions, prompt included",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return ROUGE-L F on the concept's questions with a bootstrap interval; the rest is parts. Raises Missing when nothing can be asked."""
        original = ctx.baseline("original")
        asked = {"forget": self._questions("questions", request.rows("forget"), ctx)}
        if "unrelated" in ctx.sets or request.keep is not None:
            asked["keep"] = self._questions("unrelated", request.rows("keep") if request.keep is not None else [], ctx)
        if not asked["forget"]:
            raise Missing("no forget row is a question; give rows with a prompt or question, or a row set 'questions'")
        sets = [[prompt(question) for question in questions] for questions in asked.values()]
        said, before = (passes.answer_sets(model, sets, ctx, self.config.max_new) for model in (subject, original))
        parts: dict[str, float | None] = {}
        table: list[dict[str, object]] = []
        for side, questions, mine, theirs in zip(asked, asked.values(), said, before, strict=True):
            rows = [row for row in zip(questions, mine, theirs, strict=True) if row[2].split()]
            values = {name: [measure(answer, own) for _, answer, own in rows] for name, measure in MEASURES.items()}
            parts |= _numbers(side, values, len(rows), len(questions) - len(rows))
            table += [
                {"row": at, "set": side, "value": values["rouge"][at], "bleu": values["bleu"][at], "question": question, "answer": answer, "original": own}
                for at, (question, answer, own) in enumerate(rows)
            ]
        value = parts["forget_rouge"]
        if value is None:
            raise Missing(f"the original says nothing at all to any of {len(asked['forget'])} questions; there is nothing to compare with")
        return Measurement(
            system=self.card.name, subject="", value=value, low=parts["forget_rouge_low"], high=parts["forget_rouge_high"],
            n=int(parts["forget_n"] or 0), better="as-reference", parts=parts, table=table,
        )

    def _questions(self, name: str, rows: Sequence[Row], ctx: Context) -> list[str]:
        given = ctx.sets[name].read() if name in ctx.sets else rows
        return [text for row in forms.sample(given, self.config.rows) if (text := question_of(row))]


def prompt(question: str) -> Row:
    """The row that puts a question as the published code does, without a chat template."""
    return {"text": f"Question: {question}\n Answer:"}


def question_of(row: Row) -> str:
    """What a row asks, "" for plain text."""
    messages = row.get("messages")
    if isinstance(messages, list):
        return next((str(message["content"]).strip() for message in reversed(messages) if message["role"] == "user"), "")
    return next((str(row[name]).strip() for name in PROMPT if isinstance(row.get(name), str)), "")


def _numbers(side: str, values: dict[str, list[float]], count: int, silent: int) -> dict[str, float | None]:
    """Mean and interval of each measure, None where the original was silent throughout; and how many rows that left out."""
    parts: dict[str, float | None] = {f"{side}_n": float(count), f"{side}_original_silent": float(silent)}
    for name, found in values.items():
        interval = stats.bootstrap(found) if found else (None, None, None)
        parts |= dict(zip((f"{side}_{name}", f"{side}_{name}_low", f"{side}_{name}_high"), interval, strict=True))
    return parts
