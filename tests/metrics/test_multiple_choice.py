"""Accuracy by letters and by texts, on models whose likelihoods are known.

Hand figures: four questions with keys A, B, C, D; a model that likes B most, whatever is asked, has 1 of 4. With log-likelihoods
(-1, -2, -3, -4) on the first two and (-4, -3, -2, -1) on the others it picks A, A, D, D: right on the first and the last, 0.5.
"""

import random

import numpy as np
import pytest

from efface.core.errors import BadRows, Missing
from efface.core.types import Data, Request
from efface.families import harness
from efface.families.decoder import RowScore
from efface.metrics.multiple_choice import MultipleChoice
from efface.ops import multiple_choice
from efface.testing.tiny import context, facts, tiny_lm, trained_lm

FOUR = [{"question": f"Question {at}?", "choices": [f"{at}-{option}" for option in range(4)], "answer": at} for at in range(4)]


class Toy:
    """A model whose log-likelihood of a text is a function of what stands before it."""

    shields = ()
    digest = ""

    def __init__(self, likes):
        self.likes, self.origin, self.read = likes, f"toy {id(likes)}", 0

    def score(self, rows):
        self.read += 1
        for at, row in enumerate(rows):
            value = np.array([float(self.likes(str(row["given"]), str(row["text"]).strip()))])
            yield at, RowScore(value, value, value, value > 0, False, str(row["text"]))


def measured(likes, rows=FOUR, settings=None, **changes):
    """The measurement of a model that likes some letters and texts."""
    request = Request(forget=Data.inline(rows), keep=changes.pop("keep", None))
    return MultipleChoice.set(settings or {}).run(Toy(likes), request, context(**changes))


def test_known_letter_logits_give_the_hand_accuracy():
    scores = {"Question 0": (-1, -2, -3, -4), "Question 1": (-1, -2, -3, -4), "Question 2": (-4, -3, -2, -1), "Question 3": (-4, -3, -2, -1)}

    def likes(given, text):
        return scores[given.split("?")[0].splitlines()[-1]]["ABCD".index(text)] if text in "ABCD" else 0

    found = measured(likes, settings={"cloze": False})
    assert (found.value, found.n) == (0.5, 4) and found.low < 0.5 < found.high and found.why == ""
    assert [row["picked"] for row in found.table] == ["A", "A", "D", "D"] and [row["right"] for row in found.table] == list("ABCD")
    assert found.table[0]["letters"] == [-1, -2, -3, -4]
    assert {letter: found.parts[f"letter {letter}"] for letter in "ABCD"} == {"A": 0.5, "B": 0.0, "C": 0.0, "D": 0.5}
    assert found.parts["letter entropy"] == 1.0 and found.parts["key entropy"] == 2.0 and found.parts["chance"] == 0.25
    # The least likely letters are D, D, A, A, and none of them is right.
    assert found.parts["last"] == 0.0 and found.parts["stuck"] == 0.0 and "cloze" not in found.parts


def test_the_whole_set_is_one_pass():
    toy = Toy(lambda given, text: len(text))
    MultipleChoice.set({"cloze": False}).run(toy, Request(forget=Data.inline(FOUR)), context())
    assert toy.read == 1


def test_always_a_is_flagged():
    found = measured(lambda given, text: 1 if text == "A" else 0, rows=FOUR * 10)
    assert found.value == 0.25 and found.parts["stuck"] == 1.0 and found.parts["letter A"] == 1.0 and found.parts["letter entropy"] == 0.0
    assert found.why.startswith("A is the answer to 100% of the questions")
    assert found.parts["centered"] == 0.25
    liked = measured(lambda given, text: 5 * (text == "A") + (text == "ABCD"[int(given.split("?")[0][-1])]), rows=FOUR * 10, settings={"cloze": False})
    assert liked.parts["stuck"] == 1.0 and liked.value == 0.25 and liked.parts["centered"] == 1.0, "behind the letter it knows every answer"
    always = [{**row, "answer": 0} for row in FOUR] * 10
    assert measured(lambda given, text: 1 if text == "A" else 0, rows=always).why == "", "where A is the key, saying A is no fault"


def test_accuracy_below_chance_is_flagged_as_knowledge():
    """A model that likes every option but the right one: 0 of 40, the right letter is always the least likely."""
    key = {row["question"]: "ABCD"[row["answer"]] for row in FOUR}

    def likes(given, text):
        return -1 if text == key.get(given.split("\n")[2]) else "ABCD".find(text)

    found = measured(likes, rows=FOUR * 10, settings={"cloze": False})
    assert found.value == 0.0 and found.parts["inverted"] == 1.0 and found.parts["last"] == 1.0 and "below chance (0.25)" in found.why
    assert measured(lambda given, text: random.Random(given + text).random(), rows=FOUR).parts["inverted"] == 0.0


