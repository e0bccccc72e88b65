import numpy as np
import pytest

from efface.attacks.zlib import Zlib, per_byte
from efface.families.causal_lm import RowScore
from efface.testing.tiny import context, facts, retrained_lm, trained_lm


def row(log_probs, text):
    size = len(log_probs)
    return RowScore(np.array(log_probs), np.zeros(size), np.ones(size), np.zeros(size, bool), False, text)


def test_formula():
    """Mean loss 3.8 over the 19 bytes that "hello world" compresses to: s = -0.2."""
    assert per_byte(row([-3.8, -3.8], "hello world")) == pytest.approx(-0.2, abs=1e-9)
    assert per_byte(row([], "")) is None


def test_dull_text_of_equal_loss_is_less_of_a_member():
    """Text that compresses well explains a low loss by itself."""
    assert per_byte(row([-1.0], "a" * 40)) < per_byte(row([-1.0], "quick brown foxes jump over the lazy dog"))


def test_the_text_is_the_answer_without_prompt_and_end():
    found = list(trained_lm().score(facts().forget[:1]))
    assert found[0][1].text.replace(" ", "") == facts().forget[0]["answer"].replace(" ", "")


def test_finds_members_where_there_are_any(over):
    request, ctx = facts().request, context(baselines={"reference": retrained_lm()})
    assert Zlib().run(trained_lm(), request, ctx).value > 0.9
    assert Zlib().run(retrained_lm(), request, ctx).value == pytest.approx(0.5, abs=0.2)
    assert Zlib().run(over, request, ctx).value < 0.1
