"""Neighborhood attack on membership (arXiv:2305.18462): s(x) = mean loss of x's neighbors - loss of x.

Neighbors are texts that differ from x in a few words and make as much sense, so only a model that learned x by heart
prefers it to all of them. With `masked_lm` the words are drawn from a masked language model; by default they are words of
the keep rows (of the unseen rows where there are none), put where they fit best: such as stand there between the same two
words, else after the same word, else such as are written the same way. The prompt stays as it is, and so do the answer's words that stand in it (where there are
others): an answer on somebody else makes no sense. Every model is asked about the same neighbors.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from efface.core import digest
from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import Missing
from efface.core.types import Attack, Measurement, Request, Row
from efface.families import forms, membership
from efface.ops import fact_sets

WORD = re.compile(r"(\w[\w'’-]*)")
"""What is replaced as a whole; everything between two words stays."""
LIKELY = 50
"""Words that a masked language model may propose for a place, its likeliest ones."""
CORPUS = 2000
"""Most rows to take words from."""
Propose = Callable[[list[str], list[int], int, random.Random], dict[int, str]]
"""From the pieces of a text (words at odd places), the places that may change and how many should to new words by place."""


class NeighborhoodConfig(Config):
    """Settings of the attack."""

    neighbors: int = Field(5, ge=1)
    """Neighbors of each row."""
    share: float = Field(0.3, gt=0, le=1)
    """Share of a row's words (those beyond its prompt) that are replaced, of at least one."""
    rows: int = Field(40, ge=1)
    """Most rows of each side, drawn at random; each costs a reading of all its neighbors."""
    masked_lm: str = ""
    """A masked language model that proposes the words: a folder or a name on the hub; "" takes words of other rows."""


