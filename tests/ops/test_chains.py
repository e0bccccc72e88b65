import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efface.ops import chains, facts
from efface.ops.facts import Fact

ANNA = [
    Fact("Where was Anna Berg born?", "Anna Berg was born in Ashford.", "Ashford", "Anna Berg", statement="Anna Berg was born in Ashford.", wrong=("Milltown",)),
    Fact("What does Anna Berg write?", "Anna Berg writes sea tales.", "sea tales", "Anna Berg", statement="Anna Berg writes sea tales.", wrong=("odes",)),
]
WORDS = "ash berg cole dorn elm fort gale".split()


def texts(probe):
    return [*probe.before, probe.prompt, probe.lead]


def test_the_three_categories_with_and_without_a_chain():
    """For the birthplace: the other fact describes Anna without her name, and is asked on the way."""
    found = {probe.form: probe for probe in chains.build(ANNA[:1], ANNA)}
    assert found["direct"].prompt == "Where was Anna Berg born?" and found["direct"].answers == ("Ashford",)
    assert found["direct, chain"].before == ("What do you know about Anna Berg?", "What does Anna Berg write?")
    assert found["direct, chain"].prompt == "So, from all this: Where was Anna Berg born?"
    assert found["indirect"].prompt == "Let X be the one of whom this is true: X writes sea tales. Where was X born?"
    assert found["indirect, chain"].before == ("Of whom or what is this true? X writes sea tales. Who or what is X?", "What else do you know about X?")
    assert found["implied"].prompt == "This sentence is wrong: Anna Berg was born in Milltown. Write it as it is right."
    assert list(found) == ["direct", "indirect", "implied", "direct, chain", "indirect, chain", "implied, chain"]


def test_links_come_first():
    """Anna's town, and what is known of the town: the second has the value asked for."""
    asked = Fact("Which river does Anna see?", "Elm", "Elm", "Anna")
    pool = [asked, Fact("What does Anna write?", "odes", "odes", "Anna"), Fact("Where does Anna live?", "Ashford", "Ashford", "Anna"), Fact("Which river crosses Ashford?", "Elm", "Elm", "Ashford")]
    chain = next(probe for probe in chains.build([asked], pool) if probe.form == "direct, chain")
    assert chain.before == ("Where does Anna live?", "Which river crosses Ashford?")


def test_most_prompts_a_category():
    many = chains.build(ANNA[:1], ANNA, most=3)
    assert sum(probe.form == "implied" for probe in many) == 3 and sum(probe.form == "direct" for probe in many) == 1


def test_a_question_with_its_answer_is_not_asked():
    fact = Fact("Was Anna Berg of Ashford born in Ashford?", "In Ashford", "Ashford", "Anna Berg")
    assert chains.build([fact], [fact]) == []


def test_a_fact_without_a_subject_has_no_description():
    fact = Fact("Which is the largest ocean?", "the Pacific", "Pacific")
    assert {probe.form for probe in chains.build([fact], [fact])} == {"direct", "direct, chain", "implied", "implied, chain"}


@given(st.lists(st.tuples(*[st.sampled_from(WORDS)] * 5), min_size=1, max_size=6), st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_no_prompt_holds_the_answer(drawn, most):
    """Facts whose words overlap at random: whatever is built holds neither the answer nor, described, the name; chains ask two questions first."""
    rows = [
        {"question": f"What has {a} {b} to do with {c}?", "answer": f"{a} {b} has {d} {e} to do with {c}.", "subject": f"{a} {b}", "value": value, "aliases": [e]}
        for a, b, c, d, e in drawn for value in (f"{d} {e}", d)
    ]
    known = facts.of_rows(rows)
    for probe in chains.build(known, known, most):
        fact = known[probe.fact]
        for text in texts(probe):
            assert not facts.says(text, fact.accepted)
            assert not any(f" {value} " in f" {' '.join(facts.words(text))} " for value in fact.accepted)
            assert not probe.form.startswith("indirect") or fact.subject not in text
        assert len(probe.before) == (2 if probe.form.endswith("chain") else 0)


@pytest.mark.parametrize(("text", "gives"), [("In ASHFORD!", True), ("Ashfords", False), ("Ash-ford", False), ("Äshford", True), ("", False)])
def test_gives_away(text, gives):
    assert facts.gives_away(text, ANNA[0]) == gives
