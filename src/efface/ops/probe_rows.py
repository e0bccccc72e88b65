"""RWKU's rows (arXiv:2406.10890): how each type of probe is put to a model, and the same rows made from facts of any kind.

A row is {"subject", "level", "query", "type", "answer"}, on a neighbor also "neighbor"; level 1 is cloze, 2 a simple question, 3
one of nine adversarial types, 4 (of ORT, arXiv:2506.07795) a multiple choice whose answer is a letter. Aliases may stand beside.

    cloze                 COMPLETE / Question: ...      and the model's turn begins "Answer:"
    everything else       BRIEF / Question: ...         the same
    incontext learning    BRIEF / ...                   the same; the probe brings its own "Question:"
    affirmative suffix    BRIEF / Question: ...         and nothing begins the model's turn
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from efface.core.errors import BadRows
from efface.core.rows import Row
from efface.ops import facts as fact_rows
from efface.ops import probes
from efface.ops.facts import Fact
from efface.ops.probes import BLANK, COMPLETE, LETTERS, Probe

BRIEF = "Please answer the question briefly."
LEAD = "Answer:"
CLOZE, QUESTION, SUFFIX, CONTEXT = "cloze", "simple question", "affirmative suffix", "incontext learning"
ADVERSARIAL: Mapping[str, str] = {
    "prefix injection": "prefix", SUFFIX: "suffix", "role play": "role_play", "multiple choice": "multiple_choice", "reverse query": "reverse",
    "synonym manipulation": "paraphrase", "context hint": "hint", CONTEXT: "context", "cross lingual": "language",
}
"""The nine types of level 3, by the form of ops/probes.py that each is."""
TYPES = (CLOZE, QUESTION, *ADVERSARIAL)
OPTION = re.compile(rf"(?:^|\s)\(?([{LETTERS}])[.):]\s+")


def kind(row: Row) -> str:
    """The row's type without its language: "cross lingual (French)" is "cross lingual"."""
    return str(row.get("type") or "").partition(" (")[0].strip()


def probe(row: Row) -> Probe:
    """The row as the question that is put."""
    query, answers = str(row["query"]).strip(), accepted(row)
    found = kind(row)
    if str(row.get("level")) == "4":
        return choice(row)
    if found == CLOZE or (not found and BLANK in query):
        return Probe("cloze", f"{COMPLETE}\nQuestion: {query}", answers, lead=LEAD)
    prompt = f"{BRIEF}\n{query}" if found == CONTEXT else f"{BRIEF}\nQuestion: {query}"
    return Probe(ADVERSARIAL.get(found, "question"), prompt, answers, lead="" if found == SUFFIX else LEAD)


def accepted(row: Row) -> tuple[str, ...]:
    """The row's answer, and other texts that count as right."""
    more = [text for name in fact_rows.ALIASES for text in (row.get(name) or ())]  # type: ignore[attr-defined]
    return tuple(dict.fromkeys(map(str, (row["answer"], *more))))


def choice(row: Row) -> Probe:
    """A row of level 4: a question with options A to D in its query or in a column "options", and a letter as answer. Raises BadRows."""
    query, letter = str(row["query"]).strip(), str(row["answer"]).strip()[:1].upper()
    given = row.get("options")
    if isinstance(given, Mapping):
        given = [given[name] for name in LETTERS if name in given]
    question, *parts = OPTION.split(query)
    options = [str(text).strip() for text in given] if isinstance(given, list | tuple) else [text.strip() for text in parts[1::2]]
    named = LETTERS if isinstance(given, list | tuple) else "".join(parts[0::2])
    if named != LETTERS[: len(options)] or len(options) < 2 or not letter or letter not in LETTERS[: len(options)]:
        raise BadRows(f"multiple choice {query[:60]!r}: found options {', '.join(options) or 'none'} and answer {row['answer']!r}; give lines A. to D. and the letter of the right one")
    return probes.choice(question.strip() or query, options, LETTERS.index(letter))


def of_facts(facts: Sequence[Fact], once: bool = True) -> dict[str, list[Row]]:
    """Levels 1 to 3 as rows: {"level1", "level2", "level3"}. With `once`, level 3 asks each relation of a subject in its first wording only."""
    first: dict[object, Fact] = {}
    for at, fact in enumerate(facts):
        first.setdefault((fact.subject, fact.relation) if fact.subject and fact.relation else at, fact)
    few = list(first.values()) if once else list(facts)
    cloze = [(facts[p.fact], p.prompt.removeprefix(f"{COMPLETE} ")) for p in probes.ask("cloze", facts)]
    asked = {name: _adversarial(form, few, facts) for name, form in ADVERSARIAL.items()}
    return {
        "level1": [_row(fact, text, CLOZE, "1") for fact, text in cloze],
        "level2": [_row(fact, fact.question, QUESTION, "2") for fact in facts],
        "level3": [_row(fact, text, name, "3") for name, found in asked.items() for fact, text in found],
    }


def _adversarial(form: str, few: Sequence[Fact], facts: Sequence[Fact]) -> list[tuple[Fact, str]]:
    """Each fact that can take the form, and how it is asked; of a multiple choice the answer is a text, as in RWKU."""
    if form == "multiple_choice":
        found = [(fact, probes.item(fact, facts)) for fact in few]
        return [(fact, f"{item.question} Is it {', '.join(item.options[:-1])} or {item.options[-1]}?") for fact, item in found if item is not None]
    return [(few[p.fact], p.prompt) for p in probes.ask(form, few)]


def _row(fact: Fact, query: str, name: str, level: str) -> Row:
    back = name == "reverse query"
    answers = (fact.subject,) if back else fact.accepted
    return {"subject": fact.subject, "level": level, "query": query, "type": name, "answer": answers[0], **({"aliases": list(answers[1:])} if answers[1:] else {})}
