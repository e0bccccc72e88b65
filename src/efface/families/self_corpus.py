"""A forget corpus that the model makes itself about a target of which there is only a name (RWKU, arXiv:2406.10890).

What the model says when it is asked to describe the target, drawn with varied openings, is what it has to unlearn; questions
that it asks itself, with its own answers, are what a method needs that puts refusals in their place.
"""

from __future__ import annotations

import re
from typing import Any

from efface.core.context import Context
from efface.core.errors import Missing
from efface.core.rows import Row
from efface.families import passes
from efface.families.decoding import Sampling

OPENINGS = (
    "Please tell me everything you know about {}.", "Write a short introduction to {}.", "Describe {} to someone who has never heard of it.",
    "What is {} best known for?", "Write an encyclopedia entry about {}.", "Give me the most important facts about {}.",
    "Summarize the history of {}.", "You know {} very well. Write about it in detail.",
)
ASK = ("Ask one short question about {}.", "Write a quiz question about {}.", "What would you like to know about {}? Ask one question.", "Write one exam question whose answer is a fact about {}.")
QUESTION = re.compile(r"[^.!?:\"\n]+\?")
"""A question out of what the model says around it."""
WORDS = 8
"""A description of fewer words says too little to be unlearned, and is left out."""


def descriptions(subject: Any, name: str, count: int, ctx: Context, max_new: int = 128, temperature: float = 1.0, top_p: float = 0.9) -> list[Row]:
    """At most `count` rows {"question", "answer", "subject"}: openings about the target, and what the model drew for them.

    Texts that do not name the target are left out. Raises Missing when none is left. The paper draws 512 tokens.
    """
    questions = [opening.format(name) for opening in OPENINGS]
    draws = _draw(subject, questions, -(-count // len(questions)), ctx, max_new, (temperature, top_p))
    found = [(question, text) for question, text in draws if name.casefold() in text.casefold() and len(text.split()) >= WORDS]
    rows: list[Row] = [{"question": question, "answer": text, "subject": name} for question, text in dict.fromkeys(found)]
    if not rows:
        raise Missing(f"of {len(draws)} texts that the model drew about {name!r} none names it; give forget rows, or another target")
    return rows[:count]


def questions(subject: Any, name: str, count: int, ctx: Context, max_new: int = 40) -> list[Row]:
    """At most `count` different questions about the target that the model asks itself, with its own greedy answers. Raises Missing when there is none."""
    asked: list[str] = []
    for _, text in _draw(subject, [line.format(name) for line in ASK], -(-count * 2 // len(ASK)), ctx, max_new, (1.0, 0.9)):
        for question in (found.strip(" *-") for found in QUESTION.findall(text)):
            if name.casefold() in question.casefold() and question not in asked:
                asked.append(question)
    if not asked:
        raise Missing(f"the model asked no question that names {name!r}; give forget rows, or another target")
    rows: list[Row] = [{"question": question, "answer": "...", "subject": name} for question in asked[:count]]
    said = passes.answers(subject, rows, ctx, max_new)
    return [{**row, "answer": text.strip()} for row, text in zip(rows, said, strict=True) if text.strip()]


def _draw(subject: Any, prompts: list[str], draws: int, ctx: Context, max_new: int, how: tuple[float, float]) -> list[tuple[str, str]]:
    """(prompt, text) by turns over the prompts, so that a cut takes from all; kept on disk, as a frozen model draws the same again."""
    sampling = Sampling(draws, *how, ctx.seed_for("self corpus", prompts))
    rows: list[Row] = [{"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": "..."}]} for prompt in prompts]
    texts = passes.kept(subject, "self-corpus", [rows, vars(sampling), max_new], ctx, lambda: subject.sample(rows, sampling, max_new))
    return [(prompt, str(said[at]).strip()) for at in range(draws) for prompt, said in zip(prompts, texts, strict=True)]
