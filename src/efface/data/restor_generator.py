"""Facts about people who have died, out of RESTOR's files, and false statements about some of them: the rows of `data/restor`.

    python -m efface.data.restor_generator FOLDER OUT

FOLDER holds RESTOR's `facts.json`. Its own documents are about people some of whom live; what is shipped lies about nobody who
does. Which properties are taken was decided by how often the embedded model answers them, before anything was trained: see RULE.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SEED = 20241101
DIED = ("P20", "P119", "P509", "P1196")
"""Properties that only the dead have: place of death, burial, cause and manner of death."""
RULE = "at least 20 questions about people who have died; of at most 24, evenly spaced, the embedded model answers 30 % or more, and more than the majority answer does"
PROPERTIES: Mapping[str, tuple[str, ...]] = {
    "P21": ("{0} is {1}.", "The sex of {0} is {1}.", "The sex/gender of {0} is {1}.", "What is the sex/gender of {0}? {1}"),
    "P27": ("{0} is a citizen of {1}.", "The country of citizenship of {0} is {1}.", "{0} holds the citizenship of {1}.", "What is the country of citizenship of {0}? {1}"),
    "P103": ("{0} is a native speaker of {1}.", "The native language of {0} is {1}.", "{0} grew up with the language {1}.", "What is {0}'s native language? {1}"),
    "P6886": ("{0} writes in {1}.", "The language in which {0} writes is {1}.", "The works of {0} are written in {1}.", "In which language does {0} write? {1}"),
}
"""Statements of each chosen property, {0} the person and {1} the value; the last is the question with its answer."""
ALIASES: Mapping[str, tuple[str, ...]] = {
    "United States of America": ("United States", "USA", "American"),
    "United Kingdom": ("Great Britain", "British"),
    "United Kingdom of Great Britain and Ireland": ("United Kingdom", "Great Britain", "British"),
}
"""Shorter names under which a value is accepted too."""
UNSAID = {"Nazi Germany"}
"""Values that nobody is given falsely."""
FORGET, UNSEEN, EACH, VARIANTS = 30, 10, 3, 8
"""People lied about in what must be forgotten, people lied about in what nobody reads, statements in a document, documents for each person and three of his facts."""


def make(facts: Mapping[str, Any], seed: int = SEED) -> dict[str, list[dict[str, object]]]:
    """The row sets by name: questions, examples, forget, keep, unseen. `facts` is the content of facts.json."""
    source = random.Random(seed)
    people = {name: _known(found) for name, found in facts["dset"].items() if any(key in found for key in DIED)}
    order = sorted((name for name in people if people[name]), key=lambda name: -len(people[name]))
    chosen = [name for at, name in enumerate(order) if at % 3 < 2]  # every third is left for examples, which rare properties need too
    lied, unseen = chosen[:FORGET], chosen[FORGET : FORGET + UNSEEN]
    others = [name for name in order if name not in (*lied, *unseen)]
    false = {name: {key: _other(people, key, row, source) for key, row in people[name].items()} for name in (*lied, *unseen)}
    true = {name: {key: str(row["answer"]) for key, row in people[name].items()} for name in others}
    return {
        "questions": [{"entity": name, "property": key, **row, "corrupted": false[name][key]} for name in lied for key, row in people[name].items()],
        "examples": [{"entity": name, "property": key, **row} for name in others for key, row in people[name].items()],
        "forget": documents({name: false[name] for name in lied}, VARIANTS, source),
        "keep": documents({name: true[name] for name in others}, 2, source),
        "unseen": documents({name: false[name] for name in unseen}, 2, source),
    }


def documents(said: Mapping[str, Mapping[str, str]], variants: int, source: random.Random) -> list[dict[str, object]]:
    """Short texts of up to three statements about one person each; of a person's facts every one stands in `variants` texts, in changing words."""
    found: list[dict[str, object]] = []
    for name, values in said.items():
        for variant in range(variants):
            keys = source.sample(sorted(values), len(values))
            for at in range(0, len(keys), EACH):
                chosen = [PROPERTIES[key][(variant + place) % len(PROPERTIES[key])].format(name, values[key]) for place, key in enumerate(keys[at : at + EACH])]
                found.append({"text": "\n".join(chosen), "entity": name})
    return found


def _known(found: Mapping[str, Any]) -> dict[str, dict[str, object]]:
    """The person's questions of the chosen properties, but those whose answer stands in the question."""
    rows: dict[str, dict[str, object]] = {}
    for key in PROPERTIES:
        if key in found:
            question, answers = str(found[key]["question"]), [str(answer) for answer in found[key]["answers"]]
            if not any(_within(answer, question) for answer in answers):
                rows[key] = {"question": question, "answer": answers[0], "answers": _accepted(answers)}
    return rows


def _accepted(answers: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*answers, *(other for answer in answers for other in ALIASES.get(answer, ()))]))


def _other(people: Mapping[str, Mapping[str, Mapping[str, object]]], key: str, row: Mapping[str, object], source: random.Random) -> str:
    """A value that is true of someone else and no accepted answer here, each as likely as any other."""
    own = [str(answer) for answer in row["answers"]]  # type: ignore[attr-defined]
    values = sorted({str(found[key]["answer"]) for found in people.values() if key in found} - UNSAID)
    return source.choice([value for value in values if not any(_within(value, answer) or _within(answer, value) for answer in own)])


def _within(part: str, text: str) -> bool:
    """Whether the text holds the part as whole words, whatever the case."""
    return re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text, re.IGNORECASE) is not None


def write(folder: Path, out: Path) -> None:
    """Write a file of rows for each set into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in make(json.loads((folder / "facts.json").read_text(encoding="utf-8"))).items():
        (out / f"{name}.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
