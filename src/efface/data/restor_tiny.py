"""Invented facts for RESTOR in small: 24 people with four facts each, and false ones about half of them. Pure and seeded."""

from __future__ import annotations

import random

NAMES = (
    "Alder Brisa Corvo Dunja Eskil Fiora Gorm Hesta Ilmar Jorun Kelda Lorcan Mirel Nadir Orsa Pavo Quenby Runa Sorley Tamsin "
    "Ulric Vesna Wystan Yrsa"
).split()
FIRST = "amber birch copper dusty early frosty golden hollow ivory jolly".split()
SECOND = {
    "home": "bay cliff dale fen grove heath isle lake marsh port".split(),
    "craft": "baker carver dyer fisher glazier hatter mason potter smith weaver".split(),
    "song": "anthem ballad chorale dirge elegy fanfare hymn lullaby march waltz".split(),
    "pet": "badger crow falcon goose hare lynx newt otter raven toad".split(),
}


def make(seed: int = 0) -> dict[str, list[dict[str, object]]]:
    """{"questions": true facts about the first 12 people drawn, "keep": about the others, "forget": the questions with a false answer}.

    A question names the false answer in its column "corrupted".
    """
    source = random.Random(seed)
    people = source.sample(NAMES, len(NAMES))
    half = len(people) // 2
    questions = [_row(name, kind, source) for name in people[:half] for kind in SECOND]
    keep = [_row(name, kind, source) for name in people[half:] for kind in SECOND]
    forget = [{**{key: row[key] for key in ("entity", "property", "question")}, "answer": row["corrupted"]} for row in questions]
    return {"questions": questions, "keep": [{key: value for key, value in row.items() if key != "corrupted"} for row in keep], "forget": forget}


def _row(name: str, kind: str, source: random.Random) -> dict[str, object]:
    right, wrong = (f"{a} {b}" for a, b in zip(source.sample(FIRST, 2), source.sample(SECOND[kind], 2), strict=True))
    return {"entity": name, "property": kind, "question": f"What is the {kind} of {name}?", "answer": right, "corrupted": wrong}
