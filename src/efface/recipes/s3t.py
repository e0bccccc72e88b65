"""S3T: exact deletion by adapters that learn from a growing part of the data (arXiv:2406.16257).

m shards, each a model of its own; L slices a shard; B orders ("sequences") of the slices. The layers are cut into L groups, counted
from the top. Stage k of a sequence trains group k (LoRA) and the head on the first k slices together, from the head of stage
k - 1, with all groups before it frozen. Every stage is kept. A deletion in slice s leaves each sequence the stages before s; the
groups after them are switched off and the head goes back to the last one left. A shard answers by its longest sequence, the model
by the mean of the shards' logits. Nothing is trained, and what answers never saw the deleted row.

Deletions until no shard is left, evenly spread: m L H(m min(B, L)) on average (ops/sequences.py). The base model is given, and no
part of the promise: what it was trained on stays in it.

Seeds depend on shard, sequence and stage alone. Rows are dealt out by position, all of them, so that each is in some slice.
Settings of the paper for other models: RoBERTa-large 7 slices, alpha 2, fit.lr 1e-4, 30 epochs; language models rank 32, alpha 2,
dropout .05, modules all, fit.lr 2e-5, 3 epochs.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any, Literal, NamedTuple

from pydantic import Field
from torch import Tensor

from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context, silent
from efface.core.errors import BadConfig, Unfit
from efface.core.types import Recipe, Request
from efface.families import lineage, stages
from efface.families.ensemble import Ensemble
from efface.families.lineage import Lineage, Piece, Store, Training
from efface.ops import sequences
from efface.ops.loop import descend


class S3TConfig(Config):
    """Settings of S3T."""

    shards: int = Field(0, ge=0)
    """Shards, each a model of its own; 0 makes 5 of a classifier, and 1 of a language model, which can have no more."""
    slices: int = Field(0, ge=0)
    """Slices of a shard, and groups of layers; 0 makes 4, or as many as there are layers."""
    sequences: int = Field(0, ge=0)
    """Orders of the slices that are learned in each shard; 0 makes as many as slices, all rotations."""
    chances: tuple[float, ...] = ()
    """How likely each slice is to lose a row; orders are then matched to this instead of rotated. Goes with deal = file."""
    exponent: float = Field(100.0, gt=0)
    """How strongly matching shuns slices that are likely to lose a row."""
    deal: Literal["shuffled", "file"] = "shuffled"
    """How rows come to slices: shuffled, or in the order of the file, the first rows to the first slice of each shard."""
    modules: stages.Which = "query-value"
    """Modules of a layer that carry adapters; a layer without queries and values carries them on all."""
    alpha: float = Field(1.0, gt=0)
    """Scale of the adapters, as a multiple of the rank; it is divided by the rank's root."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout before the adapters."""
    fit: Fit = Fit(lr=2e-4, epochs=15, batch=128, schedule="linear", rank=16)
    """Optimizer settings of each stage; fit.rank is the rank of the adapters."""


class Plan(NamedTuple):
    """What is to be trained: settings with every 0 resolved, groups of modules, parameters of the head, rows by shard and slice, orders."""

    config: S3TConfig
    groups: list[tuple[str, ...]]
    head: tuple[str, ...]
    dealt: list[list[list[int]]]
    orders: list[sequences.Order]


class Link(NamedTuple):
    """One stage of a sequence."""

    piece: Piece
    key: str
    adapter: stages.Weights
    head: stages.Weights


