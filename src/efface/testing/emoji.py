"""The shipped text-to-image model, its references and its judges, loaded once a process: for tests of what a real model does."""

from __future__ import annotations

import functools
from typing import Any

from efface.benchmarks import emoji
from efface.core.context import Context
from efface.core.types import Request
from efface.families import judges as judging
from efface.families.diffusion import Diffusion


@functools.cache
def original() -> Diffusion:
    """The model that knows the whole grid."""
    return emoji.original("cpu")


@functools.cache
def reference(concept: str = "cat") -> Diffusion:
    """The model trained without one object or style."""
    return emoji.reference(concept, original())


@functools.cache
def judges() -> dict[str, Any]:
    """{"judge/object": ..., "judge/style": ...}."""
    return emoji.judges("cpu")


@functools.cache
def request(concept: str = "cat") -> Request:
    """The request to forget one object or style."""
    return emoji.request(concept)


def context(concept: str = "cat", seed: int = 0) -> Context:
    """A context with the original, the judges, and the reference of a concept."""
    return Context(seed=seed, baselines={"original": original(), "reference": reference(concept), **judges()})


def seen(subject: Any, prompts: list[str], judge: str, label: str, seeds: int = 4) -> float:
    """Share of the pictures of these prompts, `seeds` each, in which a judge ("object", "style") sees the label."""
    given = judges()[f"judge/{judge}"]
    pictures = subject.generate([prompt for prompt in prompts for _ in range(seeds)], [188 + 100 * at for _ in prompts for at in range(seeds)])
    return float((judging.chances(given, pictures).argmax(1) == judging.labels(given).index(label)).mean())
