"""Saliency unlearning, SalUn (arXiv:2310.12508): random labels, but only the weights that matter for the forget rows move.

mask_i = 1 for the top share of |G_i| over all weights jointly,  G = mean over forget rows of the gradient of CE(f(x), y)
minimized = random labels (CE on forget rows with random y', CE on keep rows); weights with mask 0 stay bit for bit.

The absolute value is taken of the mean, not the mean of absolute values: opposite gradients of two rows cancel. The model is
in eval mode for G. Each row weighs the same, where the code adds batch means and so weighs a short last batch like a full
one. Weights outside of the mask are put back after every step, because momentum and weight decay would move them without a
gradient (the code does so since 2026-02; older figures have the leak). The mask is over parameters: statistics of batch
normalization are buffers and move with the training batches, as in the code.

Code: share .5, ten epochs, SGD at lr .013, momentum .9, weight decay 5e-4, batch 256 for a tenth of CIFAR-10; labels from
all classes, in turns. Users often fail to reproduce the paper because of the learning rate: try several.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field
from torch import Tensor

from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import BadConfig
from efface.core.types import Method, Request, Row
from efface.ops.importance import mean_gradient
from efface.ops.masks import held, top_share
from efface.ops.relabel import Order, train_on_random


class SalUnConfig(Config):
    """Settings of SalUn."""

    share: float = Field(0.5, gt=0, le=1)
    """Share of the weights that may move, those with the largest gradients; 1 is the method random_label."""
    exclude_true: bool = False
    """Never draw a row's own label; the paper's code draws from all classes."""
    order: Order = "alternate"
    """Passes over forget rows and keep rows in turn, with new labels at every pass, or one shuffled union with labels drawn once."""
    fit: Fit = Fit(optimizer="sgd", lr=0.013, momentum=0.9, weight_decay=5e-4, epochs=10, batch=256, clip=0)
    """Optimizer settings; an epoch is one pass over each row set, taking turns keeps no checkpoint; adapters (fit.rank) are not possible."""


class SalUn(Method[SalUnConfig]):
    """Trains the weights most salient for the forget rows on random labels for them, and on keep rows."""

    card = Card(
        name="salun", title="Saliency unlearning", paper="arXiv:2310.12508", families=("classifier",), needs=("losses",), uses=("forget", "keep"),
        departs="the saliency weighs every row the same, where the code weighs every batch the same; in a union, labels are drawn once, "
        "where the code draws them at every epoch",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject after training inside the mask; all other weights are bit-identical. Raises BadConfig for fit.rank."""
        config, forget = self.config, request.rows("forget")
        if config.fit.rank:
            raise BadConfig(f"setting fit.rank = {config.fit.rank}: salun chooses among the model's own weights; leave fit.rank at 0")
        after = subject.trainable(0, ctx.seed_for("adapter"))
        masks = top_share(saliency(after, forget, config.fit.batch), config.share)
        ctx.note(mask_weights=float(sum(int(mask.sum()) for mask in masks.values())))
        with held(after.model, masks) as settle:
            return train_on_random(after, forget, request.rows("keep"), (config.order, config.exclude_true), config.fit, ctx, settle)


def saliency(subject: Any, rows: Sequence[Row], size: int) -> dict[str, Tensor]:
    """{name: |mean over rows of the gradient of the loss|} for every parameter, in eval mode, `size` rows at a time."""
    batches = (subject.encode(rows[at : at + size]) for at in range(0, len(rows), size))
    return {name: value.abs() for name, value in mean_gradient(subject.model, batches, subject.losses).items()}
