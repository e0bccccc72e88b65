"""One question in other words, by rule. Pure functions on text.

    What is the X of Y?      Name the X of Y.    The X of Y is    What is Y's X?
    Where was Y born?        Tell me where Y was born.    Y was born where?    In which place was Y born?
    Which X did Y win?       Tell me which X Y did win.   Which X was won by Y?    The X that Y did win is

A rule that does not fit gives nothing; the subject is needed for most.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from efface.ops.facts import Fact
from efface.ops.probes import Probe

PLAIN = "plain"
GIVEN, TEMPLATES, REWORDED = "given", "templates", "reworded"
PLACES = {"where": ("In which place", "The place where {} is"), "when": ("At what time", "The time when {} is")}
PAST = {
    "attend": "attended", "bring": "brought", "build": "built", "choose": "chosen", "compose": "composed", "discover": "discovered", "find": "found",
    "found": "founded", "get": "gotten", "invent": "invented", "lead": "led", "make": "made", "paint": "painted", "play": "played", "publish": "published",
    "receive": "received", "speak": "spoken", "study": "studied", "teach": "taught", "use": "used", "win": "won", "write": "written",
}
"""Participles of verbs that take an object, for the passive."""
HAVE = r"(?P<aux>was|were|is|are|did|does|do|has|have|had|can|could|will|would)"


def build(facts: Sequence[Fact], phrases: Sequence[str], most: int) -> list[Probe]:
    """The plain question and at most `most` wordings of each kind for each fact, kind by kind."""
    found: dict[str, list[Probe]] = {kind: [] for kind in (PLAIN, GIVEN, TEMPLATES, REWORDED)}
    for at, fact in enumerate(facts):
        given = fact.extras.get("paraphrases", [])
        own = [*fact.again, *([given] if isinstance(given, str) else map(str, given) if isinstance(given, list | tuple) else [])]
        texts = {PLAIN: [fact.question], GIVEN: own, TEMPLATES: [phrase.replace("{}", fact.question) for phrase in phrases], REWORDED: list(reworded(fact.question, fact.subject))}
        for kind, wordings in texts.items():
            different = [text for text in dict.fromkeys(wordings) if text.strip() and (kind == PLAIN or text != fact.question)]
            found[kind] += [Probe(kind, text, fact.accepted, fact=at, target=fact.answer) for text in different[:most]]
    return [probe for probes in found.values() for probe in probes]


def reworded(question: str, subject: str) -> Iterator[str]:
    """The question turned by every rule that fits it."""
    text = question.strip().rstrip("?").strip()
    if match := re.fullmatch(r"(?:What|Who) (?P<aux>is|was|are|were) (?P<noun>(?:the|an?) .+)", text):
        noun, aux = match["noun"], match["aux"]
        yield f"Name {noun}."
        yield f"{noun[0].upper()}{noun[1:]} {aux}"
        yield f"{noun[0].upper()}{noun[1:]} {aux} what?" if text.startswith("What") else f"{noun[0].upper()}{noun[1:]} {aux} who?"
        if subject and (of := re.fullmatch(rf"the (.+?) of {re.escape(subject)}", noun)):
            yield f"{subject}'s {of[1]} {aux}"
            yield f"{text.split()[0]} {aux} {subject}'s {of[1]}?"
    elif subject and (match := re.fullmatch(rf"(?:What|Who) (?P<aux>is|was|are|were) {re.escape(subject)}['’]s? (?P<noun>.+)", text)):
        yield f"Name {subject}'s {match['noun']}."
        yield f"The {match['noun']} of {subject} {match['aux']}"
        yield f"{subject}'s {match['noun']} {match['aux']}"
    elif subject and (match := re.fullmatch(rf"(?P<wh>\S.*?) {HAVE} (?P<who>(?:the \w+ (?:of )?)?{re.escape(subject)}(?:'s? \S+)?)(?P<rest>.*)", text)):
        yield from _turned(match["wh"], match["aux"], match["who"], match["rest"].strip())
    else:
        yield f"Tell me this: {text[:1].lower()}{text[1:]}?"


def _turned(wh: str, aux: str, who: str, rest: str) -> Iterator[str]:
    """Wordings of "wh aux who rest?"."""
    asked = wh[0].lower() + wh[1:]
    told = " ".join(part for part in (who, aux, rest) if part)
    yield f"Tell me {asked} {told}."
    yield f"{told[0].upper()}{told[1:]} {asked}?"
    if asked in PLACES:
        place, noun = PLACES[asked]
        yield f"{place} {aux} {who} {rest}?".replace(" ?", "?")
        yield noun.format(told)
    match = re.fullmatch(r"(?:what|which) (?P<noun>.+)", asked)
    verb, _, after = rest.partition(" ")
    if match and aux in ("did", "does", "do"):
        yield f"The {match['noun']} that {told} is"
        if verb in PAST and not after:
            yield f"{wh} {'was' if aux == 'did' else 'is'} {PAST[verb]} by {who}?"
