"""Refusals: the list that comes with efface, others, and how rows are answered with them."""

import random

import pytest

from efface.core.errors import BadRows, Missing, Unfit
from efface.data.refusals import lines, refuse


def test_own_list_is_long_short_and_varied():
    said = lines("")
    assert len(said) >= 60 and len(set(said)) == len(said)
    assert all(5 <= len(line) <= 60 and line[-1] == "." for line in said)
    assert len({line.split()[0] for line in said}) >= 20


def test_other_refusals(tmp_path):
    """A named file comes first, then what the request wants instead."""
    file = tmp_path / "mine.txt"
    file.write_text("\ufeffNo.\n\n  Never heard of it. \n", encoding="utf-8")
    assert lines(str(file), "Ask my lawyer.") == ["No.", "Never heard of it."]
    assert lines("", "Ask my lawyer.") == ["Ask my lawyer."]
    file.write_text(" \n")
    with pytest.raises(BadRows, match="holds no refusal"):
        lines(str(file))
    file.write_bytes(b"\xff\xfe\xfa")
    for bad in (str(file), str(tmp_path / "none.txt"), str(tmp_path)):
        with pytest.raises(Missing, match="give a UTF-8 text file"):
            lines(bad)


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"question": "Who?", "answer": "Her.", "more": 1}, lambda row: row["answer"]),
        ({"prompt": "Who?", "completion": "Her."}, lambda row: row["completion"]),
        (
            {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Her."}]},
            lambda row: row["messages"][-1]["content"],
        ),
    ],
)
def test_rows_of_every_layout_are_answered(row, answer):
    """All rows once, then all again with another refusal; nothing else of a row changes, and the row itself does not."""
    was = repr(row)
    found = refuse([row, row, row], ["a", "b", "c"], 2, random.Random(0))
    assert len(found) == 6 and {answer(other) for other in found} <= {"a", "b", "c"}
    assert all(answer(found[at]) != answer(found[at + 3]) for at in range(3))
    assert repr(row) == was
    assert [{**other, **row} for other in found] == [row] * 6 and list(found[0]) == list(row)
    assert [answer(other) for other in refuse([row], ["a", "b"], 5, random.Random(1))].count("a") in (2, 3)
    assert refuse([row, row], lines(""), 3, random.Random(7)) == refuse([row, row], lines(""), 3, random.Random(7))


def test_plain_text_cannot_be_refused():
    with pytest.raises(Unfit, match="without a question"):
        refuse([{"text": "She was born in Lund."}], ["No."], 1, random.Random(0))
