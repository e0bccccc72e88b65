"""Maximized text distance: a generator is driven away from a prompt, with nothing that holds on to the rest.

minimized = mean over latents z of cos(E(G(z)), E(p)),  E = unit vectors of the image-text encoder

The plain baseline that Text-to-Unlearn is compared with. It pushes every picture, those that never showed the concept included, so
look at the drift on unrelated latents (metric latent_drift) beside what it forgets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import BadConfig
from efface.core.types import Method, Request
from efface.families.module import Batch
from efface.families.two_towers import encoder
from efface.ops.loop import descend


class MaximizeDistanceConfig(Config):
    """Settings of maximized text distance."""

    latents: int = Field(512, ge=1)
    """Latents that training sees."""
    fit: Fit = Fit(lr=2e-3, steps=100, batch=32, schedule="linear", optimizer="adam", precision="no")
    """Optimizer settings; adapters (fit.rank) are not possible."""


class MaximizeDistance(Method[MaximizeDistanceConfig]):
    """Trains the part of a generator that makes pictures to fit a prompt as little as possible."""

    card = Card(
        name="maximize_distance", title="Maximized text distance", paper="baseline of Text-to-Unlearn", families=("gan",), uses=("names",),
        technique="parameter optimization", intent="remove", touches=("weights",), locality="one module", data=("names", "assistant model"), operator="weights",
        sequence="accumulates", reversible=False, guarantee="none",
        departs="optimizer and steps are not known from the paper",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the trained generator. Raises Missing without the baseline "encoder", BadConfig for fit.rank."""
        config, eyes = self.config, encoder(ctx)
        if config.fit.rank:
            raise BadConfig(f"setting fit.rank = {config.fit.rank}: a generator is trained by its own weights; leave fit.rank at 0")
        with torch.no_grad():
            words = eyes.texts(list(request.names))
        after = subject.trainable(subject.names_of("synthesis"))

        def loss(batches: Mapping[str, Batch]) -> dict[str, Tensor]:
            after.model.eval()  # what normalization has counted stays as it was
            return {"likeness": (eyes.images(after.sample(batches["latents"].x)) @ words.T).mean()}

        return descend(after, {"latents": [{"seed": ctx.seed_for("latent", at)} for at in range(config.latents)]}, loss, config.fit, ctx)
