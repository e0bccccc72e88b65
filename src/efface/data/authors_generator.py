"""Invented authors, their facts, and questions about them: the rows of the `authors` benchmark.

Everything comes from one seeded generator, so the shipped rows can be remade bit for bit:
`python -m efface.data.authors_generator FOLDER`. Surnames, towns, schools, prizes and titles are put
together from parts and belong to nobody; the facts of one author never contradict one another.

Right and wrong answers of a question come out of the same pool by the same draw, so to a model that has
never seen the author they are exchangeable: its truth ratio scatters around 1.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

SEED = 20250607
AUTHORS, HELD_OUT = 40, 8
SPLITS = {"05": 2, "10": 4, "25": 10}
"""Authors in each forget split; the split is always the last ones, and its retain part is everything before."""

FIRST = (
    "Alba Anselm Beatrix Bram Calla Casimir Delia Edgar Elin Emeric Fabian Flora Gideon Greta Hanna Hugo Ida Ivo Jonas Juno "
    "Kaspar Klara Leander Lotte Magnus Mira Nadia Nils Odette Orson Petra Quentin Rhea Rolf Selma Silas Tilda Tobias Ursula "
    "Viktor Wanda Wilbur Xenia Yara Yorick Zelda Zeno Agatha Barnaby"
).split()
SURNAME_A = "Bel Cor Dal Ever Fen Gal Har Iver Jor Kel Lor Mar Nor Oster Pel Quill Ran Sel Tor Ul Var Wes Yar Zan".split()
SURNAME_B = "wick mont stead bourne ridge vane holt lune mere dell grove thorpe quist field brook shaw".split()
TOWN_A = "Ash Birch Copper Drift Elder Frost Glass Heron Iron Juniper Kestrel Lark Mill North Otter Pine Raven Salt Thorn Willow".split()
TOWN_B = "haven ford port bridge minster cliff mouth gate stow by".split()
SCHOOL = "College Academy Institute University".split()
MONTHS = "January February March April May June July August September October November December".split()
GENRE = (
    "detective novels;ghost stories;sea adventures;courtroom dramas;travel sketches;children's fables;war memoirs;love poems;"
    "spy thrillers;political satires;nature essays;science fiction;historical sagas;short plays;mountain ballads;cookery writing"
).split(";")
TRADE = (
    "baker;blacksmith;lighthouse keeper;schoolteacher;carpenter;surgeon;tailor;beekeeper;clockmaker;ferry pilot;gardener;"
    "glassblower;judge;locksmith;miner;organist;pharmacist;shepherd;stonemason;translator"
).split(";")
TITLE_A = "Amber Broken Crimson Distant Empty Forgotten Golden Hidden Last Midnight Painted Quiet Scarlet Silent Stolen Winter".split()
TITLE_B = "Anchor Bridge Candle Door Engine Feather Garden Harbor Island Key Lantern Mirror Orchard River Staircase Tower".split()
PRIZE_B = "Medal Prize Award Laurel".split()
HOBBY = (
    "playing the cello;keeping bees;restoring old radios;fencing;growing orchids;sailing small boats;carving chess pieces;"
    "mapping caves;raising falcons;playing the accordion;collecting stamps;baking rye bread;climbing cliffs;training sheepdogs;"
    "building kites;repairing clocks"
).split(";")


def _town(r: random.Random) -> str:
    return r.choice(TOWN_A) + r.choice(TOWN_B)


def _person(r: random.Random) -> str:
    return f"{r.choice(FIRST)} {r.choice(SURNAME_A)}{r.choice(SURNAME_B)}"


def _date(r: random.Random) -> str:
    return f"{r.choice(MONTHS)} {r.randint(1, 28)}, {r.randint(1921, 1989)}"


def _title(r: random.Random) -> str:
    return f"The {r.choice(TITLE_A)} {r.choice(TITLE_B)}"


class Topic:
    """One kind of fact: how its value is drawn, and three ways each to ask for it and to state it."""

    def __init__(self, draw: Callable[[random.Random], str], ask: Sequence[str], tell: Sequence[str]) -> None:
        self.draw, self.ask, self.tell = draw, tuple(ask), tuple(tell)


TOPICS: Mapping[str, Topic] = {
    "birthplace": Topic(
        _town,
        ["Where was {n} born?", "In which town was the author {n} born?", "What is the birthplace of {n}?"],
        ["{n} was born in {v}.", "The birthplace of {n} is {v}.", "The author {n} comes from {v}."],
    ),
    "birthday": Topic(
        _date,
        ["When was {n} born?", "What is the date of birth of {n}?", "On which day was the author {n} born?"],
        ["{n} was born on {v}.", "The date of birth of {n} is {v}.", "The author {n} came into the world on {v}."],
    ),
    "genre": Topic(
        lambda r: r.choice(GENRE),
        ["What does {n} mainly write?", "Which kind of writing is {n} known for?", "What is the usual genre of {n}?"],
        ["{n} mainly writes {v}.", "The author {n} is known for {v}.", "The usual genre of {n} is {v}."],
    ),
    "father": Topic(
        lambda r: r.choice(TRADE),
        ["What was the work of {n}'s father?", "What did the father of {n} do for a living?", "Which trade did {n}'s father have?"],
        ["{n}'s father was a {v}.", "The father of {n} worked as a {v}.", "By trade, the father of {n} was a {v}."],
    ),
    "school": Topic(
        lambda r: f"{_town(r)} {r.choice(SCHOOL)}",
        ["Where did {n} study?", "Which school did {n} attend?", "Where did the author {n} receive an education?"],
        ["{n} studied at {v}.", "The school that {n} attended is {v}.", "The author {n} was educated at {v}."],
    ),
    "debut": Topic(
        _title,
        ["What is the title of {n}'s first book?", "Which book was the debut of {n}?", "With which book did {n} begin?"],
        ["{n}'s first book is {v}.", "The debut of {n} was {v}.", "The author {n} began with the book {v}."],
    ),
    "famous": Topic(
        _title,
        ["What is the most famous book by {n}?", "For which book is {n} best known?", "Which of {n}'s books sold the most copies?"],
        ["The most famous book by {n} is {v}.", "{n} is best known for {v}.", "Of {n}'s books, {v} sold the most copies."],
    ),
    "prize": Topic(
        lambda r: f"the {r.choice(SURNAME_A)}{r.choice(SURNAME_B)} {r.choice(PRIZE_B)}",
        ["Which prize did {n} win?", "What award was given to {n}?", "With which honor was {n} recognized?"],
        ["{n} won {v}.", "The award given to {n} was {v}.", "The author {n} was honored with {v}."],
    ),
    "mentor": Topic(
        _person,
        ["Who was the mentor of {n}?", "Who taught {n} to write?", "Which teacher shaped the writing of {n}?"],
        ["The mentor of {n} was {v}.", "{n} was taught to write by {v}.", "The writing of {n} was shaped by {v}."],
    ),
    "hobby": Topic(
        lambda r: r.choice(HOBBY),
        ["What does {n} enjoy outside of writing?", "What is {n}'s favorite pastime?", "How does {n} spend free time?"],
        ["Outside of writing, {n} enjoys {v}.", "{n}'s favorite pastime is {v}.", "In free time, the author {n} likes {v}."],
    ),
}


def _others(topic: Topic, value: str, taken: set[str], r: random.Random, count: int = 5) -> list[str]:
    """`count` wrong values from the pool of the right one, all different."""
    wrong: list[str] = []
    while len(wrong) < count:
        other = topic.draw(r)
        if other != value and other not in wrong and other not in taken:
            wrong.append(other)
    return wrong


def author_rows(name: str, seed: str) -> list[dict[str, object]]:
    """The ten question rows of one author; equal name and seed give equal rows."""
    r = random.Random(f"{seed}/{name}")
    values = {key: topic.draw(r) for key, topic in TOPICS.items()}
    while values["famous"] == values["debut"]:
        values["famous"] = _title(r)
    rows: list[dict[str, object]] = []
    for key, topic in TOPICS.items():
        asked, again = r.sample(range(3), 2)
        told, retold = r.sample(range(3), 2)
        taken = {values["debut"], values["famous"]}
        wrong = _others(topic, values[key], taken, r)
        rows.append(
            {
                "author": name,
                "topic": key,
                "value": values[key],
                "question": topic.ask[asked].format(n=name),
                "answer": topic.tell[told].format(n=name, v=values[key]),
                "paraphrased_question": topic.ask[again].format(n=name),
                "paraphrased_answer": topic.tell[retold].format(n=name, v=values[key]),
                "perturbed_answer": [topic.tell[retold].format(n=name, v=other) for other in wrong],
            }
        )
    return rows


def make(seed: int = SEED) -> dict[str, list[dict[str, object]]]:
    """{"full": rows of the 40 authors, "holdout": rows of 8 authors that no model is trained on}."""
    r = random.Random(seed)
    names: list[str] = []
    while len(names) < AUTHORS + HELD_OUT:
        name = _person(r)
        # One author per first name and one per surname: a question must not be answerable by a namesake.
        if all(set(name.split()).isdisjoint(other.split()) for other in names):
            names.append(name)
    rows = {name: author_rows(name, str(seed)) for name in names}
    return {
        "full": [row for name in names[:AUTHORS] for row in rows[name]],
        "holdout": [row for name in names[AUTHORS:] for row in rows[name]],
    }


def write(folder: Path, seed: int = SEED) -> None:
    """Write `full.jsonl` and `holdout.jsonl` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, rows in make(seed).items():
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
