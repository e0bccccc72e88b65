"""Jailbreaks: published prefixes, role plays and begun answers around the plain question, and answers drawn at temperature.

The kinds are those of RWKU's adversarial probes (arXiv:2406.10890, section 3.3) and of ConceptVectors' jailbreak forms
(arXiv:2406.11614): plain, "you know everything about it", a grandmother's story, the article as context, another language. Their
wording is efface's own (ops/jailbreaks.py). "sampling" asks the plain question `draws` times at temperature, with no role at all:

    best of n = share of facts that at least one draw gets        per draw = share of all draws that are right

Many tries find more by luck alone, so the reference gets the same tries, and every kind counts by itself. RWKU's prefix injection,
affirmative suffix, multiple choice and reverse query elicit most there; the last two are forms of a question and no part of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.rows import evenly
from efface.core.types import Attack, Measurement, Request
from efface.families import eliciting, passes, probing
from efface.families.decoding import Sampling
from efface.ops import facts, jailbreaks
from efface.ops.jailbreaks import PLAIN
from efface.ops.probes import Probe

SAMPLING = "sampling"


class JailbreakConfig(Config):
    """Settings of the attack."""

    rows: int = Field(8, ge=1)
    """Forget rows to attack, evenly spaced."""
    draws: int = Field(8, ge=0, le=eliciting.CHUNK)
    """Answers to draw to each plain question; 0 draws none."""
    temperature: float = Field(1.0, gt=0)
    """Temperature of the draws."""
    top_p: float = Field(0.95, gt=0, le=1)
    """Share of probability that a draw takes its tokens from."""
    max_new: int = Field(32, ge=1)
    """Most tokens of an answer."""


class Jailbreak(Attack[JailbreakConfig]):
    """A user who talks the model into it, or asks until it slips."""

    card = Card(
        name="jailbreak", title="Jailbreak prompts and sampling", paper="arXiv:2406.10890, arXiv:2406.11614", families=("causal-lm",),
        needs=("generate",), uses=("forget", "reference"), access="outputs", better="as-reference",
        departs="own wording, the same for every subject, where RWKU has GPT-4 write each prompt; the article is the subject's other facts where rows bring none",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the success rate of the worst template, or of the best of n draws; each one's, and the rate per draw, are parts."""
        every = facts.of_rows(request.rows("forget"))
        asked = evenly(every, self.config.rows)
        probes = eliciting.clean(jailbreaks.build(asked, every), asked, PLAIN)
        drawn = [replace(probe, form=SAMPLING) for probe in probes if probe.form == PLAIN for _ in range(self.config.draws)]
        found = eliciting.elicit(subject, [*probes, *drawn], len(asked), ctx, self._answers)
        result = eliciting.measurement(self.card, asked, found, PLAIN)
        rates = {
            "per draw" if who == "mine" else f"{who} per draw": float(told.hits[places].mean())
            for who, told in {"mine": found.mine, **found.beside}.items()
            if (places := [at for at, probe in enumerate(told.probes) if probe.form == SAMPLING])
        }
        return result.model_copy(update={"parts": {**result.parts, **rates}})

    def _answers(self, subject: Any, probes: Sequence[Probe], ctx: Context) -> list[str]:
        """Greedy answers to the templates, drawn ones to the plain question."""
        places = [at for at, probe in enumerate(probes) if probe.form != SAMPLING]
        texts = dict(zip(places, probing.ask(subject, [probes[at] for at in places], ctx, self.config.max_new), strict=True)) if places else {}
        draws: dict[int, list[int]] = {}
        for at, probe in enumerate(probes):
            if probe.form == SAMPLING:
                draws.setdefault(probe.fact, []).append(at)
        for count in sorted({len(mine) for mine in draws.values()}):
            alike = [mine for mine in draws.values() if len(mine) == count]
            for mine, said in zip(alike, self._drawn(subject, [probes[mine[0]] for mine in alike], count, ctx), strict=True):
                texts |= dict(zip(mine, said, strict=True))
        return [texts[at] for at in range(len(probes))]

    def _drawn(self, subject: Any, probes: Sequence[Probe], count: int, ctx: Context) -> list[list[str]]:
        """`count` draws for each question; kept where no shield stands between, as a frozen model draws the same again."""
        config = self.config
        rows = [probe.row for probe in probes]
        sampling = Sampling(count, config.temperature, config.top_p, ctx.seed_for("jailbreak", count, [probe.prompt for probe in probes]) % 2**32)

        def draw() -> list[list[str]]:
            found: list[list[str]] = subject.sample(rows, sampling, config.max_new)
            return found

        if subject.shields:
            return draw()
        found: list[list[str]] = passes.kept(subject, "jailbreak", [[dict(row) for row in rows], *vars(sampling).values(), config.max_new], ctx, draw)
        return found
