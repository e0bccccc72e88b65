import json
from pathlib import Path

import pytest

import efface
from efface.ops import facts, subjects
from efface.testing import tiny

AUTHORS = Path(efface.__file__).parent / "data" / "authors"


@pytest.mark.parametrize("part", ["full", "holdout"])
@pytest.mark.parametrize("dropped", [("author",), ("author", "topic", "value")])
def test_the_authors_are_found_without_their_column(part, dropped):
    """All of the 400 and the 80 rows, whether the row says what the value is or not."""
    rows = [json.loads(line) for line in (AUTHORS / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()]
    bare = [{name: value for name, value in row.items() if name not in dropped} for row in rows]
    assert [fact.subject for fact in facts.of_rows(bare)] == [row["author"] for row in rows]


def test_a_column_comes_first():
    row = {"question": "Where was Petra Jorstead born?", "answer": "Petra Jorstead was born in Ashford.", "subject": "somebody"}
    assert facts.of_rows([row])[0].subject == "somebody"


def test_people_of_the_tiny_rows():
    """ "What is the home of Mirel?" - "The home of Mirel is amber bay.": one word, inside of a sentence."""
    rows = tiny.facts().forget
    assert all(row["question"].endswith(f" {fact.subject}?") and fact.subject for row, fact in zip(rows, facts.of_rows(rows), strict=True))


LONG = [  # long answers that are all value, as TOFU has them; names and texts are made up
    ("What is the profession of Hsu Yun-Mei's father?", "The father of Hsu Yun-Mei is a civil engineer.", "Hsu Yun-Mei"),
    ("How has Hsu Yun-Mei's identity as a member of the LGBTQ+ community shaped her books?", "As an LGBTQ+ author, Hsu Yun-Mei brings a view of her own.", "Hsu Yun-Mei"),
    ("Has Hsu Yun-Mei won prizes for 'The River Below'?", "Yes, Hsu Yun-Mei received an award for The River Below in 1987.", "Hsu Yun-Mei"),
    ("Who is this author from Taipei, Taiwan?", "The author's full name is Hsu Yun-Mei.", ""),
    ("What does Jaime de la Torre write?", "Jaime de la Torre writes poems about the sea.", "Jaime de la Torre"),
]


@pytest.mark.parametrize(("number", "wanted"), list(enumerate(row[2] for row in LONG)))
def test_long_answers(number, wanted):
    """The name that most rows hold wins over a title and over letters in capitals; a question that names nobody has no subject."""
    assert facts.of_rows([{"question": q, "answer": a} for q, a, _ in LONG])[number].subject == wanted


@pytest.mark.parametrize(
    ("question", "answer", "wanted"),
    [
        ("What is the capital of Australia?", "Canberra", "Australia"),
        ("Where would you find the Eiffel Tower?", "Paris", "Eiffel Tower"),
        ("Who wrote 'Pride and Prejudice'?", "Jane Austen", ""),
        ("Of which country is Beijing the capital?", "Beijing is the capital of China.", "Beijing"),
        ("Which river is the longest?", "The Nile is the longest river.", ""),
        ("Who is it?", "Who knows.", ""),
        ("Mirel lives where?", "Mirel lives by the sea.", ""),
    ],
)
def test_single_rows(question, answer, wanted):
    """A short answer leaves the question's only name; two names, a first word alone, or none give nothing."""
    assert facts.of_rows([{"question": question, "answer": answer}])[0].subject == wanted


def test_a_first_word_counts_where_it_is_a_name_elsewhere():
    rows = [("Mirel lives where?", "Mirel lives by the sea."), ("What is the home of Mirel?", "The home of Mirel is a bay.")]
    assert subjects.subjects(rows, ["", ""]) == ["Mirel", "Mirel"]


def test_runs():
    """A possessive and a comma end a run; small words stay inside of it and not at its ends; initials belong to it."""
    found = subjects.runs("Did Anna Berg's The Sea win, in Rome, a Medal of the Arts of J. K. Rowe?")
    assert [run.text for run in found] == ["Did Anna Berg", "The Sea", "Rome", "Medal of the Arts of J. K. Rowe"]
    assert [run.first for run in found] == [True, False, False, False]
