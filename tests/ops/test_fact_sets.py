"""What is asked is never taught: splits by subject and by fact, related and unrelated rows, and rows that give a fact away."""

import random

import pytest

from efface.core.errors import Missing
from efface.ops.fact_sets import apart, nearness, owner, related, said, same_fact, split, unrelated
from efface.testing.tiny import facts


def row(question, answer, **more):
    return {"question": question, "answer": answer, **more}


def test_both_sides_of_every_layout():
    assert said({"prompt": "a", "response": "b"}) == ("a", "b")
    assert said({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}) == ("a", "b")
    assert said({"text": "b"}) == ("", "b")
    assert owner({"entity": "Orsa"}) == "Orsa" and owner({"question": "Orsa"}) == ""


def test_rows_on_one_subject_stay_together():
    rows = [row(str(at), "x", subject=str(at // 5)) for at in range(20)]
    taught, asked = split(rows, 20, random.Random(0))
    assert {r["subject"] for r in taught}.isdisjoint(r["subject"] for r in asked) and len(taught) == len(asked) == 10


def test_rows_on_one_fact_stay_together():
    """Questions in other words have one sentence as their answer; one question may be answered in other words; "yes" joins nothing."""
    rows = [
        row("Where is Orsa?", "Orsa is in Saltport."), row("Orsa lives in which town?", "Orsa is in Saltport."), row("where is orsa", "In Saltport."),
        row("Is Pavo old?", "Yes."), row("Is Runa old?", "Yes."),
    ]
    assert same_fact(rows) == [rows[:3], rows[3:4], rows[4:]]
    for seed in range(20):
        taught, asked = split(rows, 20, random.Random(seed))
        assert taught and asked and len(taught) + len(asked) == 5
        assert sum(r in taught for r in rows[:3]) in (0, 3)
    with pytest.raises(Missing, match="one fact"):
        split(rows[:3], 20, random.Random(0))
    with pytest.raises(Missing, match="two forget rows"):
        split(rows[:1], 20, random.Random(0))


def test_a_row_can_join_two_facts():
    """The last row has the question of the first and the answer of the second."""
    rows = [row("a?", "one two three four"), row("b?", "five six seven eight"), row("a?", "five six seven eight")]
    assert same_fact(rows) == [rows]


def test_related_rows_share_an_author_or_a_telling_word():
    """"the book of" is in every row and tells nothing; Saltport is in one of twenty."""
    others = [row(f"the book of A{at}", f"title {at}") for at in range(20)] + [row("the book of B", "on Saltport"), row("the book of C", "none", author="Orsa")]
    forget = [row("the book of D", "on Saltport", author="Orsa")]
    assert nearness(others, forget) == [0] * 20 + [2, 1000]  # on and Saltport; the author
    assert related(others, forget, 5) == [others[21], others[20]]
    assert related(others, forget, 1) == [others[21]]
    assert all(r in others[:20] for r in unrelated(others, forget, 50, random.Random(0)))
    assert len(unrelated(others, forget, 7, random.Random(0))) == 7


def test_what_gives_an_asked_fact_away_is_not_taught():
    others = [row(f"Where does A{at} live?", f"A{at} lives in Town{at}.") for at in range(30)]
    asked = [row("Where does Orsa live?", "Saltport", value="Saltport")]
    same, elsewhere, other_fact = row("The town of Orsa?", "It is Saltport."), row("Where does A1 live?", "In Saltport."), row("What does Orsa eat?", "Fish.")
    pool = [*others, same, elsewhere, other_fact, dict(asked[0])]
    assert apart([same, elsewhere, other_fact, dict(asked[0])], asked, pool) == [elsewhere, other_fact]
    assert apart([{"text": "Orsa lives in Saltport."}], [{"text": "Orsa lives in Saltport."}]) == []


def test_of_the_invented_facts():
    rows = facts()
    near, far = related(rows.keep, rows.forget, 48), unrelated(rows.keep, rows.forget, 48, random.Random(0))
    assert near and far and not any(r in near for r in far) and len(near) + len(far) == 48
    assert apart(near, rows.forget, rows.keep) == near
