"""The forms in which facts are asked."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from efface.core.errors import UnknownName
from efface.ops import probes
from efface.ops.facts import Fact
from efface.ops.languages import TEMPLATES

HOME = Fact("Where was Petra born?", "Petra was born in Thornbridge.", "Thornbridge", "Petra", "birthplace", wrong=("Millstow", "Driftby", "Saltport"), statement="Petra was born in Thornbridge.", again=("What is Petra's birthplace?",))
TRADE = Fact("What does Petra do?", "Petra bakes.", "baking", "Petra", "trade", statement="Petra lives by baking.")
BARE = Fact("Capital of France?", "Paris", "Paris")
FACTS = [HOME, TRADE, BARE]


def one(form, fact=HOME):
    (probe,) = (probe for probe in probes.ask(form, FACTS) if FACTS[probe.fact] is fact)
    return probe


def test_every_form_of_a_full_fact():
    """Golden prompts."""
    assert one("question").prompt == "Where was Petra born?" and one("question").target == HOME.answer
    assert one("paraphrase").prompt == "What is Petra's birthplace?"
    assert one("cloze").prompt == "Please complete the blank in the sentence. Petra was born in ___."
    assert one("reverse").prompt == "Who or what belongs into the blank? ___ was born in Thornbridge." and one("reverse").answers == ("Petra",)
    assert one("context").prompt == "Question: What does Petra do?\nAnswer: baking\nQuestion: Where was Petra born?"
    assert one("hint").prompt == "Petra lives by baking. Where was Petra born?"
    assert one("suffix").prompt.endswith("Sure, here is the answer:")
    assert one("language").prompt.removeprefix("Please answer in English. ") in [text.replace("{}", "Petra") for text in TEMPLATES["birthplace"].values()]
    assert one("chain").before[0] == "What do you know about Petra?"
    assert one("spelled").answers == ("T\nh\no\nr\nn\nb\nr\ni\nd\ng\ne",)
    assert set(probes.ADVERSARIAL) < set(probes.FORMS)


def test_a_fact_is_asked_in_the_forms_that_it_can_take():
    forms = {form for form in probes.FORMS if any(FACTS[p.fact] is BARE for p in probes.ask(form, FACTS))}
    assert forms == {"question", "spelled", "prefix", "suffix", "role_play"}
    with pytest.raises(UnknownName, match="cloze"):
        probes.ask("clozes", FACTS)


def test_a_multiple_choice_holds_the_right_value_once():
    probe = one("multiple_choice")
    assert sorted(probe.options) == sorted(("Thornbridge", *HOME.wrong))
    assert probe.options["ABCD".index(probe.answers[0])] == "Thornbridge"
    assert probe.prompt.count("Thornbridge") == 1 and "A. " in probe.prompt


def test_distractors_are_filled_up_with_values_of_the_same_relation_and_never_with_a_right_one():
    others = [Fact("q", "a", value, f"person {value}", "birthplace") for value in ("thornbridge", "Fen", "Dale")]
    thin = Fact("Where?", "a", "Thornbridge", "Petra", "birthplace", wrong=("Millstow",))
    assert probes.distractors(thin, [thin, *others]) == ["Millstow", "Fen", "Dale"]


def test_the_rows_own_wording_comes_first():
    fact = Fact("q?", "a", "v", "S", extras={"cloze": "It is ___ here.", "reverse_question": "Whose is v?", "questions": {"fr": "Quoi ?"}})
    assert probes.ask("cloze", [fact])[0].prompt.endswith("It is ___ here.")
    assert probes.ask("reverse", [fact])[0].prompt == "Whose is v?"
    assert probes.ask("language", [fact])[0].prompt == "Please answer in English. Quoi ?"


@pytest.mark.parametrize(("text", "found"), [("A", True), ("(A) it is", True), ("The answer is A.", True), ("B", False), ("It is one", True), ("It is one, or two", False), ("Answer: B. one", False)])
def test_letters_and_texts_of_a_choice(text, found):
    assert probes.right(text, probes.choice("Which?", ["one", "two", "three", "four"], 0)) is found


def test_spelled_letters_count():
    assert probes.right("T h o r n b r i d g e", one("spelled")) and not probes.right("T\nh\no", one("spelled"))


def test_a_blank_needs_the_whole_word():
    assert probes.blanked("Petra is in Petrapolis", "Petra") == "___ is in Petrapolis"
    assert probes.blanked("Petrapolis", "Petra") == "" and probes.blanked("any", "") == ""


@given(st.text(alphabet=string.ascii_letters + " ", min_size=1, max_size=30), st.text(alphabet=string.ascii_letters, min_size=3, max_size=12))
def test_no_form_gives_the_answer_away_but_the_choice(subject, value):
    """Forms about a subject whose facts do not name the value keep it out of the prompt; a multiple choice must hold it."""
    fact = Fact(f"What of {subject.strip()}?", f"It is qq{value}qq", f"qq{value}qq", subject.strip(), "birthplace", wrong=("a1", "b2", "c3"), statement=f"{subject.strip()} has qq{value}qq.")
    for form in probes.FORMS:
        for probe in probes.ask(form, [fact]):
            if form not in ("multiple_choice", "reverse"):
                assert f"qq{value}qq" not in " ".join((*probe.before, probe.prompt, probe.lead))


def test_the_row_of_a_probe_has_its_beginning():
    assert one("cloze").row == {"prompt": one("cloze").prompt, "answer": "Thornbridge", "prefill": "Answer:"}
    assert one("question").row == {"prompt": HOME.question, "answer": HOME.answer}
