"""Training with a record, for amnesiac unlearning (Graves et al., arXiv:2010.10981): what watched rows did to the weights is kept.

loss = mean over rows of the row's loss, on forget and keep rows together: step for step what finetune does.

For every step whose batch holds a watched row the change of all parameters is stored: in the run's folder as
deltas/*.safetensors, or with the model in memory where there is no folder. The method `amnesiac` takes them back. Buffers
(statistics of batch normalization) are not recorded: parts of a running variance could not be taken back alone.

The record needs as much space as the model for every such step, and who holds it can bring back what was forgotten:
delete it once it has been used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import BadConfig, Unfit
from efface.core.types import Recipe, Request
from efface.ops.deltas import Deltas, key
from efface.ops.loop import descend


class RecordedConfig(Config):
    """Settings of training with a record."""

    watch: Literal["forget", "all"] = "forget"
    """Rows that may have to go one day: those named as forget rows, or every row (every step is then stored)."""
    fit: Fit = Fit(lr=2e-5, steps=500, batch=16, warmup=10, schedule="linear")
    """Optimizer settings; no adapter (fit.rank), and a run that was stopped begins anew (no fit.checkpoint)."""


class Recorded(Recipe[RecordedConfig]):
    """Trains on forget and keep rows and stores what the watched ones changed."""

    card = Card(
        name="recorded", title="Training with a record of what watched rows changed", paper="arXiv:2010.10981", families=("classifier", "regressor"),
        needs=("losses",), uses=(),
        departs="stores safetensors where the code pickles",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the trained subject, which carries its record. Raises Unfit when there are no rows, BadConfig for fit.rank."""
        config = self.config
        if config.fit.rank:
            raise BadConfig(f"setting fit.rank = {config.fit.rank}: recorded keeps changes of the model's own weights; leave fit.rank at 0")
        parts = [data.read() if data is not None else [] for data in (request.forget, request.keep)]
        rows = [row for part in parts for row in part]
        if not rows:
            raise Unfit("recorded reads forget and keep rows and the request has neither")
        after = subject.trainable(0, ctx.seed_for("adapter"))
        keys = [key(row) for row in rows]
        watched = keys if config.watch == "all" else keys[: len(parts[0])]
        recorder = Recorder(after, keys, Deltas(watched, ctx.folder / "deltas" if ctx.folder else None), config.fit.accumulate)

        def loss(batches: Mapping[str, Any]) -> dict[str, Tensor]:
            recorder.see(batches["all"].index.tolist())
            return {"loss": after.losses(batches["all"]).mean()}

        descend(after, {"all": rows}, loss, config.fit.model_copy(update={"checkpoint": 0}), ctx)
        recorder.close()
        ctx.note(recorded_steps=float(len(recorder.deltas.steps)))
        after.deltas = recorder.deltas
        return after


class Recorder:
    """Watches the weights from one step to the next; `keys` name the rows of the pool. An equal row counts as the watched one."""

    def __init__(self, after: Any, keys: list[str], deltas: Deltas, pieces: int) -> None:
        self.weights: dict[str, Tensor] = dict(after.model.named_parameters())
        self.keys, self.deltas, self.pieces = keys, deltas, pieces
        self.calls = 0
        self.met: list[str] = []
        self.before: dict[str, Tensor] = {}

    def see(self, places: list[int]) -> None:
        """One forward pass over the rows at `places`; a step has `pieces` of them, all at the same weights."""
        if self.calls % self.pieces == 0:
            self._store()
        self.calls += 1
        self.met += [self.keys[at] for at in places if self.keys[at] in self.deltas.watched]
        if self.met and not self.before:
            self.before = {name: weight.detach().clone() for name, weight in self.weights.items()}

    def close(self) -> None:
        """Store what the last step changed, and the index."""
        self._store()
        self.deltas.finish()

    def _store(self) -> None:
        if self.met:
            change = {name: weight.detach() - self.before[name] for name, weight in self.weights.items()}
            self.deltas.add(self.calls // self.pieces - 1, self.met, change)
        self.met, self.before = [], {}
