import pytest

from efface.metrics.repetition import Repetition
from efface.testing.tiny import context, facts, trained_lm


class Says:
    """A model that gives fixed answers."""

    family, shields, origin = "causal-lm", (), "fixed"

    def __init__(self, *answers):
        self.answers = answers

    def generate_each(self, rows, max_new):
        return ((place, self.answers[place % len(self.answers)]) for place in range(len(rows)))


def test_formula():
    """ "and and and and": 2 of 3 pairs repeated, entropy 0. "born in Paris": none of 2, entropy 1. "" repeats nothing, but is counted."""
    rows = facts()
    found = Repetition().run(Says("and and and and", "Born in Paris", "", "And"), rows.request, context())
    assert found.value == pytest.approx((2 / 3) / 4)
    assert found.parts == {"ngram_entropy": pytest.approx(0.5), "words": 2.0, "empty_answers": 0.25}
    assert found.table[1] == {"row": 1, "value": 0.0, "words": 3}


def test_words_of_the_gram_are_a_setting():
    assert Repetition.set({"n": 1}).run(Says("no no yes"), facts().request, context()).value == pytest.approx(1 / 3)


def test_a_model_that_speaks_does_not_stutter():
    found = Repetition().run(trained_lm(), facts().request, context())
    assert found.value < 0.05 and found.parts["empty_answers"] == 0.0 and found.parts["words"] > 5


def test_a_model_that_says_nothing_has_no_entropy():
    found = Repetition().run(Says(""), facts().request, context())
    assert found.parts["ngram_entropy"] is None and found.parts["empty_answers"] == 1.0
