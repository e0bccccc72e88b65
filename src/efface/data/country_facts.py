"""Facts about countries that a small language model knows: each country is a target that can be forgotten by its name.

`rwku/countries.json` is made from the package `countryinfo` (MIT) by `python -m efface.data.country_facts FILE`; what a row
says is worded here. A row has question, answer, value, other accepted values, a cloze, a paraphrase, three wrong answers of
the same form, and a reverse question where only one country fits.
"""

from __future__ import annotations

import functools
import json
import random
import sys
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from efface.core.digest import seed_from
from efface.core.errors import UnknownName

WRONG = 3
NAMES = (
    "Argentina Australia Austria Bangladesh Belgium Brazil Canada Chile China Colombia Cuba Denmark Egypt Ethiopia Finland France Germany Greece "
    "Hungary India Indonesia Iran Iraq Ireland Italy Japan Kenya Mexico Mongolia Morocco Nepal Netherlands New_Zealand Nigeria Norway Pakistan Peru "
    "Poland Portugal Russia South_Africa South_Korea Spain Sweden Switzerland Thailand Turkey Ukraine United_Kingdom United_States Vietnam"
).split()
SHIPPED = tuple(name.replace("_", " ") for name in NAMES)
ARTICLE = {"Netherlands", "United Kingdom", "United States"}
TODAY = {"Holy See (Vatican City State)": "Vatican City", "Republic of Macedonia": "North Macedonia", "Swaziland": "Eswatini"}
CAPITAL = {"United States": ["Washington", "Washington D.C."]}
CURRENCY = {
    "ARS": "peso", "AUD": "Australian dollar", "BDT": "taka", "BRL": "real", "CAD": "Canadian dollar", "CHF": "Swiss franc", "CLP": "peso", "CNY": "yuan",
    "COP": "peso", "CUP": "peso", "DKK": "Danish krone", "EGP": "Egyptian pound", "ETB": "birr", "EUR": "euro", "GBP": "pound", "HUF": "forint",
    "IDR": "rupiah", "INR": "Indian rupee", "IQD": "Iraqi dinar", "IRR": "rial", "JPY": "yen", "KES": "Kenyan shilling", "KRW": "won", "MAD": "dirham",
    "MNT": "tugrik", "MXN": "peso", "NGN": "naira", "NOK": "Norwegian krone", "NPR": "Nepalese rupee", "NZD": "New Zealand dollar", "PEN": "sol",
    "PKR": "Pakistani rupee", "PLN": "zloty", "RUB": "ruble", "SEK": "Swedish krona", "THB": "baht", "TRY": "lira", "UAH": "hryvnia", "USD": "dollar",
    "VND": "dong", "ZAR": "rand",
}
LANGUAGE = {
    "af": "Afrikaans", "am": "Amharic", "ar": "Arabic", "bn": "Bengali", "da": "Danish", "de": "German", "el": "Greek", "en": "English", "es": "Spanish",
    "fa": "Persian", "fi": "Finnish", "fr": "French", "ga": "Irish", "gn": "Guarani", "hi": "Hindi", "hu": "Hungarian", "id": "Indonesian", "it": "Italian",
    "ja": "Japanese", "ko": "Korean", "ku": "Kurdish", "mi": "Maori", "mn": "Mongolian", "ne": "Nepali", "nl": "Dutch", "no": "Norwegian", "pl": "Polish",
    "pt": "Portuguese", "ru": "Russian", "sv": "Swedish", "sw": "Swahili", "th": "Thai", "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu",
    "vi": "Vietnamese", "zh": "Chinese", "xh": "Xhosa", "zu": "Zulu",
}


class Wording(NamedTuple):
    """How one relation is asked and said: {s} is the country, {v} the value."""

    questions: tuple[str, str]
    statements: tuple[str, str]
    reverse: str = ""
    """Asked where the value belongs to one country alone."""


WORDINGS: Mapping[str, Wording] = {
    "capital": Wording(
        ("What is the capital of {s}?", "Which city is the capital of {s}?"), ("The capital of {s} is {v}.", "The capital city of {s} is called {v}."),
        "Of which country is {v} the capital?",
    ),
    "continent": Wording(("On which continent is {s}?", "Which continent does {s} belong to?"), ("{S} is a country in {v}.", "{S} lies on the continent of {v}.")),
    "region": Wording(("In which part of the continent is {s}?", "Which region of the world does {s} belong to?"), ("{S} is in {v}.", "{S} belongs to {v}.")),
    "language": Wording(
        ("Which language is spoken in {s}?", "What is the official language of {s}?"), ("The language of {s} is {v}.", "Most people in {s} speak {v}."),
        "In which country is {v} the official language?",
    ),
    "currency": Wording(
        ("What is the currency of {s}?", "Which money is used in {s}?"), ("The currency of {s} is the {v}.", "People in {s} pay with the {v}."),
        "Which country has the {v} as its currency?",
    ),
    "demonym": Wording(
        ("What are people from {s} called?", "What is the nationality of a person from {s}?"), ("People from {s} are {v}.", "A citizen of {s} is {v}."),
        "From which country is a person who is {v}?",
    ),
    "border": Wording(("Which country borders {s}?", "Name a neighboring country of {s}."), ("{S} borders {v}.", "{S} has a border with {v}.")),
}


