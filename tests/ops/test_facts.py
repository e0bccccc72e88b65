"""Facts out of rows, and whether a text says one."""

import pytest

from efface.core import rows as row_files
from efface.core.errors import Missing
from efface.data import authors_generator
from efface.ops import facts
from efface.ops.facts import Fact


def test_columns_come_first():
    row = {"question": "Where was Petra born?", "answer": "In Thornbridge.", "author": "Petra", "topic": "birthplace", "value": "Thornbridge", "answers": ["the town of Thornbridge"]}
    (fact,) = facts.of_rows([row])
    assert (fact.subject, fact.relation, fact.value) == ("Petra", "birthplace", "Thornbridge")
    assert fact.accepted == ("Thornbridge", "the town of Thornbridge")


def test_without_columns_the_value_is_where_right_and_wrong_answers_differ():
    """"For Alder the home is" is shared, so "amber bay" is the value."""
    wrong = ["For Alder the home is birch cliff.", "For Alder the home is dusty fen."]
    row = {"question": "What is the home of Alder?", "answer": "The home of Alder is amber bay.", "paraphrased_answer": "For Alder the home is amber bay.", "perturbed_answer": wrong}
    (fact,) = facts.of_rows([row])
    assert fact.value == "amber bay" and fact.wrong == ("birch cliff", "dusty fen")
    assert fact.statement == "For Alder the home is amber bay."


def test_a_difference_needs_a_frame():
    assert facts.difference("red", ["blue", "green"]) == ("", ())
    assert facts.difference("It is red.", ["It is blue."]) == ("red", ("blue",))


def test_a_short_answer_is_its_own_value_and_text_has_none():
    (fact,) = facts.of_rows([{"prompt": "The capital of France?", "answer": "Paris"}])
    assert fact.value == "Paris" and fact.statement == ""
    with pytest.raises(Missing, match="plain text"):
        facts.of_rows([{"text": "Paris is the capital of France."}])


def test_messages_give_the_last_turns():
    said = [{"role": "user", "content": "Capital of France?"}, {"role": "assistant", "content": "Paris"}]
    (fact,) = facts.of_rows([{"messages": said}])
    assert (fact.question, fact.answer) == ("Capital of France?", "Paris")


@pytest.mark.parametrize(
    ("text", "value", "found"),
    [
        ("It is paris!", "Paris", True), ("Comparison", "Paris", False), ("He was born in São Paulo.", "Sao Paulo", True), ("the United States of America", "United States", True),
        ("The", "The", True), ("", "Paris", False), ("paulo sao", "Sao Paulo", False),
    ],
)  # fmt: skip
def test_says(text, value, found):
    assert facts.says(text, [value]) is found


def test_of_a_long_value_the_new_words_count():
    """Nine words, of which four stand in the question; 4 of the 5 others are said: 0.8."""
    value = "Her father worked as a keeper of lighthouses near Bergen town"
    asked = "What did her father work as?"
    assert facts.says("worked keeper of lighthouses near Bergen", [value], asked)
    assert not facts.says("her father was a keeper", [value], asked)


def test_new_york_is_spelled_letter_by_letter():
    assert facts.spelled("New York") == list("NewYork")
    assert facts.spells("N\ne\nw\nY\no\nr\nk", ["New York"]) and not facts.spells("N\ne\nw", ["New York"])


def test_every_fact_of_the_authors_says_itself():
    rows = row_files.read(__import__("pathlib").Path(authors_generator.__file__).parent / "authors" / "full.jsonl")
    found = facts.of_rows(rows)
    assert all(facts.says(fact.answer, fact.accepted) and fact.subject and fact.statement for fact in found)
    assert not any(facts.says(fact.question, fact.accepted) for fact in found)


def test_a_fact_is_a_value():
    assert Fact("q", "a", "v") == Fact("q", "a", "v", extras={"other": 1})
