"""Whom or what rows are about, where no column says so. Pure functions on text.

The subject of a question and its answer is a run of capitalized words that stands in both: "Petra Jorstead" in "Where was Petra
Jorstead born?" and "Petra Jorstead comes from Thornbridge." Where several do, a name of several words comes before one
word, then the one that most rows of the set name, then the longest. The first word of a sentence is capitalized anyway, and counts only where it is so inside of a sentence elsewhere. An
answer of a few words does not name its subject; there a question's only name is taken.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

WORD = re.compile(r"[^\W_]+(?:[-'’.][^\W_]+)*")
PARTICLES = frozenset("al bin da de del der di dos du el ibn la le of van von y".split())
"""Small words that may stand inside of a name."""
SHORT = 8
"""Most words of an answer that is all value."""
ASKING = frozenset("Can Could Did Do Does Has Have How In Is Of On Was What When Where Which Who Whom Whose Why With Were Are For".split())
"""Words that begin questions."""


@dataclass(frozen=True)
class Run:
    """Capitalized words in a row, with what may stand between them."""

    words: tuple[str, ...]
    text: str
    first: bool
    """Whether it begins a sentence."""


def subjects(pairs: Sequence[tuple[str, str]], values: Sequence[str]) -> list[str]:
    """The subject of each (question, answer), "" where none is found; a run that lies in a row's own short value is none."""
    asked, said = [runs(question) for question, _ in pairs], [runs(answer) for _, answer in pairs]
    inner = {word for found in (*asked, *said) for run in found for word in (run.words[1:] if run.first else run.words)}
    counts = Counter(part for question, answer in zip(asked, said, strict=True) for part in {part for run in (*question, *answer) for part in _parts(run.words)})
    return [
        _subject(pair, question, answer, value, inner, counts)
        for pair, question, answer, value in zip(pairs, asked, said, values, strict=True)
    ]


def runs(text: str) -> list[Run]:
    """The runs of capitalized words of a text, in order."""
    found: list[Run] = []
    held: list[tuple[str, int, int]] = []
    for match in WORD.finditer(text):
        word, start, end = _bare(match[0]), match.start(), match.start() + len(_bare(match[0]))
        if held and not _joined(text[held[-1][2] : start], held[-1][0]):
            found += _closed(held, text)
            held = []
        if word[:1].isupper() or (held and (word in PARTICLES or (word == "the" and held[-1][0] == "of"))):
            held.append((word, start, end))
        elif held:
            found += _closed(held, text)
            held = []
    return found + _closed(held, text)


def _subject(pair: tuple[str, str], asked: Sequence[Run], said: Sequence[Run], value: str, inner: set[str], counts: Counter[tuple[str, ...]]) -> str:
    own = {_bare(word) for word in WORD.findall(value)}
    # Where the whole answer is the value, as in "Beijing is the capital of China.", the subject may stand in it.
    part = len(value.split()) <= SHORT and value != pair[1]

    def fits(words: tuple[str, ...]) -> bool:
        inside = set(words) <= own and (part or own <= set(words))
        return bool(words) and not inside and _text(words, pair[0]) != ""

    shared = [name for one in asked if (name := _trimmed(one, inner)) and any(_common(name, _trimmed(other, inner)) for other in said)]
    if found := [words for words in shared if fits(words)]:
        best = max(found, key=lambda name: (len(name) > 1, counts[name], len(name)))
        return _text(best, pair[0])
    only = [words for run in asked if fits(words := _trimmed(run, inner))]
    silent = len(pair[1].split()) <= SHORT and all(run.first or set(run.words) <= own for run in said)
    return _text(only[0], pair[0]) if silent and len(only) == 1 else ""


def _trimmed(run: Run, inner: set[str]) -> tuple[str, ...]:
    """The run's words without a first one that is capitalized for standing there, and without particles at the ends."""
    words = run.words
    if run.first and (words[0] not in inner or words[0] in ASKING):
        words = words[1:]
    while words and words[0] in PARTICLES:
        words = words[1:]
    return words


def _common(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two names share a word that is not just a particle."""
    return not (set(one) & set(other)) <= PARTICLES


def _parts(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for start in range(len(words)):
        for end in range(start + 1, len(words) + 1):
            yield tuple(words[start:end])


def _text(words: Sequence[str], text: str) -> str:
    """The words as they stand in the text, with what is between them."""
    found = re.search(r"(?<!\w)" + r"[\s.]+".join(re.escape(word) for word in words) + r"(?!\w)", text)
    return found[0] if found else ""


def _bare(word: str) -> str:
    return re.sub(r"['’]s$", "", word)


def _joined(gap: str, before: str) -> bool:
    """Whether two words belong together: a space between them, or the point of an initial."""
    return gap == " " or (gap == ". " and len(before.split(".")[-1]) == 1)


def _closed(held: Sequence[tuple[str, int, int]], text: str) -> list[Run]:
    while held and held[-1][0] in PARTICLES | {"the"}:
        held = held[:-1]
    if not held:
        return []
    start, end = held[0][1], held[-1][2]
    before = text[:start].rstrip(" \"'“‘(\n")
    return [Run(tuple(word for word, _, _ in held), text[start:end], not before or before[-1] in ".!?:")]