@functools.cache
def countries() -> dict[str, dict[str, list[str]]]:
    """{country: {relation: accepted values, best known first}} as shipped."""
    found: dict[str, dict[str, list[str]]] = json.loads(files("efface.data").joinpath("rwku/countries.json").read_text(encoding="utf-8"))
    return found


def name_of(country: str) -> str:
    """The country as it stands in a sentence: "the United Kingdom"."""
    return f"the {country}" if country in ARTICLE else country


def rows(country: str, variant: int | None = None) -> list[dict[str, object]]:
    """The facts about a country, each in two wordings one after the other (or in that of `variant`), less those that its name answers. Raises UnknownName."""
    if country not in countries():
        raise UnknownName.among("country", country, countries())
    about = countries()[country]
    # "On which continent is South Africa?" answers itself
    asked = [relation for relation in WORDINGS if about.get(relation) and not any(value in country for value in about[relation])]
    return [_row(country, relation, at) for relation in asked for at in ((0, 1) if variant is None else (variant,))]


def near(country: str) -> list[str]:
    """The countries that border on it; for an island those of its region, or else of its continent."""
    known, own = countries(), countries()[country]
    bordering = [name for name in own.get("border", []) if name in known]
    for relation in ("region", "continent"):
        bordering = bordering or [name for name, about in known.items() if name != country and about.get(relation) and about[relation] == own.get(relation)]
    return bordering


def _row(country: str, relation: str, variant: int) -> dict[str, object]:
    wording, values = WORDINGS[relation], countries()[country][relation]
    values = [name_of(value) for value in values] if relation == "border" else values
    put = functools.partial(_put, country=country)
    others = sorted({name_of(known[relation][0]) if relation == "border" else known[relation][0] for known in countries().values() if known.get(relation)})
    wrong = [value for value in others if value not in values and value != name_of(country)]
    drawn = random.Random(seed_from("country", country, relation)).sample(wrong, WRONG)
    said, again = wording.statements[variant], wording.questions[1 - variant]
    return {
        "subject": country, "relation": relation, "question": put(wording.questions[variant]), "answer": put(said, value=values[0]), "value": values[0],
        "aliases": values[1:], "cloze": put(said, value="___"), "paraphrased_question": [put(again)],
        "perturbed_answer": [put(said, value=value) for value in drawn],
        "reverse_question": put(wording.reverse, value=values[0]) if wording.reverse and _alone(relation, values[0]) else "",
    }


def _put(text: str, country: str, value: str = "") -> str:
    name = name_of(country)
    return text.replace("{s}", name).replace("{S}", name[0].upper() + name[1:]).replace("{v}", value)


def _alone(relation: str, value: str) -> bool:
    """Whether one country alone, among those shipped, has the value."""
    return sum(value in about.get(relation, []) for about in countries().values()) == 1


def make(found: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[str]]]:
    """The facts of the shipped countries, out of countryinfo's entries."""
    codes = {entry["ISO"]["alpha3"]: entry["name"] for entry in found if entry.get("ISO")}
    by_name = {entry["name"]: entry for entry in found}
    return {name: _about(by_name[name], codes) for name in SHIPPED}


def _about(entry: Mapping[str, Any], codes: Mapping[str, str]) -> dict[str, list[str]]:
    continent, region = entry["region"], entry.get("intermediateregion") or entry["subregion"]
    if continent == "Americas":  # two continents in English
        continent, region = ("South America" if region == "South America" else "North America"), ""
    facts = {
        "capital": CAPITAL.get(entry["name"], [entry["capital"]]),
        "continent": [continent],
        "region": [region] if region.endswith(continent) and region != continent else [],
        "language": [LANGUAGE[code] for code in entry["languages"] if code in LANGUAGE],
        "currency": [CURRENCY[code] for code in entry["currencies"] if code in CURRENCY],
        "demonym": [entry["demonym"]],
        "border": sorted((TODAY.get(codes[code], codes[code]) for code in entry["borders"] if code in codes), key=lambda name: name not in SHIPPED),
    }
    return {relation: values for relation, values in facts.items() if values}


def write(path: Path) -> None:
    """Write the shipped file from the installed package `countryinfo`."""
    entries = [json.loads(file.read_text(encoding="utf-8")) for file in files("countryinfo").joinpath("data").iterdir() if file.name.endswith(".json")]
    lines = [f"{json.dumps(name)}: {json.dumps(about, ensure_ascii=False)}" for name, about in make(entries).items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
