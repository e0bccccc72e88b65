"""How far pictures moved: LPIPS-like distance (arXiv:1801.03924) to what the original draws for the same prompt from the same noise.

    d(x, y) = mean over layers of the mean over places of |f_l(x) - f_l(y)|^2,  f_l = a judge's features of layer l, of unit length at
    every place

Far is right on prompts to forget (LPIPS_e) and wrong on prompts to keep (LPIPS_u). The network is the concept's judge, not the
AlexNet of the lpips package, so the numbers are not those of papers; original, candidate and reference are measured alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.types import Measurement, Metric, Request
from efface.families import drawn, judges
from efface.ops import stats


class PictureDistanceConfig(Config):
    """The metric has no settings."""


class PictureDistance(Metric[PictureDistanceConfig]):
    """Distance of pictures to the original's, on prompts to keep and to forget."""

    card = Card(
        name="picture_distance", title="Distance of kept pictures to the original's (LPIPS-like, in a judge's features)", paper="arXiv:1801.03924",
        families=("diffusion",), needs=("generate",), uses=("names", "forget", "keep", "original"), better="as-reference",
        departs="features of the concept's judge, unweighted, where LPIPS has AlexNet with learned weights",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the mean distance on prompts to keep, with its interval; that on prompts to forget is a part."""
        found = judges.judges(ctx)
        judge = found[judges.asked(request.names, found)[0]]
        original = ctx.baseline("original")
        moved = {}
        for name, draw in (("forget", drawn.forgotten), ("keep", drawn.kept)):
            moved[name] = distances(judge, draw(subject, request, ctx)[1], draw(original, request, ctx)[1])
        kept = stats.bootstrap(moved["keep"])
        rows = request.sample("keep", drawn.KEEP)
        return Measurement(
            system=self.card.name, subject="", value=kept.value, low=kept.low, high=kept.high, n=len(moved["keep"]), better="as-reference",
            parts={"keep": kept.value, "forget": float(moved["forget"].mean())},
            table=[{"prompt": row["prompt"], "value": float(value)} for row, value in zip(rows, moved["keep"], strict=True)],
        )


@torch.no_grad()
def distances(judge: Any, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Distance (N,) of two sets of pictures (N, H, W, 3), pair by pair; 0 for equal pictures."""
    total: Tensor = torch.zeros(len(one))
    layers = list(zip(features(judge, one), features(judge, other), strict=True))
    for a, b in layers:
        total = total + (_unit(a) - _unit(b)).square().sum(1).flatten(1).mean(1).cpu()
    return (total / len(layers)).numpy()  # type: ignore[no-any-return]


def features(judge: Any, pictures: np.ndarray) -> list[Tensor]:
    """What every convolution of the judge gives (N, C, h, w)."""
    with judge.taps("layer") as caught:
        judge.logits(judge.encode(judges.rows_of(judge, pictures)))
    return [found[0] for found in caught if found and found[0].dim() == 4]


def _unit(layer: Tensor) -> Tensor:
    return torch.nn.functional.normalize(layer, dim=1)
