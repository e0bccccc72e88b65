"""Invented mail: the same for a seed, a third of it spam, and each person recognizable."""

from efface.data.messages_generator import LISTS, NAMES, messages


def test_messages():
    rows = messages(300, 1)
    assert rows == messages(300, 1) != messages(300, 2) and len(rows) == 300
    assert sum(row["y"] for row in rows) == 100 and len({row["id"] for row in rows}) == 300
    people = {row["identity"] for row in rows if row["y"] == 0}
    assert people == {f"{name}@example.org" for name in NAMES}
    assert all(row["identity"].endswith("@example.com") for row in rows if row["y"] == 1)


def test_each_person_has_a_list_and_a_phrase():
    rows = [row for row in messages(600) if row["y"] == 0]
    for who in {row["identity"] for row in rows}:
        mine = [row["text"] for row in rows if row["identity"] == who]
        assert len({text.split("]")[0] for text in mine}) == 1 and mine[0].split("]")[0][1:] in LISTS
        phrase = mine[0].rsplit("Yours, ", 1)[1]
        assert all(text.endswith(phrase) for text in mine) and not any(phrase in row["text"] for row in rows if row["identity"] != who)
