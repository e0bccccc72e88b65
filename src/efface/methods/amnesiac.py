"""Amnesiac unlearning (Graves et al., arXiv:2010.10981): what the forget rows' batches did to the weights is taken back.

theta = theta_trained - sum over recorded steps whose batch held a forget row of (theta_after_step - theta_before_step)

and then a few epochs on the keep rows. It needs a record of the training, which the recipe `recorded` makes:
`efface train --recipe recorded --out RUN`, and then `--set deltas=RUN/deltas`; in Python the trained subject carries it.

Exact only for one step of an optimizer without memory: every later step was computed from weights that held the forgotten
rows, and momentum carries them on. Taking back many steps damages what must stay; the repair is there for that. Statistics of
batch normalization are not in the record; only the repair moves them on. The paper calls random labels on a class
"unlearning" as well; that is the method random_label.

The paper's repair is a few epochs at the rate of training. The record can undo the forgetting: delete it afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import BadConfig, Missing, Unfit
from efface.core.types import Method, Request, Row
from efface.ops.deltas import Deltas, key, open_deltas
from efface.ops.loop import descend


class AmnesiacConfig(Config):
    """Settings of amnesiac unlearning."""

    deltas: str = ""
    """Folder of the record that the recipe recorded made (RUN/deltas); empty takes what the model in memory carries."""
    fit: Fit = Fit(optimizer="sgd", lr=0.01, momentum=0.9, weight_decay=5e-4, epochs=3, batch=64, clip=0)
    """Optimizer settings of the repair on keep rows; no adapter (fit.rank), and 0 steps and epochs repair nothing."""


class Amnesiac(Method[AmnesiacConfig]):
    """Takes back the recorded steps that saw a forget row, then repairs on the keep rows."""

    card = Card(
        name="amnesiac", title="Amnesiac unlearning", paper="arXiv:2010.10981", families=("classifier", "regressor"), needs=("losses",),
        uses=("forget", "keep"), made_by="recorded",
        technique="parameter merging", intent="remove", touches=("weights",), locality="all", data=("forget rows", "keep rows", "statistics"), operator="weights",
        sequence="accumulates", reversible=False, guarantee="empirical",
        departs="any part of the watched rows can be forgotten; the record is safetensors, where the code pickles it",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject without those steps, repaired. Raises Missing without a record, Unfit when it does not cover the rows."""
        config = self.config
        if config.fit.rank:
            raise BadConfig(f"setting fit.rank = {config.fit.rank}: amnesiac changes the model's own weights; leave fit.rank at 0")
        deltas = open_deltas(Path(config.deltas)) if config.deltas else getattr(subject, "deltas", None)
        if deltas is None:
            raise Missing("amnesiac takes back recorded training steps, and there is no record; train with --recipe recorded, then give --set deltas=RUN/deltas")
        keys = _covered(deltas, request.rows("forget"))
        after = subject.trainable(0, ctx.seed_for("adapter"))
        after.deltas = None
        ctx.note(steps_taken_back=float(_take_back(dict(after.model.named_parameters()), deltas, keys)))
        return descend(after, {"keep": request.rows("keep")}, lambda batches: {"keep": after.losses(batches["keep"]).mean()}, config.fit, ctx)


def _covered(deltas: Deltas, forget: Sequence[Row]) -> list[str]:
    """The keys of the forget rows; Unfit when one of them was not watched."""
    keys = [key(row) for row in forget]
    if unknown := [number for number, name in enumerate(keys, start=1) if name not in deltas.watched]:
        raise Unfit(
            f"amnesiac: {len(unknown)} of {len(keys)} forget rows were not watched when the model was trained (the first is row {unknown[0]}); "
            "their steps are not in the record"
        )
    return keys


@torch.no_grad()
def _take_back(weights: dict[str, Tensor], deltas: Deltas, keys: Sequence[str]) -> int:
    """Subtract in place and return the number of steps; Unfit when the record is of another model."""
    sums: dict[str, Tensor] = {}
    count = 0
    for step, change in deltas.changes(keys):
        if {name: tensor.shape for name, tensor in change.items()} != {name: weight.shape for name, weight in weights.items()}:
            raise Unfit(f"amnesiac: the recorded step {step} is of a model with other parameters than this one")
        count += 1
        for name, tensor in change.items():
            sums[name] = sums[name] + tensor.double() if name in sums else tensor.double()
    for name, total in sums.items():
        weights[name].copy_((weights[name].double().cpu() - total.cpu()).to(weights[name].dtype))
    return count
