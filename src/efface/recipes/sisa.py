"""SISA: sharded, isolated, sliced, aggregated training (Bourtoule et al., arXiv:1912.03817).

m shards, each a model of its own; R slices a shard. Stage r trains on slices 1 .. r for e_r = floor(r a) - floor((r - 1) a) epochs,
a = 2 E / (R + 1), so that all stages together read as many rows as E epochs on the whole shard. A checkpoint is kept after each
stage; the last one of every shard votes. A deleted row changes the key of exactly the checkpoints that saw it: those are trained
again without it, R - r + 1 stages of one shard for a row of slice r, and the others are taken from the folder.

A key is the digest of the rows that are left (numbers and content), the seed, the settings, the version of efface and the
checkpoint before. A deletion shrinks the batch that held the row and leaves all others as they were. Each stage begins with a
new optimizer, so that no momentum carries over.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field

from efface.core import digest
from efface.core.capabilities import has
from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import BadConfig, Diverged, Unfit
from efface.core.types import Recipe, Request, Row
from efface.families import lineage, module_files
from efface.families.ensemble import Combine, Ensemble
from efface.families.lineage import Lineage, Piece, Store, Training
from efface.ops import sequences

Numbered = Sequence[tuple[int, Row]]


class SisaConfig(Config):
    """Settings of SISA."""

    shards: int = Field(5, ge=1)
    """Shards, each a model of its own that never sees the others' rows."""
    slices: int = Field(0, ge=0)
    """Slices of a shard; 0 makes 4, and 1 for a scikit-learn estimator, which cannot be trained further."""
    epochs: int = Field(20, ge=1)
    """Reading cost in passes over a shard, all stages together."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate of stochastic gradient descent."""
    batch: int = Field(16, ge=1)
    """Rows in a step, before deletions."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """Momentum; it starts from zero in every stage."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay."""
    combine: Combine = "votes"
    """How the shards answer together: votes (one each), mean probabilities, or mean logits."""
    weigh: Literal["alike", "rows"] = "alike"
    """Whether shards count alike, or by the rows that each has left."""
    fresh: bool = False
    """Whether each shard begins with new random weights instead of those given."""
    deal: Literal["shuffled", "file"] = "shuffled"
    """How rows come to slices: shuffled, or in the order of the file; put rows that are likely to go last, and they cost least."""


class Checkpoint(NamedTuple):
    """One stage of a shard: the model itself, or the folder to load it from when it is asked for."""

    piece: Piece
    key: str
    subject: Any
    place: Path | None = None

    def opened(self, ctx: Context) -> Checkpoint:
        """The same with the model in memory."""
        if self.subject is not None or self.place is None:
            return self
        return self._replace(subject=module_files.load(self.place, ctx.device))


