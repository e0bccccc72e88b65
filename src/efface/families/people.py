"""What the benchmarks on pictures of people share: reading photos, taking copies out, and models trained with and without some people.

The task (an age group, an attribute) says nothing of who is to be forgotten, so forgetting shows in what the model knows of
single pictures. Parts share no person; photos that stand in two parts, under one name or two, are found and left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from efface.core import digest
from efface.core.config import Fit
from efface.core.context import Context
from efface.core.types import Case, Data, Request, Row
from efface.families import networks, pictures, splits
from efface.families.classifier import Classifier
from efface.families.references import trained

Net = Literal["small", "resnet18"]


class Photo(NamedTuple):
    """One picture of a person. `place` is a file, or the pixels themselves."""

    name: str
    part: str
    identity: str
    label: int
    place: Path | np.ndarray


def read(photos: Sequence[Photo], side: int, ctx: Context, benchmark: str, drop: bool) -> dict[str, list[Row]]:
    """The rows of each part, {"x", "y", "id", "identity"}, without copies across parts if `drop`; raises Missing or BadRows."""
    rows = []
    for photo in ctx.progress(photos, "reading pictures", len(photos)):
        if isinstance(photo.place, Path):
            x, mark = pictures.pixels(pictures.open_picture(photo.place), side), digest.of_file(photo.place)
        else:
            x, mark = photo.place, digest.of_value(photo.place)
        item = splits.Item(photo.name, photo.part, photo.identity, mark, pictures.look(x))
        rows.append((item, {"x": x, "y": photo.label, "id": photo.name, "identity": photo.identity}))
    return splits.sifted(rows, ctx, benchmark, drop)


@dataclass(frozen=True)
class Plan:
    """How a benchmark's models come to be."""

    benchmark: str
    net: Net
    side: int
    outputs: int
    fit: Fit


def case(plan: Plan, parts: Mapping[str, Sequence[Row]], ctx: Context, about: str, utility: Mapping[str, Sequence[Row]] | None = None) -> Case:
    """The case of parts named forget, keep, unseen and test; models are trained once and kept in the cache."""
    asked = Request(
        forget=Data.inline(parts["forget"]), keep=Data.inline(parts["keep"]), unseen=Data.inline(parts["unseen"]), reason=f"benchmark {plan.benchmark}, {about}",
    )
    baselines = trained(lambda seed: _network(plan, seed), asked, plan.fit, ctx, plan.benchmark)
    found = ctx.notes
    return Case(
        name=f"{plan.benchmark}/{about}", original=baselines["original"], request=asked, baselines=baselines,
        reference=f"the same network trained on the {len(parts['keep'])} keep rows alone, three seeds; "
        f"{found['duplicates']:.0f} duplicates found, {found['leaks']:.0f} of them across parts",
        utility={"other people": Data.inline(parts["test"]), **{name: Data.inline(rows) for name, rows in (utility or {}).items()}},
    )


def _network(plan: Plan, seed: int) -> Classifier:
    if plan.net == "resnet18":
        return Classifier(networks.seeded(networks.resnet18, seed, channels=3, outputs=plan.outputs))
    widths = [16, 32, 64] if plan.side <= 48 else [16, 32, 64, 64]
    shape: dict[str, Any] = {"channels": 3, "side": plan.side, "outputs": plan.outputs, "widths": widths, "embedding": 64}
    return Classifier(networks.seeded(networks.SmallCNN, seed, **shape), shape)
