"""Prompts for what a text-to-image model should go on drawing, where nobody says what that is: objects of COCO and ImageNet."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files as resources

LISTS = ("coco", "imagenet")
FRAME = frozenset("a an the of in photo picture image style".split())
"""Words that say nothing of what a prompt is about."""


def retain_prompts(name: str, without: Sequence[str] = ()) -> list[str]:
    """The prompts of a list ("coco" or "imagenet"), each once, but those that share a word with one of the phrases `without`."""
    text = resources("efface.data").joinpath(f"retain_{name}.txt").read_text(encoding="utf-8")
    found = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")))
    named = {word.strip(".,'").lower() for phrase in without for word in phrase.split()} - FRAME
    return [prompt for prompt in found if not named & set(prompt.lower().split())]
