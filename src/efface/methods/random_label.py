"""Random labels, RL (Golatkar et al., arXiv:1911.04933; Graves et al., arXiv:2010.10981): forget rows are learned anew with wrong labels.

minimized = mean over forget rows of CE(f(x), y'), y' drawn at random, and mean over keep rows of CE(f(x), y).

The label form of amnesiac unlearning (Graves' part a) is this method with exclude_true. Whether the true class may be
drawn differs between releases: SalUn's code draws from all C classes, so that a row keeps its label once in C, and SSD's
baseline draws from the C - 1 others. Whether the two row sets are trained on in turns or in one shuffled union differs as
well: SalUn's code takes turns on CIFAR-10 and SVHN, and a union on CIFAR-100 and TinyImageNet.

Defaults are SalUn's for CIFAR-10: turns, ten epochs, SGD at lr .013, momentum .9, weight decay 5e-4, batch 256. The
learning rate must fit the model: too low a rate changes nothing, which is the most frequent way to fail.
"""

from __future__ import annotations

from typing import Any

from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.types import Method, Request
from efface.ops.relabel import Order, train_on_random


class RandomLabelConfig(Config):
    """Settings of random labels."""

    exclude_true: bool = True
    """Never draw a row's own label; without it a row keeps its label once in as many times as there are classes."""
    order: Order = "alternate"
    """Passes over forget rows and keep rows in turn, with new labels at every pass, or one shuffled union with labels drawn once."""
    fit: Fit = Fit(optimizer="sgd", lr=0.013, momentum=0.9, weight_decay=5e-4, epochs=10, batch=256, clip=0)
    """Optimizer settings; an epoch is one pass over each row set, and taking turns keeps no checkpoint."""


class RandomLabel(Method[RandomLabelConfig]):
    """Trains on forget rows with random labels and on keep rows with their own."""

    card = Card(
        name="random_label", title="Random labels", paper="arXiv:1911.04933", families=("classifier",), needs=("losses",), uses=("forget", "keep"),
        technique="relabeling", intent="remove", touches=("weights", "adapter"), locality="all", data=("forget rows", "keep rows"), operator="weights",
        sequence="accumulates", reversible=False, guarantee="empirical",
        departs="in a union, labels are drawn once, where SalUn's code draws them at every epoch; own labels are left out unless asked for",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject after training on random labels."""
        config = self.config
        after = subject.trainable(config.fit.rank, ctx.seed_for("adapter"))
        return train_on_random(after, request.rows("forget"), request.rows("keep"), (config.order, config.exclude_true), config.fit, ctx)
