"""Texts cut into halves, few-shot prompts and stop strings; ROUGE-L F without a stemmer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from efface.ops import reciting, text_stats


def test_halves_are_the_text_again():
    assert reciting.halves("one two three four") == ("one two", " three four")
    assert reciting.halves("one two\nthree") == ("one two", "\nthree")
    assert reciting.halves("one two") == ("one", " two")
    assert reciting.halves("alone") == ("", "alone")


@given(st.text(alphabet="ab \n", max_size=40))
def test_nothing_is_lost_between_the_halves(text):
    begun, rest = reciting.halves(text)
    assert begun + rest == text
    if len(text.split()) > 1:
        assert 0 <= len(rest.split()) - len(begun.split()) <= 1 or len(begun.split()) - len(rest.split()) == 1


def test_the_published_few_shot_prompt():
    assert reciting.few_shot([("Who?", "Anne"), ("Where?", "Bath")], "When?") == (
        "Question: Who?\nAnswer: Anne\n\nQuestion: Where?\nAnswer: Bath\n\nQuestion: When?\nAnswer: "
    )
    assert reciting.few_shot([], "When?") == "Question: When?\nAnswer: "


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("Paris\n\nQuestion: x", "Paris"), ("Paris\nQuestion 2", "Paris"), ("ParisQuestion: x", "Paris"), (" Paris\nFrance ", "Paris\nFrance"),
        ("\n\nParis", ""), ("Question: who", ""), ("", ""),
    ],
)
def test_an_answer_ends_where_the_next_question_begins(said, kept):
    assert reciting.until(said) == kept


def test_rouge_l_f_by_hand():
    """"the cats sat" against "the cat sat down": without a stemmer the longest common subsequence is "the sat", so recall is 2/4,
    precision 2/3, and F = 2 * (2/3) * (1/2) / (2/3 + 1/2) = 4/7. With a stemmer it would be 3, and F = 6/7. Case is folded."""
    assert text_stats.rouge_l_f(["The cats SAT"], ["the cat sat down"])[0] == pytest.approx(4 / 7, abs=1e-12)
    assert text_stats.rouge_l_f(["a b", "", "a b"], ["a b", "a b", "c"]) == [1.0, 0.0, 0.0]
