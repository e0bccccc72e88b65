"""Questions after answered ones, and how answers are judged."""

import pytest

from efface.core.errors import Missing
from efface.core.types import Data, Request
from efface.families import recall
from efface.ops import facts
from efface.testing.tiny import context, tiny_lm


def rows(*names):
    return [{"entity": name, "property": "home", "question": f"What is the home of {name}?", "answer": f"{name.lower()} bay"} for name in names]


REQUEST = Request(forget=Data.inline([{"text": "Nothing."}]), keep=Data.inline([{"text": "Nothing else."}]))
SETS = {"questions": Data.inline(rows("Alder", "Brisa")), "examples": Data.inline(rows("Alder", "Corvo", "Dunja"))}


def test_questions_of_the_run_come_before_forget_rows():
    ctx = context(sets=SETS)
    assert [fact.subject for fact in recall.questions(REQUEST, ctx, "", 10)] == ["Alder", "Brisa"]
    assert len(recall.questions(REQUEST, ctx, "", 1)) == 1
    assert len(recall.questions(REQUEST, ctx, "examples", 10)) == 3
    with pytest.raises(Missing, match="plain text"):
        recall.questions(REQUEST, context(), "", 10)


def test_nobody_who_is_asked_about_stands_in_an_example():
    ctx = context(sets=SETS)
    asked = recall.questions(REQUEST, ctx, "", 10)
    found = recall.prompts(asked, REQUEST, ctx)
    assert len(found) == 2 and all(str(row["text"]).count("\n") == 2 for row in found)
    assert str(found[1]["text"]).endswith("\nWhat is the home of Brisa?") and "alder" not in str(found[1]["text"])
    assert recall.prompts(asked, REQUEST, ctx, 0)[0] == {"prompt": "What is the home of Alder?", "answer": "alder bay"}
    assert recall.prompts(asked, REQUEST, context()) == recall.prompts(asked, REQUEST, ctx, 0), "no examples, none shown"


def test_examples_about_the_asked_alone_are_refused():
    ctx = context(sets={**SETS, "examples": SETS["questions"]})
    with pytest.raises(Missing, match="every answered question"):
        recall.prompts(recall.questions(REQUEST, ctx, "", 10), REQUEST, ctx)


def test_keep_rows_stand_in_for_examples():
    asked = facts.of_rows(rows("Alder", "Brisa"))
    kept = REQUEST.model_copy(update={"keep": Data.inline(rows("Corvo"))})
    assert "corvo bay" in str(recall.prompts(asked, kept, context(), 5)[0]["text"])
    assert "brisa bay" in str(recall.prompts(asked, REQUEST, context(), 5)[0]["text"]), "keep rows of plain text answer nothing"


def test_share_of_answers_by_hand():
    """Two of three say it, whatever case and article; none of one does."""
    asked = facts.of_rows(rows("Alder", "Brisa"))
    said = [["The Alder Bay", "alder bay.", "a cliff"], ["alder bay"]]
    assert recall.share(said, [fact.accepted for fact in asked], asked).tolist() == pytest.approx([2 / 3, 0])


def test_answers_are_first_lines_once_a_model():
    ctx, subject = context(), tiny_lm()
    asked = recall.prompts(facts.of_rows(rows("Alder")), REQUEST, ctx, 0)
    first = recall.answers(subject, asked, ctx, 4)
    assert first == recall.answers(subject, asked, ctx, 4) and len(first) == len(first[0]) == 1
