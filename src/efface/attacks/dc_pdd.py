"""Divergence-calibrated attack on membership, DC-PDD (arXiv:2409.14781): probability against how frequent a token is anyway.

    s(x) = mean over the first occurrence of each token in x of min(p_t * log(1 / f_t), a)
    f_t = (count of t in a reference corpus + 1) / (tokens of the corpus + size of the vocabulary)

A rare token that the model expects speaks for membership, a frequent one does not. The bound a keeps single tokens from
deciding. The corpus is the answers of the keep rows, the same for members and others; the end token is left out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.types import Attack, Measurement, Request, Row
from efface.families import forms, membership


class DCPDDConfig(Config):
    """Settings of the attack."""

    a: float = Field(0.01, gt=0)
    """Most that a single token can count."""
    rows: int = Field(4000, ge=1)
    """Most keep rows to count tokens in, evenly spaced."""


class DCPDD(Attack[DCPDDConfig]):
    """Takes rows for members whose rare tokens are likely."""

    card = Card(
        name="dc_pdd", title="Membership by calibrated probability (DC-PDD)", paper="arXiv:2409.14781", families=("causal-lm",), needs=("score",),
        uses=("forget", "keep", "unseen"), access="logits", better="as-reference",
        departs="token frequencies from the keep rows' answers, where the code counts 15 files of C4",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the AUC of the forget rows against the unseen rows. Raises Unfit when the request lacks any part."""
        corpus = forms.sample(request.rows("keep"), self.config.rows)

        def score(model: Any, rows: list[Row]) -> list[float | None]:
            counts: Counter[int] = ctx.once((model, "tokens", len(corpus), request.digest), lambda: Counter(t for row in corpus for t in words(model, row)))
            size = len(model.tokenizer)
            found = forms.gold(model, rows, ctx)
            return [calibrated(words(model, row), got.log_probs[got.words], counts, size, self.config.a) for row, got in zip(rows, found, strict=True)]

        return membership.compare(self.card, subject, membership.sides(request), ctx, score)


def words(subject: Any, row: Row) -> tuple[int, ...]:
    """Token ids of the row's answer (or text), without the end token."""
    encoded = subject.encode_row(row)
    ids: tuple[int, ...] = encoded.answer[: len(encoded.answer) - int(encoded.ends)]
    return ids


def calibrated(ids: Sequence[int], log_probs: np.ndarray, counts: Mapping[int, int], vocabulary: int, a: float) -> float | None:
    """s of one row from its tokens and their log-probabilities; None for a row without tokens."""
    if not len(ids):
        return None
    total = sum(counts.values()) + vocabulary
    first = {token: at for at, token in reversed(list(enumerate(ids)))}
    return float(np.mean([min(math.exp(log_probs[at]) * math.log(total / (counts.get(token, 0) + 1)), a) for token, at in first.items()]))
