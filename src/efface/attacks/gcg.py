"""Greedy coordinate gradient (arXiv:2307.15043): a suffix behind the question that makes the model answer.

    g = d loss(answer | question + suffix) / d token, for every place of the suffix and every token of the vocabulary
    candidates: one place, one of the tokens that lower the loss most by g;   the best candidate is the next suffix

A universal suffix is searched on a few forget rows and counted on others, so that it cannot hand over the answers that are
counted. A suffix for each row alone is searched on the very answer that is counted: enough steps force almost any text out of
any model, and only the difference to the reference tells. Words of the answers are kept out of suffixes. Beside it stand the
questions without a suffix, and the best of as many random suffixes: what the gradient is worth. The reference is attacked
likewise. Candidates whose text is read as other tokens are dropped.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field
from torch import Tensor

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import BudgetSpent, Missing
from efface.core.types import Attack, Measurement, Request, Row
from efface.families import altered, forms, passes, probing, suffixes
from efface.families.probing import NEW_TOKENS
from efface.families.suffixes import Place
from efface.ops import facts, probes, stats
from efface.ops.probes import Probe

PROPOSALS = 8
"""Draws for each candidate that is wanted, as many do not survive being typed."""
WAYS = ("gcg", "random")


class GcgConfig(Config):
    """Settings of the attack."""

    suffix: Literal["universal", "row"] = "universal"
    """One suffix for all rows, counted on rows that it was not searched on; or one for each row."""
    steps: int = Field(20, ge=1)
    """Steps of the search, each from one suffix to the next."""
    candidates: int = Field(32, ge=1)
    """Suffixes that are tried in a step."""
    best: int = Field(64, ge=1)
    """Tokens for each place, those that lower the loss most by the gradient, out of which candidates are drawn."""
    length: int = Field(8, ge=1)
    """Tokens of the suffix."""
    taught: int = Field(2, ge=1)
    """Rows on which a universal suffix is searched."""
    rows: int = Field(8, ge=1)
    """Most rows that are counted."""
    max_new: int = Field(NEW_TOKENS, ge=1)
    """Most tokens of an answer."""


class Searched(NamedTuple):
    """The best suffix of a search, how many were tried, and why it ended early ("" if it did not)."""

    suffix: list[int]
    tried: int
    why: str


class Told(NamedTuple):
    """Of the counted rows (N,): whether the model answers right, and the probability of the answer, by way: plain, gcg, random."""

    hits: dict[str, np.ndarray]
    chances: dict[str, np.ndarray]
    why: str = ""


class Gcg(Attack[GcgConfig]):
    """An adversary who searches for magic words by gradient."""

    card = Card(
        name="gcg", title="Greedy coordinate gradient", paper="arXiv:2307.15043", families=("causal-lm",), needs=("losses", "generate"),
        uses=("forget", "reference", "original"), access="gradients", better="as-reference",
        departs="20 steps of 32 candidates and 8 tokens in place of 500 steps of 512 and 20; a random first suffix; the target is the answer",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the share of rows that the model answers right behind the suffix; without one, and behind a random one, are parts.

        A spent budget ends the search, and the suffix found so far counts. Raises Missing for rows without a short answer.
        """
        taught, asked = self._split(request.rows("forget"), ctx)
        mine = self._told(altered.bare(subject), taught, asked, ctx)
        parts = _parts(mine, "")
        mean = stats.bootstrap(mine.hits["gcg"])
        reference: Any = ctx.baselines.get("reference")
        if reference is not None:
            base = self._stored(reference, taught, asked, ctx)
            gain = stats.bootstrap(mine.hits["gcg"] - base.hits["gcg"])
            parts |= {"reference": float(base.hits["gcg"].mean()), "gain": gain.value, "gain_low": gain.low, "gain_high": gain.high, **_parts(base, "reference ")}
        if "original" in ctx.baselines:
            said = passes.answers(ctx.baseline("original"), asked, ctx, self.config.max_new)
            parts["original"] = float(probing.hits(said, _probes(asked)).mean())
        table: list[dict[str, object]] = [
            {"row": at, "value": float(mine.hits["gcg"][at]), **{f"{way} probability": float(values[at]) for way, values in mine.chances.items()}} for at in range(len(asked))
        ]
        return Measurement(
            system=self.card.name, subject="", value=mean.value, low=mean.low, high=mean.high, n=len(asked), better="as-reference",
            why=mine.why, parts=parts, table=table,
        )

    def _split(self, rows: Sequence[Row], ctx: Context) -> tuple[list[Row], list[Row]]:
        """Rows to search on and rows to count, apart for a universal suffix; of all rows those whose answer is a short value."""
        fit = [row for row, fact in zip(rows, facts.of_rows(rows), strict=True) if len(fact.value.split()) <= facts.SHORT]
        if len(fit) < 1 + (self.config.suffix == "universal"):
            raise Missing(f"gcg needs forget rows whose answer is a short value, two for a universal suffix; found {len(fit)} among {len(rows)}")
        if self.config.suffix == "row":
            return [], forms.sample(fit, self.config.rows)
        mixed = ctx.random("gcg rows").sample(fit, len(fit))
        cut = min(self.config.taught, len(mixed) - 1)
        return mixed[:cut], mixed[cut : cut + self.config.rows]

    def _told(self, subject: Any, taught: Sequence[Row], asked: Sequence[Row], ctx: Context) -> Told:
        """Both searches, and what the model says without a suffix and behind what each found."""
        groups = [list(taught)] if taught else [[row] for row in asked]
        allowed = self._allowed(subject, [*taught, *asked], ctx)
        found: dict[str, list[list[int]]] = {way: [] for way in WAYS}
        why = ""
        for at, group in enumerate(ctx.progress(groups, "searching suffixes", len(groups))):
            searched = self._search(subject, group, allowed, at, ctx, 0 if why else self.config.steps)
            found["gcg"].append(searched.suffix)
            found["random"].append(self._drawn(subject, group, allowed, at, ctx, searched.tried))
            why = why or searched.why
        texts = {way: [suffixes.text_of(subject, ids) for ids in each] * (len(asked) if taught else 1) for way, each in found.items()}
        rows = {"plain": list(asked), **{way: [suffixes.with_suffix(row, text) for row, text in zip(asked, texts[way], strict=True)] for way in WAYS}}
        said = passes.answer_sets(subject, list(rows.values()), ctx, self.config.max_new)
        hits = {way: probing.hits(answers, _probes(asked)) for way, answers in zip(rows, said, strict=True)}
        return Told(hits, {way: altered.chances(subject, given, ctx) for way, given in rows.items()}, why)

    def _search(self, subject: Any, group: Sequence[Row], allowed: Tensor, at: int, ctx: Context, steps: int) -> Searched:
        """The suffix of least loss that the search meets on a group of rows."""
        source = ctx.random("gcg", at)
        suffix, places = suffixes.first(subject, group, allowed, self.config.length, source)
        best, least, count = suffix, float(suffixes.losses(subject, places, [suffix])[0]), 1
        for _ in range(steps):
            try:
                ctx.spend(steps=1, queries=self.config.candidates * len(places))
            except BudgetSpent as error:
                return Searched(best, count, str(error))
            slopes = suffixes.gradient(subject, places, suffix)[:, allowed]
            good = allowed[slopes.topk(min(self.config.best, len(allowed)), largest=False).indices]
            tried = self._candidates(subject, places, suffix, good, source)
            if not tried:
                continue
            found = suffixes.losses(subject, places, tried)
            suffix, count = tried[int(found.argmin())], count + len(tried)
            if float(found.min()) < least:
                best, least = suffix, float(found.min())
        return Searched(best, count, "")

    def _candidates(self, subject: Any, places: Sequence[Place], suffix: Sequence[int], good: Tensor, source: random.Random) -> list[list[int]]:
        """Suffixes that differ from this one in one place, by a token that is good there (k, best), and that can be typed."""
        tried: list[list[int]] = []
        for _ in range(PROPOSALS * self.config.candidates):
            at = source.randrange(len(suffix))
            one = [*suffix[:at], int(good[at, source.randrange(good.shape[1])]), *suffix[at + 1 :]]
            if one != suffix and one not in tried and suffixes.stands(subject, places, one):
                tried.append(one)
            if len(tried) == self.config.candidates:
                break
        return tried

    def _drawn(self, subject: Any, group: Sequence[Row], allowed: Tensor, at: int, ctx: Context, count: int) -> list[int]:
        """The best of as many random suffixes as the search has tried."""
        source = ctx.random("random suffix", at)
        pairs = [suffixes.first(subject, group, allowed, self.config.length, source) for _ in range(count)]
        tried = [suffix for suffix, _ in pairs]
        return tried[int(suffixes.losses(subject, pairs[0][1], tried).argmin())]

    def _stored(self, reference: Any, taught: Sequence[Row], asked: Sequence[Row], ctx: Context) -> Told:
        """The same attack on the frozen reference, without any budget; kept beside the passes."""

        def compute() -> object:
            found = self._told(reference, taught, asked, ctx.alone(budget={}))
            return {"hits": {way: v.tolist() for way, v in found.hits.items()}, "chances": {way: v.tolist() for way, v in found.chances.items()}}

        held = passes.kept(reference, self.card.name, [self.config.model_dump(), list(taught), list(asked), ctx.seed], ctx, compute)
        hits, chances = ({way: np.array(values) for way, values in held[name].items()} for name in ("hits", "chances"))
        return Told(hits, chances)

    def _allowed(self, subject: Any, rows: Sequence[Row], ctx: Context) -> Tensor:
        """Typeable tokens that are no piece of a word of the rows' answers."""
        words = {word for fact in facts.of_rows(rows) for word in facts.words(f"{fact.answer} {' '.join(fact.accepted)}")}
        ids = suffixes.typeable(subject, ctx)
        plain = [suffixes.text_of(subject, [number]).strip().casefold() for number in ids.tolist()]
        kept = [at for at, text in enumerate(plain) if not (len(text) > 2 and any(text in word or word in text for word in words if len(word) > 2))]
        if not kept:
            raise Missing("every token that a user could type is part of an answer; give rows with other answers")
        return ids[kept]


def _probes(rows: Sequence[Row]) -> list[Probe]:
    return probes.ask("question", facts.of_rows(rows))


def _parts(told: Told, of: str) -> dict[str, float | None]:
    """Shares of right answers without the gradient, and the mean probability of the answers in each way."""
    shares = {f"{of}unattacked": told.hits["plain"], f"{of}random": told.hits["random"]}
    shares |= {f"{of}{name} probability": told.chances[way] for name, way in (("suffix", "gcg"), ("unattacked", "plain"), ("random", "random"))}
    return {name: float(values.mean()) for name, values in shares.items()}
