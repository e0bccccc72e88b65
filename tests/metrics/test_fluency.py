import pytest

from efface.core.types import Data, Request
from efface.metrics.fluency import TASKS, Fluency
from efface.ops.text_stats import fluency, tokens
from efface.testing.tiny import context, facts, tiny_lm, trained_lm


def test_entropy_by_hand():
    """"a b a b": pairs ab twice, ba once, H2 = 0.918296; triples aba, bab, H3 = 1: (2/3 H2 + 4/3 H3) / 2 = 0.972765."""
    assert fluency("a b a b".split()) == pytest.approx(0.972765, abs=5e-7)
    assert fluency(["a"] * 50) == 0.0
    assert fluency([]) == fluency(["a"]) == 0.0
    # four different triples and five different pairs: (2/3 log2 5 + 4/3 log2 4) / 2
    assert fluency("a b c d e f".split()) == pytest.approx((2 / 3 * 2.321928 + 4 / 3 * 2.0) / 2, abs=1e-6)


def test_marks_are_tokens_of_their_own():
    assert tokens("It's late, isn't it?") == ["It's", "late", ",", "isn't", "it", "?"]


class Says:
    """A subject that says one text to everything."""

    family, shields = "causal-lm", ()

    def __init__(self, text):
        self.text, self.origin = text, f"says {text!r}"

    def generate_each(self, prompts, max_new):
        return ((place, self.text) for place in range(len(prompts)))


def test_stuttering_and_silence_score_zero():
    request = Request(names=("x",))
    for text, empty in (("word " * 60, 0.0), ("", 1.0)):
        found = Fluency().run(Says(text), request, context())
        assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)
        assert found.parts["empty_answers"] == empty and found.n == len(TASKS)
    assert Fluency().run(Says("a b a b"), request, context()).value == pytest.approx(0.972765, abs=5e-7)


def test_any_row_set_can_be_answered():
    request = facts().request
    found = Fluency.set({"on": "keep", "rows": 6, "max_new": 8}).run(trained_lm(), request, context())
    assert found.n == 6 and found.value > 1 and found.low <= found.value <= found.high
    named = Fluency.set({"on": "tasks", "max_new": 8}).run(trained_lm(), request, context(sets={"tasks": Data.inline(facts().unseen[:2])}))
    assert named.n == 2


def test_random_weights_are_not_told_from_fluent_ones_and_the_card_says_so():
    noise = Fluency.set({"on": "keep", "rows": 6, "max_new": 8}).run(tiny_lm(), facts().request, context())
    fluent = Fluency.set({"on": "keep", "rows": 6, "max_new": 8}).run(trained_lm(), facts().request, context())
    assert noise.value > 0.5 * fluent.value
    assert "Random words score highest" in Fluency.card.departs
