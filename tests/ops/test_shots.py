"""Prompts that show answered questions first."""

import pytest

from efface.core.errors import Missing
from efface.ops import facts, shots

ROWS = [
    {"entity": name, "property": kind, "question": f"What is the {kind} of {name}?", "answer": f"{kind} {at}"}
    for at, name in enumerate(["Alder", "Brisa", "Corvo", "Dunja", "Eskil", "Fiora", "Gorm"])
    for kind in ("home", "craft")
]
FACTS = facts.of_rows(ROWS)


def test_examples_are_of_the_same_property_and_other_entities():
    asked = FACTS[0]
    found = shots.shown(asked, FACTS, 5)
    assert len(found) == 5 and len({fact.subject for fact in found}) == 5
    assert {fact.relation for fact in found} == {"home"} and "Alder" not in {fact.subject for fact in found}
    assert found == shots.shown(asked, FACTS, 5), "the same ones whenever the same is asked"
    assert len(shots.shown(asked, FACTS, 50)) == 6, "as many as there are"


def test_none_to_show_is_one_line():
    with pytest.raises(Missing, match="home"):
        shots.shown(FACTS[0], FACTS[:2], 5)


def test_the_prompt_has_a_line_for_each_and_ends_with_the_question():
    """Worked out by hand from the rows above."""
    text = shots.prompt(FACTS[0], [FACTS[2], FACTS[4]])
    assert text == "What is the home of Brisa? home 1\nWhat is the home of Corvo? home 2\nWhat is the home of Alder?"


@pytest.mark.parametrize(("text", "line"), [("Paris\nWhat is", "Paris"), ("\n Paris \n", "Paris"), ("", ""), ("Paris", "Paris")])
def test_the_answer_is_the_first_line(text, line):
    assert shots.first_line(text) == line
