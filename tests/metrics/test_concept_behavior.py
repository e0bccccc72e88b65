"""Likeness to the original's own answers."""

import pytest

from efface.core.errors import Missing
from efface.core.types import Data, Request
from efface.metrics.concept_behavior import ConceptBehavior, prompt, question_of
from efface.ops.bleu import bleu
from efface.ops.rouge_l import rouge_l
from efface.testing.tiny import context, facts, retrained_lm, tiny_lm, trained_lm

SHORT = {"max_new": 12, "rows": 8}


def measured(subject, request=None, settings=SHORT, **changes):
    return ConceptBehavior.set(settings).run(subject, request or facts().request, context(baselines={"original": trained_lm()}, **changes))


def test_who_answers_like_the_original_is_at_one():
    """ROUGE 1 on both sides; BLEU 1 for answers of at least four words."""
    found = measured(trained_lm())
    assert found.value == pytest.approx(1) and found.low == pytest.approx(1) and found.n == found.parts["forget_n"] == 8
    assert found.parts["keep_rouge"] == pytest.approx(1)
    assert all(row["bleu"] == pytest.approx(1) for row in found.table if len(str(row["original"]).split()) >= 4)


def test_numbers_are_those_of_the_texts():
    subject = retrained_lm()
    found = measured(subject)
    rows = [row for row in found.table if row["set"] == "forget"]
    said = subject.generate([prompt(row["question"]) for row in rows], 12)
    own = trained_lm().generate([prompt(row["question"]) for row in rows], 12)
    assert [(row["answer"], row["original"]) for row in rows] == list(zip(said, own, strict=True))
    assert [row["value"] for row in rows] == [rouge_l(a, b).f for a, b in zip(said, own, strict=True)]
    assert [row["bleu"] for row in rows] == [bleu(a, b) for a, b in zip(said, own, strict=True)]
    assert found.value == pytest.approx(sum(row["value"] for row in rows) / 8)


def test_a_broken_model_is_unlike_on_both_sides():
    found = measured(tiny_lm(3))
    assert found.value < 0.2 and found.parts["keep_rouge"] < 0.2


def test_the_prompt_is_the_published_one():
    assert prompt("Who?") == {"text": "Question: Who?\n Answer:"}
    assert question_of({"question": " Who? "}) == question_of({"prompt": "Who?"}) == "Who?"
    assert question_of({"messages": [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "B"}, {"role": "user", "content": "Who?"}]}) == "Who?"
    assert question_of({"text": "Who?"}) == ""


def test_row_sets_of_the_run_come_first():
    sets = {name: Data.inline([{"question": text}]) for name, text in (("questions", "What is the home of Runa?"), ("unrelated", "What is the pet of Pavo?"))}
    found = measured(trained_lm(), sets=sets)
    assert [(row["set"], row["question"]) for row in found.table] == [("forget", "What is the home of Runa?"), ("keep", "What is the pet of Pavo?")]


def test_without_keep_rows_there_is_one_side():
    found = measured(trained_lm(), Request(forget=Data.inline(facts().forget)))
    assert not any(name.startswith("keep") for name in found.parts)


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(Missing, match="no forget row is a question"):
        measured(trained_lm(), Request(forget=Data.inline([{"text": "Runa lives here."}])))
    with pytest.raises(Missing, match="original"):
        ConceptBehavior.set(SHORT).run(tiny_lm(), facts().request, context())


def test_a_silent_original_leaves_rows_out_and_never_scores_them(monkeypatch):
    original = trained_lm()
    monkeypatch.setattr(original, "generate_each", lambda rows, max_new: iter([(at, "" if at else "home") for at in range(len(rows))]), raising=False)
    request = Request(forget=Data.inline(facts().forget[:3]))
    found = measured(retrained_lm(), request)
    assert found.n == 1 and found.parts["forget_original_silent"] == 2
    monkeypatch.setattr(original, "generate_each", lambda rows, max_new: iter([(at, "") for at in range(len(rows))]), raising=False)
    with pytest.raises(Missing, match="says nothing at all to any of 3 questions"):
        measured(retrained_lm(), request)
