"""Texts that are begun for a model and cut where its own part ends: pure functions on text."""

from __future__ import annotations

import re
from collections.abc import Sequence

STOPS = ("\n\n", "\nQuestion", "Question:")
"""Where a few-shot answer ends: whatever comes after is the model asking itself the next question."""


def halves(text: str) -> tuple[str, str]:
    """The first half of a text's words, and the second half with the space before it, so that both together are the text again.

    A text of one word has no second half; it is then ("", text).
    """
    words = list(re.finditer(r"\S+", text))
    if len(words) < 2:
        return "", text
    cut = words[(len(words) - 1) // 2].end()
    return text[:cut], text[cut:]


def few_shot(examples: Sequence[tuple[str, str]], question: str) -> str:
    """The prompt that asks a model without a chat template: answered questions, each with a blank line behind, then the question."""
    blocks = "".join(f"Question: {asked}\nAnswer: {answer}\n\n" for asked, answer in examples)
    return f"{blocks}Question: {question}\nAnswer: "


def until(text: str, stops: Sequence[str] = STOPS) -> str:
    """The text up to the first of the stop strings, without spaces around it."""
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))].strip()