class Sisa(Recipe[SisaConfig]):
    """Trains shards in slices and keeps every checkpoint, so that a deletion retrains only what saw the row."""

    card = Card(
        name="sisa", title="SISA: shards and slices, retrained where a row is deleted", paper="arXiv:1912.03817", families=("classifier",),
        technique="retraining", intent="remove", touches=("weights",), locality="all", data=("forget rows", "keep rows"), operator="weights",
        sequence="refits", reversible=False, guarantee="exact",
        departs="a tie of votes goes to the larger mean probability, not to the smaller class number; keys hold content, seed, settings and version "
        "besides row numbers; a batch of one row is read in evaluation mode",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Ensemble:
        """Return the ensemble of all shards. Raises BadConfig when some slice would never be trained on."""
        found = lineage.training(request)
        start = subject.merged() if getattr(subject, "adapted", False) else subject
        if ctx.folder is not None:
            lineage.keep_start(ctx.folder, start)
        served, record = self.build(start, found, (), ctx)
        if ctx.folder is not None:
            Store(ctx.folder).sweep(record.pieces)
            lineage.write_rows(ctx.folder, found)
            lineage.write(ctx.folder, record)
        return served

    def build(self, start: Any, found: Training, deleted: Collection[int], ctx: Context) -> tuple[Ensemble, Lineage]:
        """The ensemble and its lineage when `deleted` rows are not there; what stands in the folder already is not trained again."""
        slices, numbers = self._slices(start), sorted(found.rows)
        config = self.config.model_copy(update={"slices": slices})
        epochs = schedule(config.epochs, slices)
        seed = ctx.seed_for("sisa", "deal") if config.deal == "shuffled" else None
        dealt = [[[numbers[at] for at in piece] for piece in shard] for shard in sequences.deal(len(numbers), config.shards, slices, seed)]
        work = [(shard, stage) for shard in range(config.shards) for stage in range(slices)]
        last: dict[int, Checkpoint] = {}
        pieces: list[Piece] = []
        for shard, stage in ctx.progress(work, "stages", len(work)):
            before = last.get(shard) or self._first(start, shard, ctx)
            rows = [row for piece in dealt[shard][: stage + 1] for row in piece]
            last[shard] = self._checkpoint(before, found, rows, deleted, (shard, stage, epochs[stage]), ctx)
            pieces.append(last[shard].piece)
        voting = [last[shard] for shard in sorted(last) if last[shard].piece.rows]
        counts = [len(each.piece.rows) if config.weigh == "rows" else 1 for each in voting]
        record = Lineage(
            kind="sisa", seed=ctx.seed, pieces=pieces, deleted=sorted(deleted), data=found.origin, recipe="sisa", settings=config.model_dump(mode="json"),
        )
        return Ensemble([each.opened(ctx).subject for each in voting], config.combine, counts), record

    def _slices(self, start: Any) -> int:
        """How many slices there are. Raises BadConfig or Unfit where the settings cannot train on each of them."""
        if has(start, "refit"):
            if self.config.slices > 1:
                raise Unfit(f"slices = {self.config.slices}: {type(start).__name__} is fitted from nothing each time and cannot go on from a slice; set slices to 1")
            return 1
        if not has(start, "losses"):
            raise Unfit(f"sisa trains networks and scikit-learn estimators; this is a {type(start).__name__}")
        slices = self.config.slices or 4
        if not all(schedule(self.config.epochs, slices)):
            raise BadConfig(f"epochs = {self.config.epochs}: with {slices} slices some would never be read; set epochs to at least {-(-(slices + 1) // 2)}")
        return slices

    def _first(self, start: Any, shard: int, ctx: Context) -> Checkpoint:
        """What a shard begins with."""
        seed = ctx.seed_for("sisa", shard, "start")
        if self.config.fresh and not has(start, "fresh"):
            raise Unfit(f"fresh = true: {type(start).__name__} has no weights to draw anew; set fresh to false")
        key = lineage.key_of({"start": start.digest, "fresh": seed if self.config.fresh else None})
        return Checkpoint(Piece(name="", rows=[], seed=seed), key, start.fresh(seed) if self.config.fresh else start)

    def _checkpoint(self, before: Checkpoint, found: Training, rows: list[int], deleted: Collection[int], at: tuple[int, int, int], ctx: Context) -> Checkpoint:
        """The checkpoint of one stage: named if it was made before, trained otherwise."""
        shard, stage, epochs = at
        left = [row for row in rows if row not in deleted]
        seed = ctx.seed_for("sisa", shard, stage)
        settings = self.config.model_dump(include={"lr", "batch", "momentum", "weight_decay"})
        key = lineage.key_of({
            "recipe": "sisa", "seed": seed, "places": rows, "rows": found.digest_of(left), "settings": settings, "epochs": epochs, "after": before.key,
        })
        store, name = Store(ctx.folder), f"shard{shard + 1}-slice{stage + 1}"
        place, subject = store.place(name, key), None
        if place is None:
            numbered = [(row, found.rows[row]) for row in rows]
            subject = self._trained(before.opened(ctx).subject, numbered, deleted, epochs, seed, ctx)
            with store.new(name, key) as folder:
                if folder is not None:
                    subject.save(folder)
            place = store.place(name, key)
        after = [before.piece.name] if before.piece.name else []
        return Checkpoint(Piece(name=name, files=store.files(name, key), rows=sorted(left), after=after, seed=seed), key, subject, place)

    def _trained(self, before: Any, rows: Numbered, deleted: Collection[int], epochs: int, seed: int, ctx: Context) -> Any:
        """A copy of `before`, trained on the rows that are left, in the batches that all rows together would make."""
        left = [row for number, row in rows if number not in deleted]
        if has(before, "refit"):
            return _refitted(before, left, seed)
        after, c = before.trainable(0, seed), self.config
        optimizer = torch.optim.SGD(after.model.parameters(), lr=c.lr, momentum=c.momentum, weight_decay=c.weight_decay)
        total, steps = 0.0, 0
        with torch.random.fork_rng(devices=[]):
            for epoch in range(epochs):
                order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(digest.seed_from(seed, epoch) % 2**62)).tolist()
                for start in range(0, len(rows), c.batch):
                    batch = [rows[at][1] for at in order[start : start + c.batch] if rows[at][0] not in deleted]
                    if not batch:
                        continue
                    torch.manual_seed(digest.seed_from(seed, epoch, start) % 2**62)
                    after.model.train(len(batch) > 1)  # one row alone has no variance to normalize by
                    loss = after.losses(after.encode(batch)).mean()
                    loss.backward()
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                    total, steps = float(loss.detach()), steps + 1
                    if not math.isfinite(total):
                        raise Diverged(f"loss is {total} in epoch {epoch + 1}; lower lr, then run again")
        after.model.eval().requires_grad_(False)
        ctx.log(step=len(ctx.curve), loss=total, rows=len(left), steps=steps)
        return after


def _refitted(before: Any, left: Sequence[Row], seed: int) -> Any:
    if not left:
        return before.fork()
    try:
        return before.refit(left, seed)
    except ValueError as error:  # such as one class alone
        raise Unfit(f"a shard of {len(left)} rows cannot be fitted: {str(error).splitlines()[0][:200]}; set shards lower") from None


def schedule(epochs: int, slices: int) -> list[int]:
    """Epochs of each stage: together they read as many rows as `epochs` passes over all slices would."""
    reached = [2 * epochs * stage // (slices + 1) for stage in range(slices + 1)]
    return [b - a for a, b in zip(reached, reached[1:], strict=False)]
