"""Class unlearning by concept inference and data poisoning (Chang et al., arXiv:2405.15662).

1. What ties the class to the model: a bank of concepts (directions in what the head reads, each from rows with and without
   the concept), a sparse head over the margins to them (post-hoc concept bottleneck), and the worth of each concept to the
   class by integrated gradients, for the head and for the model's own inputs (pixels, columns, or tokens). The note and
   `concepts.json` in the run's folder say what was found, and which other classes live on the same concepts.
2. Poisoning: forget rows get wrong labels, drawn once, and the model is trained on them and on keep rows,

       minimized = mean over rows of both sets of CE(f(x), y'),   y' the wrong label of a forget row, the label of a keep row

`poison` = second_best (the likeliest class of the model besides the row's own: what a retrained model would say, hence the
default), similar (the class whose mean margins are closest), random, or fixed (one label for all: a fingerprint, as all
forget rows then fall into one class). A class of which no keep row is left is never chosen.

Concept rows: a file with a column `concepts` (names in a list, or one name) beside x or text; in a safetensors file, a tensor of
numbers (one concept a row) or of 0 and 1 (rows, concepts). Without a file, pictures have six plain concepts (where the ink
is, and symmetry), and other rows are grouped by k-means: group n is a concept of its own, which the rows in it stand for.

The abstract is all that is known of the paper's second stage, and it has no public code. Concept bank and IG follow
post-hoc-cbm and captum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field

from efface.core import files
from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import BadConfig, Unfit
from efface.core.types import Method, Request, Row
from efface.families import concept_rows
from efface.families.concept_rows import Attribution, attributed
from efface.ops import concepts as concept_maths
from efface.ops.concepts import Concept, Head
from efface.ops.loop import descend

MOST_ROWS, TOLD = 2000, 5
"""Rows that the sparse head is fitted on, and concepts that the note names."""


class ConceptPoisonConfig(Config):
    """Settings of concept inference and poisoning."""

    concepts: str = ""
    """File of rows with a column `concepts`; without one, concepts are found as `derive` says."""
    derive: Literal["auto", "ink", "groups"] = "auto"
    """Concepts without a file: of pictures (ink), by k-means (groups), or whichever suits the rows (auto)."""
    groups: int = Field(12, ge=2)
    """Number of groups of derive = "groups"."""
    concept_rows: int = Field(100, ge=8)
    """Most rows with, and most without, that a concept's direction is made from; half of them check it."""
    readable: float = Field(0.7, ge=0, le=1)
    """A concept that is told apart less often than this is dropped."""
    sparsity: float = Field(1e-3, gt=0)
    """Weight of the sparse head's penalty."""
    ig_steps: int = Field(50, ge=1)
    """Steps of the integrated gradients."""
    poison: Literal["second_best", "similar", "random", "fixed"] = "second_best"
    """Which wrong label a forget row gets."""
    label: int | None = Field(None, ge=0)
    """The label of poison = "fixed"."""
    keep_share: float = Field(1.0, ge=0, le=1)
    """Share of the keep rows that is trained on; 0 trains on poisoned rows alone."""
    layers: int = Field(0, ge=0)
    """Train so many of the last layers alone; 0 trains all."""
    fit: Fit = Fit(optimizer="sgd", lr=0.02, momentum=0.9, epochs=10, batch=64, clip=0)
    """Optimizer settings."""


class Found(NamedTuple):
    """What concept inference found."""

    bank: list[Concept]
    dropped: dict[str, float]
    """Concepts that cannot be read well enough, with their accuracy."""
    head: Head
    worth: dict[int, np.ndarray]
    """Class -> what each concept adds to its logit."""
    profiles: dict[int, np.ndarray]
    """Class -> mean standardized margins of its rows."""


