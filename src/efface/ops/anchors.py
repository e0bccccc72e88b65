"""What the model before forgetting says of the rows of a run. It is the subject itself, which nothing changes: no second model is made.

`sequence_log_probs` gives one number per row, computed before the loop and kept in the run's folder. `Frozen` gives one
tensor per row (hidden states at its labeled positions) and reads each row once, when a step first needs it: a run that
the stop rule ends early has not paid for rows that it never saw. Rows are read in fixed pieces, so that a resumed run
finds the same numbers. `NextToken` gets next-token distributions out of those hidden states through the frozen head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from efface.core import digest, files
from efface.core.context import Context
from efface.core.types import Row
from efface.ops.logprobs import IGNORE
from efface.ops.loop import draw

PIECE = 32
"""Rows that are read together."""
MOST = 2**30
"""Bytes of hidden states to keep; rows beyond that are read again whenever a step needs them."""
Read = Callable[[Any], tuple[Tensor, Tensor]]
"""Batch -> hidden states (B, T, d) and the mask (B, T) of the positions to keep."""


def sequence_log_probs(subject: Any, rows: Sequence[Row], ctx: Context) -> Tensor:
    """log p(answer | prompt) of each row (N,) under the frozen subject: from memory, from the run's folder, or from one pass."""
    named = digest.of_value([dict(row) for row in rows])

    def compute() -> Tensor:
        path = None
        if ctx.folder is not None:
            path = ctx.folder / "anchors" / f"{digest.of_value([subject.origin or subject.digest, named])[:32]}.json"
            if path.exists():
                stored: Any = files.read_json(path)
                return torch.tensor(stored, device=subject.device)
        values = torch.empty(len(rows))
        for place, score in ctx.progress(subject.score(rows), "reading rows before training", len(rows)):
            values[place] = float(score.log_probs.sum())
        if path is not None:
            files.write_json(path, values.tolist())
        return values.to(subject.device)

    return ctx.once((subject, "anchors", named), compute)


def drawn_first(rows: Sequence[Row], pool: str, ctx: Context) -> list[int]:
    """Positions of all rows in the order in which the loop draws them from the pool."""
    return draw(len(rows), len(rows), 0, ctx.seed_for("rows", pool))


class Frozen:
    """One tensor (labels, d) for each row of a pool, out of a model that does not change."""

    def __init__(self, encode: Callable[..., Any], rows: Sequence[Row], order: Sequence[int], read: Read) -> None:
        self.encode, self.rows, self.order, self.read = encode, rows, order, read
        self.held: dict[int, Tensor] = {}
        self.bytes = 0
        self._piece_of = {place: at // PIECE for at, place in enumerate(order)}

    @torch.no_grad()
    def at(self, batch: Any, mask: Tensor) -> Tensor:
        """Hidden states (B, T, d) of the batch's rows at the positions of `mask` (B, T), zero elsewhere."""
        places = batch.index.tolist()
        for piece in sorted({self._piece_of[place] for place in places if place not in self.held}):
            if self.bytes > MOST:
                break
            self._fill(self.order[piece * PIECE : (piece + 1) * PIECE])
        if all(place in self.held for place in places):
            found = torch.cat([self.held[place] for place in places])
        else:
            hidden, here = self.read(batch)
            found = hidden[here]
        spread = found.new_zeros(*mask.shape, found.shape[-1])
        spread[mask] = found
        return spread

    def _fill(self, places: Sequence[int]) -> None:
        batch = self.encode([self.rows[place] for place in places], places)
        hidden, mask = self.read(batch)
        for place, row, here in zip(places, hidden, mask, strict=True):
            self.held[place] = row[here].clone()
            self.bytes += self.held[place].nbytes


class NextToken:
    """The frozen model's next-token distributions at the labeled positions of a pool."""

    def __init__(self, subject: Any, rows: Sequence[Row], pool: str, ctx: Context) -> None:
        self.subject, self.head = subject, subject.model.get_output_embeddings()
        self.frozen = Frozen(subject.encode, rows, drawn_first(rows, pool, ctx), self._read)
        self.checked = False

    @torch.no_grad()
    def logits(self, batch: Any, labels: Tensor) -> Tensor:
        """Logits (B, T, V), aligned with `labels` (B, T) as `subject.logits(batch)` gives them; meaningless where there is no label."""
        if self.head is not None and not self.checked:
            self.checked = True
            if not self._head_suffices(batch):
                self.head = None
        if self.head is None:
            return self.subject.logits(batch)[0]  # type: ignore[no-any-return]
        return self.head(self.frozen.at(batch, labels != IGNORE))  # type: ignore[no-any-return]

    def _read(self, batch: Any) -> tuple[Tensor, Tensor]:
        """What the head is given at each position, and where there are labels."""
        hidden, _, labels = self._caught(batch)
        return hidden, labels != IGNORE

    def _caught(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        caught: list[Tensor] = []
        handle = self.head.register_forward_pre_hook(lambda module, given: caught.append(given[0]))
        try:
            logits, labels = self.subject.logits(batch)
        finally:
            handle.remove()
        return caught[-1][:, -labels.shape[1] - 1 : -1], logits, labels

    def _head_suffices(self, batch: Any) -> bool:
        """Whether logits are the head's output and nothing more: some models scale or cap them afterwards."""
        hidden, logits, labels = self._caught(batch)
        mask = labels != IGNORE
        if hidden.shape[:2] != mask.shape:
            return False
        return bool(torch.allclose(self.head(hidden[mask]).float(), logits[mask].float(), rtol=1e-3, atol=1e-3))

