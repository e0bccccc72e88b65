"""Real facts about countries, on which the utility of a language model is measured: `capitals.jsonl` and `countries.jsonl`.

Made from the package `countryinfo` (MIT) with a fixed seed: `python -m efface.data.facts_generator FOLDER`. Each row has a
question, its answer, and three wrong answers of the same form.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

SEED, COUNT, WRONG = 20250607, 40, 3
CONTINENT = {"Africa": "Africa", "Americas": "the Americas", "Asia": "Asia", "Europe": "Europe", "Oceania": "Oceania"}
ARTICLE = {"United States": "the United States", "United Kingdom": "the United Kingdom", "Philippines": "the Philippines"}
CAPITAL = {"United States": "Washington"}
LEFT_OUT = {"Mexico", "Taiwan", "Democratic Republic of the Congo"}
"""The question would hold the answer, or the answer is disputed, or the name is one that a small model reads badly."""


def countries(count: int = COUNT) -> list[dict[str, str]]:
    """Name, capital and continent of the most populous countries, most populous first."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files("countryinfo").joinpath("data").iterdir() if file.name.endswith(".json")]
    found = [c for c in found if c.get("population") and c.get("capital") and c.get("region") in CONTINENT and c["name"] not in LEFT_OUT]
    found.sort(key=lambda c: -c["population"])
    return [{"name": ARTICLE.get(c["name"], c["name"]), "capital": CAPITAL.get(c["name"], c["capital"]), "continent": CONTINENT[c["region"]]} for c in found[:count]]


def _row(topic: str, question: str, form: str, value: str, others: Sequence[str]) -> dict[str, object]:
    return {
        "topic": topic,
        "value": value,
        "question": question,
        "answer": form.format(value),
        "perturbed_answer": [form.format(other) for other in others],
    }


def make(seed: int = SEED) -> dict[str, list[dict[str, object]]]:
    """{"capitals": one row a country, "countries": continent and reverse-capital questions by turns}."""
    r = random.Random(seed)
    chosen = countries()
    capitals, reverse = [], []
    for number, c in enumerate(chosen):
        others = [o for o in chosen if o is not c]
        wrong = [o["capital"] for o in r.sample(others, WRONG)]
        capitals.append(_row("capital", f"What is the capital of {c['name']}?", f"The capital of {c['name']} is {{}}.", c["capital"], wrong))
        if number % 2:
            wrong = r.sample([name for name in CONTINENT.values() if name != c["continent"]], WRONG)
            reverse.append(_row("continent", f"On which continent is {c['name']}?", f"{c['name'][0].upper() + c['name'][1:]} is in {{}}.", c["continent"], wrong))
        else:
            wrong = [o["name"] for o in r.sample(others, WRONG)]
            reverse.append(_row("reverse", f"Of which country is {c['capital']} the capital?", f"{c['capital']} is the capital of {{}}.", c["name"], wrong))
    return {"capitals": capitals, "countries": reverse}


def write(folder: Path, seed: int = SEED) -> None:
    """Write the two row files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, rows in make(seed).items():
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