class ConceptPoison(Method[ConceptPoisonConfig]):
    """Finds the concepts of the forgotten class, then trains on forget rows with wrong labels."""

    card = Card(
        name="concept_poison", title="Concept inference and data poisoning", paper="arXiv:2405.15662", families=("classifier",),
        needs=("losses", "features", "predict"), uses=("forget", "keep"), extra="concepts",
        technique="relabeling", intent="remove", touches=("weights", "adapter"), locality="all", data=("forget rows", "keep rows"), operator="weights",
        sequence="accumulates", reversible=False, guarantee="empirical",
        departs="the paper's labels and training settings are not public, these are the usual ones; the sparse head is a softmax regression "
        "that converges, where post-hoc-cbm takes stochastic steps for each class against the rest",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject after training on poisoned rows. Raises Unfit when no concept can be read, or no wrong class is left."""
        config, forget, keep = self.config, request.rows("forget"), request.rows("keep")
        own = subject.encode(forget).labels.cpu().numpy()
        chances = subject.predict(forget)
        found = infer(config, subject, [*forget, *keep], chances.shape[1], ctx)
        inputs = {at: attributed(subject, [row for row in forget if row["y"] == at], at, config.ig_steps) for at in np.unique(own).tolist()}
        tell(found, inputs, ctx)
        gone = set(own.tolist()) - {int(row["y"]) for row in keep}  # type: ignore[call-overload]
        wrong = wrong_labels(config, own, chances, gone, found.profiles, ctx.seed_for("labels"))
        ctx.note(largest_share_of_one_label=float(np.bincount(wrong).max()) / len(wrong))
        kept = ctx.random("keep").sample(keep, math.ceil(config.keep_share * len(keep)))
        rows = [*({**row, "y": int(label)} for row, label in zip(forget, wrong, strict=True)), *kept]
        after = subject.trainable(config.fit.rank, ctx.seed_for("adapter"))
        if config.layers:
            train_last(after, config.layers)
        return descend(after, {"all": rows}, lambda batches: {"loss": after.losses(batches["all"]).mean()}, config.fit, ctx)


# -- concept inference ------------------------------------------------------------------------------------------------------


def infer(config: ConceptPoisonConfig, subject: Any, rows: Sequence[Row], classes: int, ctx: Context) -> Found:
    """Concepts, sparse head and worths, from rows with labels. Raises Unfit when no concept can be read."""
    used = ctx.random("concept rows").sample(rows, min(MOST_ROWS, len(rows)))
    features, labels = concept_rows.read(subject, used, ctx), subject.encode(used).labels.cpu().numpy()
    if len(np.unique(labels)) < 2:
        raise Unfit("concept_poison needs forget and keep rows of at least two classes to tell what is particular to one")
    if config.concepts:
        sides = concept_rows.from_file(subject, Path(config.concepts), ctx)
    else:
        sides = concept_rows.derived(used, features, config.derive, config.groups, ctx.seed_for("groups"))
    bank, dropped = [], {}
    for name, (present, absent) in ctx.progress(list(sides.items()), "finding concepts", len(sides)):
        one = concept_maths.concept(name, present, absent, config.concept_rows, ctx.seed_for("concept", name))
        if one is not None and one.accuracy >= config.readable:
            bank.append(one)
        else:
            dropped[name] = one.accuracy if one is not None else math.nan
    if not bank:
        best = max((value for value in dropped.values() if not math.isnan(value)), default=math.nan)
        raise Unfit(f"none of {len(dropped)} concepts can be read from what the head reads (the best {best:.2f} of the time, readable = {config.readable}); give other concept rows")
    margins = concept_maths.margins(features, bank)
    head = concept_maths.sparse_head(margins, labels, classes, config.sparsity, ctx.seed_for("sparse head"))
    there = np.unique(labels).tolist()
    worth = {at: concept_maths.worth(head, margins[labels == at], at, config.ig_steps) for at in there}
    return Found(bank, dropped, head, worth, {at: head.standard(margins[labels == at]).mean(0) for at in there})


def tell(found: Found, inputs: Mapping[int, Attribution], ctx: Context) -> None:
    """Put what was found into the run's note, and all of it into concepts.json in the run's folder."""
    names = [one.name for one in found.bank]
    story: dict[str, object] = {
        "concepts": [{"name": one.name, "accuracy": one.accuracy} for one in found.bank], "dropped": found.dropped, "head_accuracy": found.head.accuracy,
        "weights": {str(at): dict(zip(names, found.head.weights[at].tolist(), strict=True)) for at in found.worth},
        "worth": {str(at): dict(zip(names, worth.tolist(), strict=True)) for at, worth in found.worth.items()},
        "ranked": {str(at): [names[place] for place in np.argsort(-found.worth[at])] for at in inputs},
        "shared": {str(at): shared(found, at) for at in inputs},
        "inputs": {str(at): {"adds": part.adds, "gap": part.gap} for at, part in inputs.items()},
    }
    for at, part in inputs.items():
        worth = found.worth[at]
        facts: dict[str, float | str] = {
            f"concepts_of_{at}": ", ".join(f"{said(found, at, place)} {worth[place]:.2f}" for place in np.argsort(-worth)[:TOLD] if worth[place] > 0) or "none adds to it",
            f"classes_that_share_them_with_{at}": "; ".join(f"{name}: {others}" for name, others in shared(found, at).items()) or "none",
            f"inputs_of_{at}": ", ".join(f"{name} {value:.2f}" for name, value in part.adds[:TOLD]),
            f"integrated_gradients_gap_{at}": part.gap,
        }
        ctx.note(**facts)
    ctx.note(concepts_read=float(len(names)), concepts_dropped=float(len(found.dropped)), concept_head_accuracy=found.head.accuracy)
    if ctx.folder is not None:
        files.write_json(ctx.folder / "concepts.json", story)


def said(found: Found, target: int, place: int) -> str:
    """The concept in words: where its weight is negative, it is the absence of the concept that speaks for the class."""
    return f"{'' if found.head.weights[target][place] > 0 else 'absence of '}{found.bank[place].name}"


def shared(found: Found, target: int) -> dict[str, list[int]]:
    """Concept -> other classes to which it adds at least half of what it adds to the target; only concepts that add something."""
    classes: dict[str, list[int]] = {}
    for place, value in enumerate(found.worth[target]):
        others = [at for at, worth in found.worth.items() if at != target and worth[place] >= value / 2]
        if value > 0 and others:
            classes[said(found, target, place)] = others
    return classes


# -- poisoning --------------------------------------------------------------------------------------------------------------


def wrong_labels(config: ConceptPoisonConfig, own: np.ndarray, chances: np.ndarray, gone: set[int], profiles: Mapping[int, np.ndarray], seed: int) -> np.ndarray:
    """One wrong label (rows,) for each forget row: never its own, never one of the classes that are `gone`.

    `own` are its labels (rows,), `chances` what the model says (rows, classes), `profiles` the mean margins of each class.
    """
    classes = chances.shape[1]
    allowed = np.ones(chances.shape, bool)
    allowed[:, sorted(gone)] = False
    allowed[np.arange(len(own)), own] = False
    if not allowed.any(1).all():
        raise Unfit(f"concept_poison needs a class to send forget rows to; of {classes} classes none is left beside {sorted(gone | set(own.tolist()))}")
    if config.poison == "fixed":
        if config.label is None or config.label >= classes:
            raise BadConfig(f"setting label = {config.label}: poison = fixed needs a class number from 0 to {classes - 1}")
        if not allowed[:, config.label].all():
            raise BadConfig(f"setting label = {config.label}: that is a class to forget, or the label of a row to forget; choose another")
        return np.full(len(own), config.label)
    if config.poison == "random":
        drawn = torch.rand(chances.shape, generator=torch.Generator().manual_seed(seed % 2**62), dtype=torch.float64).numpy()
        return np.where(allowed, drawn, -1.0).argmax(1)  # type: ignore[no-any-return]
    if config.poison == "similar":
        far = np.full((classes, classes), np.inf)
        for one, mine in profiles.items():
            for other, theirs in profiles.items():
                far[one, other] = np.linalg.norm(mine - theirs)
        return np.where(allowed, -far[own], -np.inf).argmax(1)  # type: ignore[no-any-return]
    return np.where(allowed, chances, -1.0).argmax(1)  # type: ignore[no-any-return]


def train_last(after: Any, count: int) -> None:
    """Leave the last `count` layers of `after` alone trainable."""
    after.model.requires_grad_(False)
    for module in after.modules_of("layer")[-count:]:
        module.requires_grad_(True)
