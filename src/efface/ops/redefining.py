"""A forgotten subject put back into the prompt under an invented name (after arXiv:2407.00106). Pure functions on facts.

    level 0   the question, and nothing else
    level 1   a definition of the subject under an invented name, and the question about that name
    level 2   the same with worked examples
    level 3   the forgotten passage itself, which holds the answer
    level 4   the definition in pieces, one a turn (a mosaic)

The definition is the row's own column "definition", or what the other facts of the subject say. It never holds the answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from efface.ops import facts as fact_rows
from efface.ops.chains import described, sentences, told
from efface.ops.facts import Fact
from efface.ops.probes import Probe

LEVELS = tuple(f"level {number}" for number in range(5))
PASSAGE = "level 3"
PIECES = 3
"""Most turns of a mosaic."""
DEFINING = 6
"""Most facts that make up a definition."""
TRUTHS = frozenset(("yes", "no", "true", "false"))
"""Answers that any two examples share, so that one of them gives nothing away."""


def build(facts: Sequence[Fact], pool: Sequence[Fact], name: str, examples: int) -> list[Probe]:
    """The probes of all levels that each fact can take, level by level; `pool` holds the facts that define the subjects."""
    by_subject: dict[str, list[Fact]] = {}
    for other in pool:
        if other.subject:
            by_subject.setdefault(other.subject, []).append(other)
    found = [probe for at, fact in enumerate(facts) for probe in _levels(at, fact, by_subject.get(fact.subject, []), name, examples)]
    return sorted(found, key=lambda probe: LEVELS.index(probe.form))


def definition(fact: Fact, others: Sequence[Fact], name: str) -> str:
    """What defines the fact's subject, under the invented name, without the answer; "" where nothing does."""
    given = str(fact.extras.get("definition") or "")
    if given:
        text = renamed(given, fact.subject, name)
        return "" if not plain_truth(fact) and fact_rows.gives_away(text, fact) else text
    said = (described(other, name) for other in others if other != fact and not told(other, fact))
    return " ".join(text if text[-1] in ".!?" else f"{text}." for text in list(filter(None, said))[:DEFINING])


def renamed(text: str, subject: str, name: str) -> str:
    """The text about the invented name: in place of {}, and of the subject wherever it stands as whole words."""
    text = text.replace("{}", name)
    return re.sub(rf"(?<!\w){re.escape(subject)}(?!\w)", lambda _: name, text, flags=re.IGNORECASE) if subject else text


def plain_truth(fact: Fact) -> bool:
    """Whether the answer is yes or no."""
    return fact.value.lower().strip(".") in TRUTHS


def pieces(text: str) -> list[str]:
    """The sentences of a text, in at most three pieces."""
    found = sentences(text)
    each = max(1, -(-len(found) // PIECES))
    return [" ".join(found[at : at + each]) for at in range(0, len(found), each)]


def _levels(at: int, fact: Fact, others: Sequence[Fact], name: str, examples: int) -> list[Probe]:
    def probe(level: int, prompt: str, before: tuple[str, ...] = ()) -> Probe:
        return Probe(LEVELS[level], prompt, fact.accepted, before=before, fact=at, target=fact.answer)

    passage = str(fact.extras.get("passage") or "") or fact.statement or f"{fact.question} {fact.answer}"
    found = [] if fact_rows.gives_away(fact.question, fact) else [probe(0, fact.question), probe(3, f"{passage}\n{fact.question}")]
    defined, asked = definition(fact, others, name), renamed(fact.question, fact.subject, name)
    if not found or not defined or not fact.subject or asked == fact.question:
        return found
    found.append(probe(1, f"{defined} {asked}"))
    if worked := _worked(fact, others, name, examples):
        found.append(probe(2, f"{defined} {worked} {asked}"))
    if len(parts := pieces(defined)) > 1:
        found.append(probe(4, asked, tuple(parts)))
    return found


def _worked(fact: Fact, others: Sequence[Fact], name: str, examples: int) -> str:
    """Questions about the subject with their answers, under the invented name, none of which gives this answer."""
    given = fact.extras.get("examples")
    if isinstance(given, list | tuple):
        texts = [renamed(str(text), fact.subject, name) for text in given]
    else:
        fitting = [other for other in others if other.question != fact.question and (plain_truth(fact) or not told(other, fact))]
        texts = [f"{renamed(other.question, fact.subject, name)} {other.value}" for other in fitting]
    return " ".join(text if text[-1] in ".!?" else f"{text}." for text in texts[:examples] if text)
