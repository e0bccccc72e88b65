"""Quantization attack (arXiv:2410.16454): store the weights in 8, 4 or 3 bits and see what comes back.

An edit smaller than half a bucket vanishes when weights are rounded, so a method that barely moved them may have hidden
the knowledge rather than removed it. All linear weights of the layers are rounded (symmetric, to nearest, one scale an
output row); embeddings and head are not. Rounding harms every model, so a number after rounding is read against the original
and the reference rounded the same way, and the share of codes equal to the original's warns before any score does.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import BudgetSpent
from efface.core.types import Attack, Measurement, Request, Row
from efface.families import altered, forms, passes
from efface.families.altered import linear
from efface.ops import quantize, stats, text_stats


class QuantizeConfig(Config):
    """Settings of the attack."""

    bits: tuple[Annotated[int, Field(ge=2, le=16)], ...] = Field((8, 4, 3), min_length=1)
    """Bits of each weight; every value is tried and the worst counts."""
    group: int = Field(0, ge=0)
    """Columns that share a scale; 0 gives each output row one."""
    rows: int = Field(40, ge=1)
    """Most forget rows to measure, evenly spaced."""
    truth_ratio: bool = False
    """Measure the truth ratio too, which reads every wrong answer and takes several times as long."""


class Quantize(Attack[QuantizeConfig]):
    """An adversary who rounds the weights."""

    card = Card(
        name="quantize", title="Quantization", paper="arXiv:2410.16454", families=("causal-lm",), needs=("score", "weights"),
        uses=("forget", "original", "reference"), access="weights", better="as-reference",
        departs="rounding to nearest in place of bitsandbytes, so that it runs on a CPU; probability and truth ratio in place of MUSE's metrics",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the probability of the forget rows' answers under the worst rounding, with each rounding's numbers as parts.

        Parts "original" and "reference" are of those models after the same rounding, "unattacked" is of the model as it is. When
        the allowed seconds are used up, the roundings done so far count.
        """
        rows = forms.sample(request.rows("forget"), self.config.rows)
        bare = altered.bare(subject)
        parts: dict[str, float | None] = {f"{bits} bit codes as original": share for bits, share in self._overlaps(bare, ctx).items()}
        found: dict[int, np.ndarray] = {}
        why = ""
        for bits in ctx.progress(self.config.bits, "rounding weights", len(self.config.bits)):
            try:
                ctx.spend()
            except BudgetSpent as error:
                if not found:
                    raise
                why = f"{error}; rounded to {', '.join(map(str, found))} bits alone"
                break
            found[bits], truth = self._rounded(bare, bits, rows, ctx)
            parts |= {f"{bits} bit probability": float(found[bits].mean()), f"{bits} bit truth_ratio": truth}
            for who in ("reference", "original"):
                if who in ctx.baselines:
                    base = self._stored(ctx.baselines[who], bits, rows, ctx)
                    parts |= {f"{bits} bit {who} {name}": value for name, value in base.items()}
        worst = max(found, key=lambda bits: float(found[bits].mean()))
        mean = stats.bootstrap(found[worst])
        parts |= {"worst_bits": float(worst), "unattacked": float(altered.chances(bare, rows, ctx).mean())}
        parts |= {who: parts.get(f"{worst} bit {who} probability") for who in ("reference", "original")}
        table: list[dict[str, object]] = [{"row": at, "bits": bits, "value": float(p)} for bits, values in found.items() for at, p in enumerate(values)]
        return Measurement(
            system=self.card.name, subject="", value=mean.value, low=mean.low, high=mean.high, n=len(rows), better="as-reference", why=why,
            parts=parts, table=table,
        )

    def _rounded(self, subject: Any, bits: int, rows: list[Row], ctx: Context) -> tuple[np.ndarray, float | None]:
        """Probability of each row's answer, and the truth ratio where rows have wrong answers, of a rounded copy."""
        copy = subject.merged()
        copy.origin = ""  # these are no longer the weights that the name stood for
        with torch.no_grad():
            for weight in linear(copy):
                weight.copy_(quantize.round_to_nearest(weight, bits, self.config.group))
        apart = ctx.alone(folder=None, memo={})  # its own memory, so that the copy does not outlive its measuring
        if not (self.config.truth_ratio and all(row.get(forms.WRONG) for row in rows)):
            return np.exp(-forms.losses(forms.gold(copy, rows, apart))), None
        options = forms.options(copy, rows, apart)
        logs = np.array([text_stats.log_truth_ratio(row.right, row.wrong) for row in options])
        return np.exp(-np.array([row.gold for row in options])), float(text_stats.closeness(logs).mean())

    def _stored(self, frozen: Any, bits: int, rows: list[Row], ctx: Context) -> dict[str, float | None]:
        """The means of reference or original after rounding; made once, and kept beside the passes."""

        def compute() -> object:
            chances, truth = self._rounded(frozen, bits, rows, ctx)
            return {"probability": float(chances.mean()), "truth_ratio": truth}

        found: dict[str, float | None] = passes.kept(frozen, self.card.name, [bits, self.config.group, self.config.truth_ratio, rows], ctx, compute)
        return found

    def _overlaps(self, subject: Any, ctx: Context) -> dict[int, float | None]:
        """Share of codes that the subject has in common with the original, for each number of bits; None without an original."""
        original: Any = ctx.baselines.get("original")
        if original is None:
            return {bits: None for bits in self.config.bits}
        mine, other = subject.merged(), original.merged()
        pairs = list(zip(linear(mine), linear(other), strict=True))
        count = sum(one.numel() for one, _ in pairs)
        return {bits: sum(quantize.same_codes(a, b, bits, self.config.group) for a, b in pairs) / count for bits in self.config.bits}
