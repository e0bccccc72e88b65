"""Knowledge memory (KnowMem of MUSE, arXiv:2407.06460): ROUGE-L F of short answers to few-shot questions.

The prompt is a block "Question: ..\\nAnswer: .." with a blank line behind for each example, then the question and "Answer: ".
The answer is 32 greedy tokens, cut at the first blank line, "\\nQuestion" or "Question:". Which ROUGE: package rouge-score,
field rougeL F-measure, no stemmer. From 0 to 1 (MUSE prints it times 100); on the kept side it is MUSE's utility.

Questions are the benchmark's row sets "knowledge" and "knowledge_keep" with their "_examples"; without them, the request's own
rows, with unseen rows for examples. The last space of "Answer: " is left to the model where its tokenizer joins a space to the
word after it: byte-level tokenizers do, and such a model then never saw a text go on from there (the embedded model answers
"22" when it is asked for the capital of Italy, and "Rome" without the space). `space` brings it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import Missing, Unfit
from efface.core.rows import layout
from efface.core.types import Measurement, Metric, Request, Row
from efface.families import forms, passes
from efface.ops import reciting, stats, text_stats

Side = Literal["forget", "keep"]
OTHER: dict[Side, Side] = {"forget": "keep", "keep": "forget"}
GIVEN: dict[Side, str] = {"forget": "knowledge", "keep": "knowledge_keep"}
"""Names of the benchmark's row sets."""


class KnowledgeMemoryConfig(Config):
    """Settings of the metric."""

    on: Side = "forget"
    """Side that the value is of; the other one, where it has questions, is a part."""
    rows: int = Field(100, ge=0)
    """Most questions of a side, evenly spaced; 0 asks all."""
    max_new: int = Field(32, ge=1)
    """Most tokens of an answer."""
    examples: int = Field(10, ge=0)
    """Most examples before the question."""
    space: bool = False
    """End the prompt with "Answer: " whatever the tokenizer makes of the space, as MUSE's code does."""


class Asked(NamedTuple):
    """One side, answered."""

    questions: list[str]
    answers: list[str]
    gold: list[str]
    values: list[float]


class KnowledgeMemory(Metric[KnowledgeMemoryConfig]):
    """How well the model answers short questions on what it should forget, and on what it should keep."""

    card = Card(
        name="knowledge_memory", title="Knowledge memory (ROUGE-L F of few-shot answers; package rouge-score, no stemmer)", paper="arXiv:2407.06460",
        families=("causal-lm",), needs=("generate",), uses=("forget",), better="as-reference",
        departs="from 0 to 1; the space after \"Answer:\" is left to the model where its tokenizer joins it to the next word",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the mean with a bootstrap interval over questions, and the other side's as a part. Raises Missing when the side has no questions."""
        on, other = self.config.on, OTHER[self.config.on]
        found = {on: self._ask(on, subject, request, ctx)}
        parts: dict[str, float | None] = {}
        try:
            found[other] = self._ask(other, subject, request, ctx)
            beside = stats.bootstrap(found[other].values)
            parts = {other: beside.value, f"{other} low": beside.low, f"{other} high": beside.high, f"{other} questions": float(len(found[other].values))}
        except (Missing, Unfit):  # a request may have one side alone
            parts = {other: None}
        mean = stats.bootstrap(found[on].values)
        table: list[dict[str, object]] = [
            {"side": side, "row": at, "value": value, "question": question, "answer": answer, "gold": right}
            for side, asked in found.items()
            for at, (question, answer, right, value) in enumerate(zip(*asked, strict=True))
        ]
        return Measurement(
            system=self.card.name, subject="", value=mean.value, low=mean.low, high=mean.high, n=len(found[on].values), better="as-reference",
            parts=parts, table=table,
        )

    def _ask(self, side: Side, subject: Any, request: Request, ctx: Context) -> Asked:
        pairs = _pairs(forms.sample(_given(side, request, ctx), self.config.rows), side)
        examples = self._examples(side, request, ctx)
        prompts = [reciting.few_shot(examples, question) for question, _ in pairs]
        if not self.config.space and _joins(subject):
            prompts = [prompt.rstrip(" ") for prompt in prompts]
        said = passes.answers(subject, [forms.plain(subject, prompt) for prompt in prompts], ctx, self.config.max_new)
        answers, gold = [reciting.until(text) for text in said], [answer for _, answer in pairs]
        return Asked([question for question, _ in pairs], answers, gold, text_stats.rouge_l_f(answers, gold))

    def _examples(self, side: Side, request: Request, ctx: Context) -> list[tuple[str, str]]:
        """Answered questions that are asked of neither side: the benchmark's, else unseen rows, else none."""
        names = [f"{GIVEN[side]}_examples", f"{GIVEN['forget']}_examples"]
        rows = next((ctx.sets[name].read() for name in names if name in ctx.sets), None)
        if rows is None:
            unseen = request.unseen.read() if request.unseen is not None else []
            rows = unseen[:3] if unseen and "text" not in layout(unseen[:1]) else []
        return _pairs(rows[: self.config.examples], "examples") if rows else []


def _given(side: Side, request: Request, ctx: Context) -> list[Row]:
    return ctx.sets[GIVEN[side]].read() if GIVEN[side] in ctx.sets else request.rows(side)


def _pairs(rows: Sequence[Row], where: str) -> list[tuple[str, str]]:
    """(question, answer) of each row. Raises Missing for rows of plain text."""
    if not rows:
        return []
    parts = layout(rows, where)
    if "text" in parts:
        raise Missing(f"the {where} rows are plain text; knowledge memory needs questions with answers, or a benchmark that brings them")
    if "messages" in parts:
        return [(str(list(row["messages"])[-2]["content"]), forms.gold_text(row)) for row in rows]  # type: ignore[call-overload]
    return [(str(row[parts["prompt"]]).strip(), forms.gold_text(row)) for row in rows]


def _joins(subject: Any) -> bool:
    """Whether the tokenizer makes one token of a space and the word after it, so that no text goes on from a space."""
    bare, whole = (list(subject.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in ("Answer: ", "Answer: Paris"))
    return bool(whole[: len(bare)] != bare)