def test_permuting_options_with_the_key_changes_nothing_for_a_symmetric_model():
    """Symmetric: a letter is liked for the text that stands behind it."""
    def worth(text):
        return random.Random(text).random()

    def likes(given, text):
        lines = dict(line.split(". ", 1) for line in given.splitlines() if line[1:3] == ". ")
        return worth(lines.get(text, text))

    rows = [{"question": f"Question {at}?", "choices": [f"{at}-{option}" for option in range(4)], "answer": at % 4} for at in range(60)]
    source, turned = random.Random(1), []
    for row in rows:
        order = source.sample(range(4), 4)
        turned.append({**row, "choices": [row["choices"][at] for at in order], "answer": order.index(row["answer"])})
    one, other = measured(likes, rows), measured(likes, turned)
    assert one.value == other.value and 0 < one.value < 1
    assert [row["value"] for row in one.table] == [row["value"] for row in other.table]
    assert one.parts["cloze"] == other.parts["cloze"] == one.value, "without letters the texts are the same, too"


def test_groups_are_weighted_by_size():
    """sum n_i acc_i / sum n_i: 3 of 4 in a, 0 of 1 in b give 0.6, where the mean of groups would be 0.375."""
    rows = [{**FOUR[0], "question": f"{at}?", "answer": 0 if at < 3 else 1, "subject": "a" if at < 4 else "b"} for at in range(5)]
    found = measured(lambda given, text: text == "A", rows)
    groups = {name: (found.parts[f"group {name}"], int(found.parts[f"group {name} n"])) for name in "ab"}
    assert groups == {"a": (0.75, 4), "b": (0.0, 1)}
    assert found.value == pytest.approx(0.6) == multiple_choice.weighted(groups)


def test_the_line_before_names_the_subject():
    prompts = set()
    measured(lambda given, text: prompts.add(given) or 0, [{**FOUR[0], "subject": "college_biology"}])
    assert any(prompt.startswith("The following are multiple choice questions (with answers) about college biology.\n\nQuestion 0?\nA. 0-0\n") for prompt in prompts)
    assert "Question: Question 0?\nAnswer:" in prompts


def test_texts_are_normalized_by_length():
    """The mean log-probability per token: a long option is no worse for being long."""
    subject, rows = trained_lm(), facts().forget
    found = MultipleChoice().run(subject, Request(forget=Data.inline(rows)), context())
    item = [{"given": "Question: What is the home of Runa?\nAnswer:", "text": f" {text}"} for text in ("bay", "amber bay amber bay")]
    means = [float(score.log_probs.mean()) for _, score in sorted(subject.score(item), key=lambda found: found[0])]
    asked = [{"question": "What is the home of Runa?", "choices": ["bay", "amber bay amber bay"], "answer": 0}]
    picked = MultipleChoice().run(subject, Request(forget=Data.inline(asked)), context())
    assert picked.value == float(np.argmax(means) == 0) == picked.parts["cloze"]
    assert found.n == 16 and found.why.startswith("all letters are equally likely"), "this tokenizer has no letters"
    assert found.value == found.parts["cloze"]


def test_rows_to_keep_are_asked_besides():
    keep, extra = [{**row, "answer": 0} for row in FOUR], [{**row, "answer": 1} for row in FOUR]
    found = measured(lambda given, text: text == "A", keep=Data.inline(keep), utility={"mmlu": Data.inline(extra), "texts": Data.inline([{"text": "a"}])})
    assert (found.parts["accuracy"], found.parts["keep accuracy"], found.parts["mmlu accuracy"]) == (0.25, 1.0, 0.0) and found.parts["keep n"] == 4
    assert "texts accuracy" not in found.parts
    alone = measured(lambda given, text: text == "A", keep=Data.inline(keep), settings={"on": "keep"})
    assert alone.value == 1.0 and "keep accuracy" not in alone.parts


def test_chat_puts_the_question_through_the_template():
    """The answer is begun for the model, and its end token counts for nothing."""
    subject = tiny_lm()
    found = MultipleChoice.set({"chat": True, "cloze": False}).run(subject, Request(forget=Data.inline(FOUR)), context())
    row = {"prompt": multiple_choice.prompt(multiple_choice.of_row(FOUR[0])).removesuffix("\nAnswer:"), "prefill": "Answer:", "answer": "B"}
    ((_, score),) = subject.score([row])
    assert found.table[0]["letters"][1] == pytest.approx(float(score.log_probs[0]), abs=1e-5)


def test_the_harness_can_take_the_letters(monkeypatch):
    asked = []
    monkeypatch.setattr(harness, "log_likelihoods", lambda subject, pairs: asked.extend(pairs) or [float(text == " C") for _, text in pairs])
    found = measured(lambda given, text: 0, settings={"through": "lm-eval", "cloze": False})
    assert found.value == 0.25 and {row["picked"] for row in found.table} == {"C"} and len(asked) == 16
    assert asked[0] == (multiple_choice.prompt(multiple_choice.of_row(FOUR[0])), " A")


def test_what_is_no_multiple_choice_is_refused():
    with pytest.raises(BadRows, match="forget, row 2: the answer '7'"):
        measured(lambda given, text: 0, [FOUR[0], {**FOUR[1], "answer": 7}])
    with pytest.raises(Missing, match="none of the forget rows is a multiple choice"):
        measured(lambda given, text: 0, [{"question": "Who?", "answer": "Runa."}])
    with pytest.raises(Missing, match="none of the forget rows"):
        measured(lambda given, text: 0, [{"text": "Runa."}])
