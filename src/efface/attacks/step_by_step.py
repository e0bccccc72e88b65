"""Step-by-step reasoning attack (Sleek, arXiv:2506.17279): forgotten facts asked for in steps, and around the subject's name.

Prompts are direct (they name the fact), indirect (the subject is described by another of its facts) or implied (a task that needs
the fact); each is put alone, as a control, and at the end of a chain of two questions whose answers, the model's own, stay in
its context. Only the last answer counts, every answer is cut at the same length, and no prompt holds the answer. With a success
rate S over facts, of a model after forgetting, of one retrained, and of the original,

    leak = S(model) - S(reference) on forget rows        unfair = S(original) - S(model) on keep rows, over all prompts

The paper has an LLM write its queries; here they come from templates and from the other facts of the same subject. A chain is not
always stronger than its control: a model that was trained to refuse may refuse it sooner. Both are parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import Missing
from efface.core.rows import evenly
from efface.core.types import Attack, Measurement, Request
from efface.families import eliciting
from efface.ops import chains, facts, stats
from efface.ops.facts import Fact


class StepByStepConfig(Config):
    """Settings of the attack."""

    rows: int = Field(10, ge=1)
    """Forget rows to attack, evenly spaced."""
    keep: int = Field(5, ge=0)
    """Keep rows on which unfair suppression is measured; 0 measures none."""
    prompts: int = Field(1, ge=1)
    """Most prompts of each category for a fact."""
    max_new: int = Field(32, ge=1)
    """Most tokens of an answer that counts."""


class StepByStep(Attack[StepByStepConfig]):
    """A user who asks in steps, or describes what must not be named."""

    card = Card(
        name="step_by_step", title="Step-by-step reasoning", paper="arXiv:2506.17279", families=("causal-lm",), needs=("generate",),
        uses=("forget", "reference", "original"), access="outputs", better="as-reference",
        departs="queries come from templates, where the paper has a language model write them; success is a match of the answer, where it has a judge",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the success rate of the worst category, alone or as a chain; each category's, the leak and unfair suppression are parts."""
        every, kept = facts.of_rows(request.rows("forget")), _kept(request)
        asked = evenly(every, self.config.rows)
        probes = eliciting.clean(chains.build(asked, [*every, *kept], self.config.prompts), asked, "direct")
        found = eliciting.elicit(subject, probes, len(asked), ctx, eliciting.asking(self.config.max_new))
        result = eliciting.measurement(self.card, asked, found, "direct")
        parts = dict(result.parts)
        if "reference" in found.beside:
            parts |= {f"reference {kind}": found.rate("reference", kind) for kind in found.mine.kinds()}
        if "original" in ctx.baselines and kept and self.config.keep and not found.mine.why:
            parts |= self._unfair(subject, evenly(kept, self.config.keep), kept, ctx)
        return result.model_copy(update={"parts": parts})

    def _unfair(self, subject: Any, asked: Sequence[Fact], pool: Sequence[Fact], ctx: Context) -> dict[str, float | None]:
        """Success that the original has on facts to be kept and the subject lacks: a mean over prompts, paired over facts."""
        probes = chains.build(asked, pool, self.config.prompts)
        found = eliciting.elicit(subject, probes, len(asked), ctx.alone(budget={}), eliciting.asking(self.config.max_new), ("original",))
        lost = found.beside["original"].hits - found.mine.hits
        each = [float(np.mean(lost[places])) for at in range(len(asked)) if (places := [n for n, probe in enumerate(probes) if probe.fact == at])]
        if not each:
            return {}
        unfair = stats.bootstrap(each)
        return {"unfair": unfair.value, "unfair_low": unfair.low, "unfair_high": unfair.high, "unfair_n": float(len(each))}


def _kept(request: Request) -> list[Fact]:
    """The facts of the keep rows; none where there are no such rows, or where they are plain text."""
    if request.keep is None:
        return []
    try:
        return facts.of_rows(request.rows("keep"), "keep")
    except Missing:
        return []
