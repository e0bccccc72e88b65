"""What the trained ways to erase a concept from a text-to-image model share: their concept, their weights, their prompts' states."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from efface.core.config import Fit
from efface.core.errors import BadConfig, Unfit
from efface.core.types import Request

ARTICLES = ("a", "an", "the")
HALF = (torch.float16, torch.bfloat16)


def concepts(request: Request, system: str) -> tuple[str, ...]:
    """The concepts to erase, in words. Raises Unfit where the request names none, or an empty one."""
    names = tuple(" ".join(name.split()) for name in request.names)
    if not names or not all(names):
        said = "an empty concept" if names else "no concept"
        raise Unfit(f'{system} erases what the request names, and it names {said}; say it in words, such as "a cat"')
    return names


def bare(phrase: str) -> str:
    """The phrase without an article in front of it."""
    first, _, rest = phrase.partition(" ")
    return rest if rest and first.lower() in ARTICLES else phrase


def trainable(subject: Any, names: Collection[str], fit: Fit, system: str) -> Any:
    """A fork of the subject that trains exactly these parameters; all others are shared, and stay bit for bit.

    Raises BadConfig for adapters and Unfit for weights in half precision, which lose the small steps of Adam.
    """
    if fit.rank:
        raise BadConfig(f"setting fit.rank = {fit.rank}: {system} trains weights of the model itself; leave fit.rank at 0")
    named = dict(subject.model.named_parameters())
    half = next((name for name in names if named[name].dtype in HALF), None)
    if half is not None:
        raise Unfit(f"{half} is in {str(named[half].dtype).removeprefix('torch.')}, in which small steps get lost; load the model with --dtype float32")
    return subject.trainable(set(names))


def keys_and_values(subject: Any) -> list[str]:
    """Full names of the weights (and biases) of keys and values that read text alone. Raises Unfit where text and picture share them."""
    if "cross.key" not in subject.layout.roles:
        raise Unfit(f"{type(subject.pipe).__name__} has no keys and values for text alone; choose another set of weights (train)")
    return [*subject.names_of("cross.key"), *subject.names_of("cross.value")]

