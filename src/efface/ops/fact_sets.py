"""Row sets that an adversary may teach: a part of what was forgotten, rows that are related to it, rows that are not.

What is asked afterwards must not have been taught, or an attack proves only that training works. So facts stay whole: rows
on one author or subject, rows with one question, rows with one sentence as their answer stand on one side. Two rows are
related when they are on one author or subject, or share a telling word: one that few of the other rows have.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from efface.core import rows as row_files
from efface.core.errors import BadRows, Missing
from efface.core.rows import Row
from efface.ops import facts

OWNER = ("author", "subject", "entity", "person")
"""Columns that say what a row is on, the first that there is."""
TELLING = 0.05
"""Most share of the rows in which a telling word occurs (one row is always few)."""
NAMING = 0.2
"""The same for words by which a row may give a fact away: leaving out a row too many does no harm."""
SENTENCE = 4
"""Fewest words of an answer that is taken for a fact by itself; "yes" is none."""


class Said(NamedTuple):
    """What a row asks and what it answers; plain text asks nothing."""

    asked: str
    told: str


def said(row: Row) -> Said:
    """Both sides of a row of any layout; "" for what it lacks."""
    messages = row.get("messages")
    if isinstance(messages, list) and messages:
        return Said(str(messages[-2]["content"]) if len(messages) > 1 else "", str(messages[-1]["content"]))
    asked = next((str(row[name]) for name in row_files.PROMPT if name in row), "")
    return Said(asked, next((str(row[name]) for name in (*row_files.ANSWER, *row_files.TEXT) if name in row), ""))


def owner(row: Row) -> str:
    """What the row says that it is on; "" when it does not."""
    return next((str(row[name]) for name in OWNER if row.get(name)), "")


def split(rows: Sequence[Row], most: int, source: random.Random) -> tuple[list[Row], list[Row]]:
    """Two parts of at most `most` rows that share no fact: by author or subject where rows name several, else at random.

    Raises Missing where there are not two facts.
    """
    if len(rows) < 2:
        raise Missing(f"relearning needs at least two forget rows, one to teach and one to ask; found {len(rows)}")
    owners = list(dict.fromkeys(map(owner, rows)))
    if len(owners) > 1 and all(owners):
        taught = set(source.sample(owners, len(owners) // 2))
        sides = [row for row in rows if owner(row) in taught], [row for row in rows if owner(row) not in taught]
    else:
        groups = same_fact(rows)
        if len(groups) < 2:
            raise Missing(f"all {len(rows)} forget rows are on one fact; relearning needs two, one to teach and one to ask")
        mixed, sides = source.sample(groups, len(groups)), ([], [])
        for at, group in enumerate(mixed):
            sides[len(sides[0]) >= len(rows) // 2 or at == len(mixed) - 1].extend(group)
    first, second = (source.sample(side, most) if len(side) > most else side for side in sides)
    return first, second


def same_fact(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows in groups that share a question or a whole sentence of an answer, in order."""
    group: dict[str, int] = {}
    members: dict[int, list[int]] = {}
    for at, row in enumerate(rows):
        both = said(row)
        told = facts.words(both.told)
        keys = [f"asked {' '.join(facts.words(both.asked))}"] if both.asked else []
        keys += [f"told {' '.join(told)}"] if len(told) >= SENTENCE else []
        joined = sorted({group[key] for key in keys if key in group}) or [at]
        target = joined[0]
        members.setdefault(target, []).append(at)
        for other in joined[1:]:
            members[target] += members.pop(other)
            group = {key: target if number == other else number for key, number in group.items()}
        group |= dict.fromkeys(keys, target)
    return [[rows[at] for at in sorted(places)] for _, places in sorted(members.items())]


def related(others: Sequence[Row], forget: Sequence[Row], most: int) -> list[Row]:
    """At most `most` of the other rows that are on an author of the forget rows or share a telling word, the nearest first."""
    scores = nearness(others, forget)
    order = sorted((at for at, score in enumerate(scores) if score), key=lambda at: -scores[at])
    return [others[at] for at in order[:most]]


def unrelated(others: Sequence[Row], forget: Sequence[Row], most: int, source: random.Random) -> list[Row]:
    """At most `most` of the other rows that share neither author nor telling word with the forget rows, drawn at random."""
    found = [row for row, score in zip(others, nearness(others, forget), strict=True) if not score]
    return source.sample(found, most) if len(found) > most else found


def nearness(others: Sequence[Row], forget: Sequence[Row]) -> list[int]:
    """For each of the other rows the telling words that it shares with the forget rows, and a thousand for a shared author."""
    common = _common(others)
    words = set().union(*(_words(row) for row in forget)) - common if forget else set()
    owners = {owner(row) for row in forget} - {""}
    return [len(_words(row) & words) + 1000 * (owner(row) in owners) for row in others]


def apart(rows: Sequence[Row], asked: Sequence[Row], among: Sequence[Row] = ()) -> list[Row]:
    """The rows that give away none of the asked facts: none is one of the asked rows, nor says an asked value of the same thing.

    `among` is what the rows were taken from, which says what words are common.
    """
    common = _common(among or rows, NAMING)
    values = [(_value(row), said(row), _words(row) - common - set(facts.words(_value(row)))) for row in asked]
    taboo = {" ".join(facts.words(" ".join(said(row)))) for row in asked}

    def gives(row: Row) -> bool:
        text = " ".join(said(row))
        if " ".join(facts.words(text)) in taboo:
            return True
        return any(facts.says(text, [value], both.asked) and (telling & _words(row) or len(facts.words(value)) >= SENTENCE) for value, both, telling in values)

    return [row for row in rows if not gives(row)]


def _value(row: Row) -> str:
    try:
        return facts.of_rows([row])[0].value
    except (BadRows, Missing):
        return said(row).told


def _words(row: Row) -> set[str]:
    return set(facts.words(" ".join(said(row))))


def _common(rows: Sequence[Row], share: float = TELLING) -> set[str]:
    """Words that too many of the rows have to tell anything."""
    counts = Counter(word for row in rows for word in _words(row))
    return {word for word, count in counts.items() if count > max(1, share * len(rows))}
