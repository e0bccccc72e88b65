"""Prompts that show a few answered questions before the one that is asked: plain text for a model to go on with."""

from __future__ import annotations

import random
from collections.abc import Sequence

from efface.core.digest import seed_from
from efface.core.errors import Missing
from efface.ops.facts import Fact


def shown(asked: Fact, pool: Sequence[Fact], count: int) -> list[Fact]:
    """At most `count` facts of the pool of the same relation about other subjects: the same ones whenever the same is asked.

    Raises Missing when there is none.
    """
    others = [fact for fact in pool if fact.relation == asked.relation and fact.question != asked.question and (not asked.subject or fact.subject != asked.subject)]
    if not others:
        raise Missing(f"no answered question about {asked.relation or 'another subject'!r} is left to show before {asked.question[:60]!r}; give more rows, or ask without examples")
    source = random.Random(seed_from(asked.question))
    return source.sample(others, count) if len(others) > count else others


def prompt(asked: Fact, examples: Sequence[Fact]) -> str:
    """The examples, a line "question answer" each, and the question (RESTOR, arXiv:2411.00204)."""
    return "\n".join([*(f"{fact.question} {fact.answer}" for fact in examples), asked.question])


def first_line(text: str) -> str:
    """The first line of a continuation, which alone is the answer: a model goes on with a question of its own."""
    return text.strip().partition("\n")[0].strip()
