"""Items, their prompt, keys and what letters say; numbers by hand."""

import numpy as np
import pytest

from efface.core.errors import BadRows
from efface.ops import facts, multiple_choice, probes
from efface.ops.multiple_choice import (
    Item,
    by_group,
    centered,
    cloze,
    entropy,
    histogram,
    hits,
    of_row,
    picks,
    placed,
    prompt,
    stuck,
    to_row,
    weighted,
)
from efface.testing import tiny

ROW = {"question": "Which is a root?", "choices": ["fig", "leek", "beet", "plum"], "answer": 2}


def test_the_prompt_is_that_of_the_harness():
    item = of_row({**ROW, "subject": "plant_names"})
    assert prompt(item) == (
        "The following are multiple choice questions (with answers) about plant names.\n\n"
        "Which is a root?\nA. fig\nB. leek\nC. beet\nD. plum\nAnswer:"
    )
    assert prompt(of_row(ROW)).startswith("The following are multiple choice questions (with answers).\n\nWhich")
    assert cloze(item) == "Question: Which is a root?\nAnswer:"


@pytest.mark.parametrize("answer", [2, "2", "C", "c", "beet"])
def test_a_key_is_a_position_a_letter_or_a_choice(answer):
    assert of_row({**ROW, "answer": answer}).right == 2


def test_the_text_of_a_choice_comes_before_its_number():
    assert of_row({"question": "1 + 1?", "choices": ["1", "2", "3", "4"], "answer": "2"}).right == 1
    assert of_row({"question": "1 + 1?", "choices": ["1", "2", "3", "4"], "answer": 2}).right == 2


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({**ROW, "answer": 4}, "the answer '4' is none of 4 choices"), ({**ROW, "answer": "E"}, "'E' is none of 4"), ({**ROW, "answer": None}, "none of 4"),
        ({**ROW, "answer": -1}, "'-1'"), ({**ROW, "choices": ["fig"]}, "1 choices"), ({**ROW, "choices": "fig"}, "0 choices"), ({**ROW, "question": " "}, "needs a question"),
    ],
)
def test_rows_that_are_no_multiple_choice_are_refused_by_name(row, says):
    with pytest.raises(BadRows, match=f"row 7: .*{says}"):
        of_row(row, "row 7")


def test_a_row_and_back():
    item = of_row({**ROW, "subject": "plant_names"})
    row = to_row(item)
    assert of_row(row) == item
    assert row["answer"] == "beet" and row["perturbed_answer"] == ["fig", "leek", "plum"]


def test_probes_and_items_are_one_thing():
    """The multiple choice among the forms of a fact has the options, the order and the lines of the item."""
    known = facts.of_rows(tiny.facts().forget)
    for fact, probe in zip(known, probes.ask("multiple_choice", known), strict=True):
        item = probes.item(fact, known)
        assert item == placed(fact.question, fact.value, probes.distractors(fact, known))
        assert probe.options == item.options and probe.answers == ("ABCD"[item.right], item.options[item.right])
        assert probe.prompt == f"{multiple_choice.lettered(item.question, item.options)}\nAnswer with the letter."


def test_places_of_the_right_option_are_spread():
    places = [placed(f"Question {at}?", "right", ["x", "y", "z"]).right for at in range(400)]
    assert min(histogram(places, 4).values()) > 0.18


def test_picks_hits_and_groups_by_hand():
    """Groups: a has 2 of 3, b has 0 of 1; sum n_i acc_i / sum n_i = 2/4, where the plain mean of groups would be 1/3."""
    items = [Item(str(at), ("p", "q"), right, group) for at, (right, group) in enumerate([(0, "a"), (1, "a"), (1, "a"), (0, "b")])]
    picked = picks([[-1, -2], [-3, -1], [-1, -1], [-5, -4]])
    assert picked.tolist() == [0, 1, 0, 1]
    right = hits(items, picked)
    assert right.tolist() == [1, 1, 0, 0]
    groups = by_group(items, right)
    assert groups == {"a": (pytest.approx(2 / 3), 3), "b": (0.0, 1)}
    assert weighted(groups) == pytest.approx(0.5) == right.mean()


def test_entropy_and_histogram_by_hand():
    assert histogram([0, 0, 1, 3], 4) == {"A": 0.5, "B": 0.25, "C": 0.0, "D": 0.25}
    assert entropy([0.5, 0.25, 0.0, 0.25]) == 1.5
    assert entropy([1.0, 0.0]) == 0.0


def test_stuck_is_of_the_model_and_not_of_the_key():
    key = np.array([0, 1, 2, 3] * 5)
    assert stuck(np.zeros(20, int), key, 4) == "A"
    assert stuck(np.array([0] * 17 + [1] * 3), key, 4) == ""
    assert stuck(np.zeros(20, int), np.zeros(20, int), 4) == ""


def test_centered_by_hand():
    """Means -1, -3 and, of the one question that has it, -5: what is left of (0, -4) is (1, -1)."""
    assert centered([[0, -4], [-2, -2, -5]]) == [[1, -1], [-1, 1, 0]]