class Neighborhood(Attack[NeighborhoodConfig]):
    """Takes rows for members that are likelier than texts that differ in a few words."""

    card = Card(
        name="neighborhood", title="Membership against neighboring texts", paper="arXiv:2305.18462", families=("causal-lm",), needs=("score",),
        uses=("forget", "unseen"), access="logits", better="as-reference",
        departs="without masked_lm, words of other rows stand in for a masked language model; 5 neighbors, 25 in mimir and up to 100 in the paper; 40 rows of each side; "
        "does not see over-forgetting, which takes the neighbors along",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the AUC of the forget rows against the unseen rows. Raises Unfit when the request lacks either, Missing without the masked model."""
        corpus = forms.sample(request.rows("keep" if request.keep else "unseen"), CORPUS)
        propose = _masked(self.config.masked_lm) if self.config.masked_lm else of_rows([membership.answer(row) for row in corpus])

        def near(rows: list[Row]) -> list[list[Row]]:
            key = ("neighbors", self.config.model_dump_json(), request.digest, digest.of_value([dict(row) for row in rows]), ctx.seed)
            return ctx.once(key, lambda: [self._near(row, propose, ctx.random("neighbors", membership.answer(row))) for row in rows])

        def score(model: Any, rows: list[Row]) -> list[float | None]:
            groups, alone = near(rows), membership.alone(model, request, ctx)
            flat = [row for group in groups for row in group]
            losses = iter(forms.losses(forms.gold(model, flat, ctx)) if flat else [])
            return [gap(alone[id(row)].loss, [float(next(losses)) for _ in group]) for row, group in zip(rows, groups, strict=True)]

        forget, unseen = (membership.few(rows, self.config.rows, ctx) for rows in membership.sides(request))
        return membership.compare(self.card, subject, (forget, unseen), ctx, score)

    def _near(self, row: Row, propose: Propose, source: random.Random) -> list[Row]:
        """The row's neighbors; none where no word can be replaced."""
        fixed = frozenset(word.casefold() for word in WORD.findall(fact_sets.said(row).asked))
        found = (neighbor(membership.answer(row), self.config.share, propose, source, fixed) for _ in range(self.config.neighbors))
        return [membership.changed(row, lambda _, text=text: text) for text in found if text is not None]  # type: ignore[misc]


def gap(loss: float, near: Sequence[float]) -> float | None:
    """Mean loss of the neighbors beyond the row's own; None for a row without neighbors."""
    return float(np.mean(near)) - loss if len(near) else None


def neighbor(text: str, share: float, propose: Propose, source: random.Random, fixed: frozenset[str] = frozenset()) -> str | None:
    """The text with some of its words replaced, none of the `fixed` ones if there are others; None where nothing can be proposed for any."""
    pieces = WORD.split(text)
    words = range(1, len(pieces), 2)
    places = [at for at in words if pieces[at].casefold() not in fixed] or list(words)
    new = propose(pieces, places, max(1, int(share * len(places))), source)
    return "".join(new.get(at, piece) for at, piece in enumerate(pieces)) if new else None


def of_rows(texts: Sequence[str]) -> Propose:
    """Proposes words out of other texts, in the places where they fit best (as the paper takes the likeliest swaps of all places)."""
    known: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for text in texts:
        pieces = WORD.split(text)
        for place in range(1, len(pieces), 2):
            for kind in kinds(pieces, place):
                known[kind].add(pieces[place])

    def propose(pieces: list[str], places: list[int], count: int, source: random.Random) -> dict[int, str]:
        found: list[tuple[int, int, list[str]]] = []
        for place in source.sample(places, len(places)):
            for level, kind in enumerate(kinds(pieces, place)):
                if others := sorted(word for word in known.get(kind, ()) if word.casefold() != pieces[place].casefold()):
                    found.append((level, place, others))
                    break
        best = sorted(found, key=lambda one: one[0])[:count]
        return {place: source.choice(others) for _, place, others in best}

    return propose


def kinds(pieces: Sequence[str], place: int) -> list[tuple[str, ...]]:
    """What a word is one of, the narrowest kind first: between two words, after a word, written in a way."""
    left = pieces[place - 2].casefold() if place > 1 else ""
    right = pieces[place + 2].casefold() if place + 2 < len(pieces) else ""
    written = shape(pieces[place])
    return [(written, left, right), (written, left), (written,)]


def shape(word: str) -> str:
    """How a word is written: with digits, in capitals, with a capital, or small."""
    if any(letter.isdigit() for letter in word):
        return "digits"
    return "capitals" if word.isupper() and len(word) > 1 else "capital" if word[0].isupper() else "small"


def _masked(name: str) -> Propose:
    """Proposes words drawn from a masked language model, all of a text at once. Raises Missing when it cannot be loaded."""
    import torch
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(name)
        model: Any = AutoModelForMaskedLM.from_pretrained(name).eval()
    except (OSError, ValueError, KeyError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Missing(f"cannot load the masked language model {name!r}: {line}; give a folder or a name on the hub, or no masked_lm") from None
    if tokenizer.mask_token_id is None:
        raise Missing(f"{name!r} has no mask token, so it is no masked language model; give another one, or no masked_lm")

    @torch.no_grad()
    def propose(pieces: list[str], places: list[int], count: int, source: random.Random) -> dict[int, str]:
        places = sorted(source.sample(places, min(count, len(places))))
        text = "".join(tokenizer.mask_token if at in places else piece for at, piece in enumerate(pieces))
        given = tokenizer(text, return_tensors="pt", truncation=True)
        masks = (given["input_ids"][0] == tokenizer.mask_token_id).nonzero().flatten()
        found = {}
        for place, log_probs in zip(places, model(**given).logits[0, masks].log_softmax(-1), strict=False):
            log_probs[tokenizer.all_special_ids] = -torch.inf
            best = log_probs.topk(min(LIKELY, len(log_probs)))
            words = {str(tokenizer.decode([token])).strip(): p for p, token in zip(best.values.exp().tolist(), best.indices.tolist(), strict=True) if p}
            fit = {word: p for word, p in words.items() if WORD.fullmatch(word) and word.casefold() != pieces[place].casefold()}
            if fit:
                found[place] = source.choices(list(fit), list(fit.values()))[0]
        return found

    return propose
