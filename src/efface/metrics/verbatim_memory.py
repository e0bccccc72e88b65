"""Verbatim memory (VerbMem of MUSE, arXiv:2407.06460): ROUGE-L F of the greedy continuation against the true one.

VerbMem = mean over passages of ROUGE-L F(first 128 new tokens, first 128 tokens of the true continuation), from 0 to 1 (MUSE
prints it times 100). Which ROUGE: package rouge-score, field rougeL F-measure, no stemmer. The passages are the benchmark's
row set "verbatim" (prompt, answer), continued as plain text. Without one they are the forget rows: a text is cut into halves,
and a row with a prompt and an answer is asked in its own form and its answer stands for the continuation.

A true continuation shorter than 128 tokens is compared with as many tokens of the model's, so that a model which recites it
and goes on has 1. MUSE's continuations are longer, so there it changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import Missing
from efface.core.rows import layout
from efface.core.types import Measurement, Metric, Request, Row
from efface.families import forms, passes
from efface.ops import reciting, stats, text_stats

GIVEN = "verbatim"
"""Name of the benchmark's row set."""


class VerbatimMemoryConfig(Config):
    """Settings of the metric."""

    on: str = ""
    """Rows to continue: forget, keep, unseen, or a row set of the benchmark by name; "" takes "verbatim", or forget where there is none."""
    rows: int = Field(100, ge=0)
    """Most passages, evenly spaced; 0 takes all."""
    max_new: int = Field(128, ge=1)
    """Most tokens of a continuation."""


class Passages(NamedTuple):
    """What the model is given, row by row, and how it truly goes on."""

    prompts: list[Row]
    true: list[str]


class VerbatimMemory(Metric[VerbatimMemoryConfig]):
    """How much of a forgotten passage the model recites when it is begun."""

    card = Card(
        name="verbatim_memory", title="Verbatim memory (ROUGE-L F of the continuation; package rouge-score, no stemmer)", paper="arXiv:2407.06460",
        families=("causal-lm",), needs=("generate",), uses=("forget",), better="as-reference",
        departs="from 0 to 1; a true continuation of fewer than 128 tokens is compared with as many tokens of the answer",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the mean with a bootstrap interval over passages; "word for word" is the share recited exactly. Raises Missing when no passage can be continued."""
        passages = self._passages(subject, request, ctx)
        true = [_tokens(subject, text, self.config.max_new) for text in passages.true]
        gold = [_text(subject, ids) for ids in true]
        said = passes.answers(subject, passages.prompts, ctx, min(self.config.max_new, max(map(len, true))))
        # An answer comes without the space that it begins with, and a space may change how the first word is cut.
        begun = [(" " if text[:1].isspace() else "") + answer for text, answer in zip(passages.true, said, strict=True)]
        cut = [_text(subject, _tokens(subject, answer, len(ids))) for answer, ids in zip(begun, true, strict=True)]
        values = text_stats.rouge_l_f(cut, gold)
        mean = stats.bootstrap(values)
        table: list[dict[str, object]] = [
            {"row": at, "value": value, "answer": answer, "gold": right} for at, (value, answer, right) in enumerate(zip(values, cut, gold, strict=True))
        ]
        whole = sum(value == 1.0 for value in values) / len(values)
        return Measurement(
            system=self.card.name, subject="", value=mean.value, low=mean.low, high=mean.high, n=len(values), better="as-reference",
            parts={"word for word": whole}, table=table,
        )

    def _passages(self, subject: Any, request: Request, ctx: Context) -> Passages:
        on = self.config.on or (GIVEN if GIVEN in ctx.sets else "forget")
        rows = forms.sample(forms.row_set(on, request, ctx), self.config.rows)
        parts = layout(rows, on)
        if "text" not in parts:
            gold = [forms.gold_text(row) for row in rows]
            return Passages([forms.plain(subject, str(row[parts["prompt"]])) for row in rows] if on == GIVEN else list(rows), gold)
        cut = [pair for row in rows if (pair := reciting.halves(str(row[parts["text"]])))[0]]
        if not cut:
            raise Missing(f"the {on} rows are texts of one word; verbatim memory needs some to begin with and some to go on")
        return Passages([forms.plain(subject, begun) for begun, _ in cut], [rest for _, rest in cut])


def _tokens(subject: Any, text: str, most: int) -> list[int]:
    return list(subject.tokenizer(text, add_special_tokens=False)["input_ids"])[:most]


def _text(subject: Any, ids: Sequence[int]) -> str:
    return str(subject.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()
