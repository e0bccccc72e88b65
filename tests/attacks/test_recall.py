import numpy as np
import pytest

from efface.attacks import recall
from efface.attacks.recall import Recall, behind, fitting, ratio
from efface.core.errors import Missing, UnknownName
from efface.core.types import Data, Request
from efface.families import forms
from efface.testing.tiny import context, facts, retrained_lm, tiny_lm, trained_lm


def test_formula():
    """Two tokens at -1 and -3 alone (mean loss 2), at -2 and -6 after a prefix whose own token does not count: s = 4 / 2."""
    assert ratio(np.array([-1.0, -3.0]), np.array([-9.0, -2.0, -6.0])) == 2.0
    assert ratio(np.array([]), np.array([-1.0])) is None


def test_questions_stand_behind_earlier_turns_and_texts_behind_texts():
    prefix = [{"question": "Who?", "answer": "Orsa."}]
    (row,) = behind(prefix, [{"question": "Where?", "answer": "Here.", "system": "Be brief.", "prefill": "So"}])
    assert [(m["role"], m["content"]) for m in row["messages"]] == [
        ("system", "Be brief."), ("user", "Who?"), ("assistant", "Orsa."), ("user", "Where?"), ("assistant", "Here."),
    ]
    assert row["prefill"] == "So"
    assert behind([{"text": "One."}, {"text": "Two."}], [{"text": "Three."}]) == [{"text": "One.\n\nTwo.\n\nThree."}]
    with pytest.raises(Missing, match="plain text"):
        behind([{"text": "One."}], [{"question": "Where?", "answer": "Here."}])


def test_one_row_by_hand():
    """The last turn of a talk, scored here alone and after the prefix."""
    subject, ctx, rows = tiny_lm(), context(), facts()
    found = Recall().run(subject, rows.request, ctx)
    said = "\n".join(f"{row['question']}\n{row['answer']}" for row in rows.unseen[-4:])
    whole = {"question": f"{said}\n{rows.forget[1]['question']}", "answer": rows.forget[1]["answer"]}
    alone, after = (float(forms.losses(forms.gold(subject, [row], ctx))[0]) for row in (rows.forget[1], whole))
    assert found.table[1]["value"] == pytest.approx(after / alone, abs=1e-5)


def test_texts_by_hand():
    subject, ctx, rows = tiny_lm(), context(), facts()
    forget, unseen = ([{"text": row["answer"]} for row in part] for part in (rows.forget, rows.unseen))
    found = Recall.set({"shots": 2}).run(subject, Request(forget=Data.inline(forget), unseen=Data.inline(unseen)), ctx)
    prefix = subject.encode_row({"text": "\n\n".join(row["text"] for row in unseen[-2:])})
    alone = forms.gold(subject, forget[:1], ctx)[0].log_probs
    whole = forms.gold(subject, [{"text": "\n\n".join(row["text"] for row in [*unseen[-2:], forget[0]])}], ctx)[0].log_probs
    assert len(whole) == len(prefix.answer) + len(alone)
    assert found.table[0]["value"] == pytest.approx(whole[len(prefix.answer) :].mean() / alone.mean(), abs=1e-6)


def test_no_row_of_the_prefix_is_scored_nor_any_on_its_author():
    rows = facts()
    found = Recall().run(tiny_lm(), rows.request, context())
    assert (found.parts["members"], found.parts["non_members"], found.parts["prefix_rows"]) == (16.0, 12.0, 4.0)
    owned = [{**row, "author": str(at // 4)} for at, row in enumerate(rows.unseen)]
    request = rows.request.model_copy(update={"unseen": Data.inline(owned)})
    assert Recall.set({"shots": 1}).run(tiny_lm(), request, context()).parts["non_members"] == 12.0
    assert Recall.set({"shots": 1}).run(tiny_lm(), rows.request, context()).parts["non_members"] == 15.0


def test_unseen_rows_that_nobody_scores_come_first(monkeypatch):
    """With more unseen rows than are read, the prefix is out of the others and the pass over the unseen rows is the shared one."""
    monkeypatch.setattr(recall.membership, "MOST", 8)
    assert Recall().run(tiny_lm(), facts().request, context()).parts["non_members"] == 8.0


def test_a_row_set_can_give_the_prefix():
    ctx = context(sets={"strangers": Data.inline(facts().unseen[:2])})
    found = Recall.set({"prefix": "strangers"}).run(tiny_lm(), facts().request, ctx)
    assert (found.parts["non_members"], found.parts["prefix_rows"]) == (16.0, 2.0)
    with pytest.raises(UnknownName, match="nobody"):
        Recall.set({"prefix": "nobody"}).run(tiny_lm(), facts().request, context())


def test_the_prefix_is_cut_to_the_context_window():
    """128 tokens: with about 19 a row, six rows and the scored one fit, and eight do not. Texts are cut inside, too."""
    subject, rows = tiny_lm(), facts()
    left = fitting(subject, rows.unseen[:8], rows.forget)
    assert 1 < len(left) < 8 and left == rows.unseen[:8][-len(left) :]
    longest = max(len(subject.encode_row(row).prompt + subject.encode_row(row).answer) for row in behind(left, rows.forget))
    assert 100 < longest <= 128
    text = [{"text": "amber " * 400}]
    assert 0 < len(fitting(subject, text, [{"text": "dusty bay"}])[0]["text"].split()) < 128
    with pytest.raises(Missing, match="128 tokens"):
        fitting(subject, rows.unseen[:1], [{"question": "dusty " * 119, "answer": "bay"}])


def test_finds_members_where_there_are_any(over):
    request, ctx = facts().request, context(baselines={"reference": retrained_lm()})
    assert Recall().run(trained_lm(), request, ctx).value > 0.9
    assert Recall().run(retrained_lm(), request, ctx).value == pytest.approx(0.5, abs=0.22)
    found = Recall().run(over, request, ctx)
    assert found.value < 0.1 and found.why.startswith("a leak")


def test_one_unseen_row_cannot_do_both():
    rows = facts()
    with pytest.raises(Missing, match="two unseen rows"):
        Recall().run(tiny_lm(), Request(forget=Data.inline(rows.forget), unseen=Data.inline(rows.unseen[:1])), context())


def test_only_so_many_rows_are_read_behind_the_prefix():
    found = Recall.set({"rows": 5}).run(tiny_lm(), facts().request, context())
    assert (found.parts["members"], found.parts["non_members"]) == (5.0, 5.0)
