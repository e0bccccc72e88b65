"""Fréchet and kernel distance between sets of pictures (FID, arXiv:1706.08500; KID, arXiv:1801.01401), in features that it names.

    FID = |m_1 - m_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2));  KID = unbiased MMD^2 with the kernel (x.y / d + 1)^3

Between what the model and what the original draw for the same kept prompts: damage, not quality. Features are those of the
concept's judge, or of a transformers picture model that the user has (setting `features`; with InceptionV3's they are not
FID's own either, for those weights are of another port). FID grows as pictures grow few: never compare it between different n.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import Missing
from efface.core.types import Measurement, Metric, Request
from efface.families import drawn, judges


class FidConfig(Config):
    """Settings of the distance."""

    features: str = ""
    """Folder of a transformers picture model whose pooled features are used; "" for those of the concept's judge."""


class Fid(Metric[FidConfig]):
    """Distance between the sets of kept pictures of the model and of the original."""

    card = Card(
        name="fid", title="Fréchet distance of kept pictures to the original's (FID-like; with KID)", paper="arXiv:1706.08500", families=("diffusion",),
        needs=("generate",), uses=("names", "keep", "original"), better="as-reference",
        departs="features of a judge or of the user's picture model, not of FID's own InceptionV3; against the original's pictures, not against real ones",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return FID over the kept prompts; KID is a part."""
        named = self.config.features
        if named:
            embed = _vision(named)
        else:
            found = judges.judges(ctx)
            judge = found[judges.asked(request.names, found)[0]]
            embed = lambda pictures: _judged(judge, pictures)  # noqa: E731
        mine, other = (embed(drawn.kept(s, request, ctx)[1]) for s in (subject, ctx.baseline("original")))
        return Measurement(
            system=self.card.name, subject="", value=frechet(mine, other), n=len(mine), better="as-reference", parts={"KID": kernel(mine, other)},
            why=f"features of {named or 'the judge'}, {len(mine)} pictures",
        )


def frechet(one: np.ndarray, other: np.ndarray) -> float:
    """FID of two sets of features (n, d), in float64; 0 for equal sets."""
    a, b = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    values = np.linalg.eigvals(np.atleast_2d(a) @ np.atleast_2d(b))  # of S_1 S_2: real and not negative, but for rounding
    root = float(np.sqrt(np.clip(values.real, 0, None)).sum())
    found = float(np.square(one.mean(0) - other.mean(0)).sum() + np.trace(np.atleast_2d(a)) + np.trace(np.atleast_2d(b)) - 2 * root)
    return max(found, 0.0)


def kernel(one: np.ndarray, other: np.ndarray) -> float:
    """KID of two sets of features (n, d): unbiased, so that it may be a little below 0."""
    def cubed(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray((a @ b.T / a.shape[1] + 1) ** 3)

    within = [(found.sum() - np.trace(found)) / (len(found) * (len(found) - 1)) for found in (cubed(one, one), cubed(other, other))]
    return float(sum(within) - 2 * cubed(one, other).mean())


@torch.no_grad()
def _judged(judge: Any, pictures: np.ndarray) -> np.ndarray:
    return judge.features(judge.encode(judges.rows_of(judge, pictures))).double().cpu().numpy()  # type: ignore[no-any-return]


def _vision(folder: str) -> Any:
    """A function from pictures to pooled features of a transformers picture model. Raises Missing."""
    from transformers import AutoImageProcessor, AutoModel

    if not (Path(folder) / "config.json").is_file():
        raise Missing(f"no picture model in {folder}; give a transformers folder with config.json, or leave the setting features empty")
    model, prepare = AutoModel.from_pretrained(folder).eval(), AutoImageProcessor.from_pretrained(folder, use_fast=False)

    @torch.no_grad()
    def embed(pictures: np.ndarray) -> np.ndarray:
        given = prepare(images=list(pictures), return_tensors="pt")
        whole: Any = getattr(model, "vision_model", model)(**given)
        return whole.pooler_output.flatten(1).double().numpy()  # type: ignore[no-any-return]

    return embed
