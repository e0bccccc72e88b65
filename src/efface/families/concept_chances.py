"""What judges say of a generator's pictures, latent by latent: how likely each shows the concept, and how clear and varied the rest is.

Equal latents give the original and a model edited from it comparable pictures. A generator that was retrained has a latent space
of its own: its picture at a latent has nothing to do with the original's there. What may be compared with it is the mean over
latents, and shares of classes; never one latent with another. (A bootstrap over such pairs is right for the difference of means
all the same: pairs of independent latents are exchangeable.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from efface.core.context import Context
from efface.core.errors import Missing
from efface.core.types import Request, Subject
from efface.families import judges

LATENTS = 500
"""Latents that are looked at, the same ones for every model."""
FIRST = 1_000_000
"""Their first seed: far from those that a method may train on, which are drawn from all of the 63-bit numbers."""


def pictures(subject: Any, ctx: Context, count: int = LATENTS) -> np.ndarray:
    """The model's pictures (count, H, W, 3), uint8, at the latents that every system looks at; drawn once a run."""
    return ctx.once((subject, "pictures of latents", count), lambda: subject.generate(count, [FIRST + at for at in range(count)]))  # type: ignore[no-any-return]


def said(subject: Any, judge: Any, ctx: Context, count: int = LATENTS) -> np.ndarray:
    """A judge's probabilities (count, classes) for the model's pictures."""
    return ctx.once((subject, judge, "said of latents", count), lambda: judges.chances(judge, pictures(subject, ctx, count)))  # type: ignore[no-any-return]


def concept(subject: Any, request: Request, ctx: Context, count: int = LATENTS) -> np.ndarray:
    """The probability (count,) that a picture shows the concept, as its judge says. Raises Missing when no judge knows it."""
    found = judges.judges(ctx)
    name, number = judges.asked(request.names, found)
    return said(subject, found[name], ctx, count)[:, number]


def shows(subject: Any, request: Request, ctx: Context, count: int = LATENTS) -> np.ndarray:
    """Whether each picture (count,) shows the concept: its judge's first choice."""
    found = judges.judges(ctx)
    name, number = judges.asked(request.names, found)
    return said(subject, found[name], ctx, count).argmax(1) == number  # type: ignore[no-any-return]


def clarity(subject: Any, ctx: Context, count: int = LATENTS) -> dict[str, np.ndarray]:
    """{judge: probability (count,) of its first choice}: how clearly a picture shows any one thing, whatever it is."""
    return {name: said(subject, judge, ctx, count).max(1) for name, judge in judges.judges(ctx).items()}


def coverage(subject: Any, reference: Any, request: Request, ctx: Context, count: int = LATENTS) -> dict[str, np.ndarray]:
    """{judge: number (count,) a latent} whose mean is the share of the reference's kept classes that the model draws as often.

    With shares p of the model and q of the reference over the classes that stay, the picture of class c counts min(1, q_c / p_c), and
    one that shows the concept counts 1; over the others the mean is sum_c min(p_c, q_c) = 1 - total variation. 1 = the same mix,
    low = classes were lost. The reference itself counts 1 everywhere.
    """
    found = judges.judges(ctx)
    asked, number = judges.asked(request.names, found)
    return {name: _overlap(said(subject, judge, ctx, count).argmax(1), said(reference, judge, ctx, count).argmax(1), number if name == asked else -1) for name, judge in found.items()}


def likeness(subject: Any, request: Request, ctx: Context, count: int = LATENTS) -> np.ndarray:
    """How near each picture (count,) lies to a sound one: 1 = the same, 0 = as far as two random ones lie from each other, or farther.

    1 - distance to the nearest / mean distance of random pairs, cut to 0..1; sound ones are the original's without the concept and the
    reference's, but never the model's own. A picture that shows the concept counts 1: forgetting is another question. Judges put every picture into a class, blots too; this is what sees the blots. Two sound
    generators do not draw the very same pictures, so compare with what the reference gets, and not with 1. Distances are mean absolute
    differences at 16 x 16 pixels. Raises Missing when there is no other model.
    """
    sound = []
    for name in ("original", "reference"):
        one = ctx.baselines.get(name)
        if one is not None and one is not subject:
            drawn = _small(pictures(one, ctx, count))
            sound.append(drawn[~shows(one, request, ctx, count)])
    if not sum(map(len, sound)):
        raise Missing("no other model says what a sound picture is; give the original with --original MODEL")
    others = np.concatenate(sound)
    order = np.random.default_rng(0).permutation(len(others))
    scale = max(float(np.abs(others[order] - others[np.roll(order, 1)]).mean()), 1e-12)
    nearest = np.array([np.abs(others - row).mean(1).min() for row in _small(pictures(subject, ctx, count))])
    return np.where(shows(subject, request, ctx, count), 1.0, np.clip(1 - nearest / scale, 0, 1))


def _small(drawn: np.ndarray) -> np.ndarray:
    return judges.resized(drawn, 16).reshape(len(drawn), -1).astype(np.float32) / 255


def _overlap(mine: np.ndarray, theirs: np.ndarray, gone: int) -> np.ndarray:
    classes = int(max(mine.max(), theirs.max())) + 1
    p, q = (np.bincount(drawn[drawn != gone], minlength=classes).astype(float) for drawn in (mine, theirs))
    p, q = p / max(p.sum(), 1), q / max(q.sum(), 1)
    weights = np.minimum(1.0, q / np.maximum(p, 1e-12))
    return np.where(mine == gone, 1.0, weights[mine])


def models(candidate: Subject, ctx: Context) -> Mapping[str, Subject]:
    """Candidate, original and references of a run, by name."""
    return {"candidate": candidate, **{name: s for name, s in ctx.baselines.items() if name.split("/")[0] in ("original", "reference")}}