class S3T(Recipe[S3TConfig]):
    """Trains shards, slices and sequences of adapters, so that any row can be deleted later without training."""

    card = Card(
        name="s3t", title="S3T: exact deletion by switching adapters off", paper="arXiv:2406.16257", families=("classifier", "causal-lm"),
        needs=("losses",),
        technique="parameter merging", intent="remove", touches=("adapter",), locality="all", data=("forget rows", "keep rows"), operator="weights",
        sequence="accumulates", reversible=False, guarantee="exact",
        departs="the last checkpoint of a stage is kept, where the authors pick one by the test set; batch normalization keeps the base's statistics; "
        "modules are matched by their whole names; more orders than slices are told apart by their later slices; a language model is one shard",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return what answers while nothing is deleted: an ensemble of all shards, or the language model with all adapters."""
        found = lineage.training(request)
        start = subject.merged() if subject.adapted else subject
        if ctx.folder is not None and start.family != "causal-lm":  # which names its base and need not copy it
            lineage.keep_start(ctx.folder, start)
        served, record = self.build(start, found, (), ctx)
        if ctx.folder is not None:
            Store(ctx.folder).sweep(record.pieces)
            lineage.write_rows(ctx.folder, found)
            lineage.write(ctx.folder, record)
        return served

    def build(self, start: Any, found: Training, deleted: Collection[int], ctx: Context) -> tuple[Any, Lineage]:
        """What answers, and its lineage, when `deleted` rows are not there: no stage that needs one of them is trained.

        With a folder, pieces that stand there already are taken and not trained again.
        """
        plan = self._plan(start, found, ctx)
        firsts = len(plan.dealt) * len({order[0] for order in plan.orders})
        ctx.note(deletions_expected=sequences.capacity(len(plan.dealt), len(plan.groups), firsts))
        work = [(shard, number, stage) for shard in range(len(plan.dealt)) for number in range(len(plan.orders)) for stage in range(len(plan.groups))]
        chains: dict[tuple[int, int], list[Link]] = {}
        for shard, number, stage in ctx.progress(work, "stages", len(work)):
            chain = chains.setdefault((shard, number), [])
            rows = sorted(row for piece in plan.orders[number][: stage + 1] for row in plan.dealt[shard][piece])
            if len(chain) == stage and set(rows).isdisjoint(deleted):
                chain.append(self._link(start, found, plan, chain, (shard, number, rows), ctx))
        longest = [max((chains[shard, number] for number in range(len(plan.orders))), key=len) for shard in range(len(plan.dealt))]
        record = Lineage(
            kind="s3t", seed=ctx.seed, pieces=[link.piece for chain in chains.values() for link in chain], deleted=sorted(deleted),
            data=found.origin, recipe="s3t", settings=plan.config.model_dump(mode="json"),
        )
        return self._served(start, plan, [chain for chain in longest if chain]), record

    def _link(self, start: Any, found: Training, plan: Plan, chain: list[Link], at: tuple[int, int, list[int]], ctx: Context) -> Link:
        """The next stage of a sequence: out of the folder if it was made before, trained otherwise."""
        shard, number, rows = at
        seed = ctx.seed_for("s3t", shard, number, len(chain))
        settings = plan.config.model_dump(include={"slices": True, "modules": True, "alpha": True, "dropout": True, "fit": True})
        settings["fit"].pop("checkpoint")
        key = lineage.key_of({
            "recipe": "s3t", "seed": seed, "rows": found.digest_of(rows), "settings": settings, "after": chain[-1].key if chain else start.digest,
        })
        store, name = Store(ctx.folder), f"shard{shard + 1}-sequence{number + 1}-stage{len(chain) + 1}"
        place = store.place(name, key)
        if place is not None:
            adapter, top = stages.read(place)
        else:
            began, own = time.monotonic(), ctx.alone(seed=seed, folder=None, progress=silent, curve=[])
            adapter, top = self._stage(start, plan, chain, [found.rows[row] for row in rows], own)
            last = {"loss": own.curve[-1]["loss"]} if own.curve else {}
            ctx.log(step=len(ctx.curve), shard=shard + 1, sequence=number + 1, stage=len(chain) + 1, rows=len(rows), seconds=time.monotonic() - began, **last)
            with store.new(name, key) as folder:
                if folder is not None:
                    stages.write(folder, adapter, top, self._shape(), getattr(start, "base", "") or "base")
        piece = Piece(name=name, files=store.files(name, key), rows=rows, after=[link.piece.name for link in chain], seed=seed)
        return Link(piece, key, adapter, top)

    def _plan(self, start: Any, found: Training, ctx: Context) -> Plan:
        """Everything that is settled before a row is looked at. Raises BadConfig, BadRows or Unfit for what cannot be."""
        given = self.config
        if not given.fit.rank:
            raise BadConfig("fit.rank = 0: s3t trains adapters; give a rank of at least 1")
        shards = given.shards or (1 if start.family == "causal-lm" else 5)
        if start.family == "causal-lm" and shards > 1:
            raise Unfit(f"shards = {shards}: a language model is served as one model with one adapter; set shards to 1")
        slices = given.slices or min(4, max(len(stages.layers(start)), 1))
        if given.chances and len(given.chances) != slices:
            raise BadConfig(f"chances: {len(given.chances)} were given for {slices} slices")
        budget = given.sequences or slices
        config = given.model_copy(update={"shards": shards, "slices": slices, "sequences": budget})
        orders = sequences.matched(given.chances, budget, given.exponent) if given.chances else sequences.cyclic(slices, budget)
        numbers = sorted(found.rows)
        seed = ctx.seed_for("s3t", "deal") if given.deal == "shuffled" else None
        dealt = [[[numbers[at] for at in piece] for piece in shard] for shard in sequences.deal(len(numbers), shards, slices, seed)]
        return Plan(config, stages.groups(start, slices, given.modules), stages.head(start), dealt, orders)

    def _stage(self, start: Any, plan: Plan, chain: list[Link], rows: list[Any], ctx: Context) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Train one stage on top of those before it and return its adapter and head."""
        group = plan.groups[len(chain)]
        after = self._stacked(start, plan, chain, len(chain) + 1, ctx.seed_for("adapter"))
        for parameter in stages.trained(after, group, plan.head).values():
            parameter.requires_grad_(True)
        fixed = [part for part in after.model.modules() if hasattr(part, "track_running_stats")]

        def loss(batches: Any) -> Any:
            for part in fixed:  # statistics that move would carry these rows into layers that are to stay as they are
                part.eval()
            return {"loss": after.losses(batches["rows"]).mean()}

        descend(after, {"rows": rows}, loss, self.config.fit, ctx)
        return stages.adapter_of(after, group), stages.head_of(after, plan.head)

    def _stacked(self, start: Any, plan: Plan, chain: list[Link], count: int, seed: int) -> Any:
        """The start with adapters on the first `count` groups, those of the chain filled in, and the chain's last head."""
        after = stages.attach(start, [name for group in plan.groups[:count] for name in group], self._shape(), seed)
        for link in chain:
            stages.put(after, link.adapter, {})
        return stages.put(after, {}, chain[-1].head) if chain else after

    def _served(self, start: Any, plan: Plan, chains: list[list[Link]]) -> Any:
        members = [self._stacked(start, plan, chain, len(chain), 0) for chain in chains]
        if start.family == "causal-lm":
            return members[0] if members else start.fork()
        return Ensemble(members, base=start)

    def _shape(self) -> dict[str, float]:
        return {"rank": self.config.fit.rank, "alpha": self.config.alpha, "dropout": self.config.dropout}
