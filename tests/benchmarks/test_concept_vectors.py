"""The reader of ConceptVectors' records, and the stand-in's columns."""

import json

import pytest

from efface.benchmarks import concept_vectors
from efface.benchmarks.concept_vectors import PIECE, SHIPPED, ConceptVectors, about, german, pieces, read
from efface.core import registry
from efface.core import rows as row_files
from efface.core.context import Context
from efface.core.errors import BadRows, Missing, UnknownName
from efface.families import value_columns
from efface.metrics.concept_behavior import ConceptBehavior
from efface.metrics.concept_vector import ConceptVector, named
from efface.runs import pass_folders
from efface.testing.tiny import context, tiny_lm, trained_lm

RECORDS = read(None)


def test_the_development_part_is_whole():
    """Ten concepts; ten questions, fifty unrelated ones, and ten completions each (TensorFlow has one)."""
    assert [record["Concept"] for record in RECORDS] == [
        "Poland", "Italy", "Baseball", "TensorFlow", "Ancient Rome", "Culture of Latin America", "National Health Service", "New Zealand",
        "William Shakespeare", "Tactical role-playing game",
    ]
    assert [(record["Layer"], record["Dim"]) for record in RECORDS[:3]] == [(23, 743), (25, 7966), (18, 1285)]
    assert all(len(record["QA"]) == 10 and len(record["unrelated_QA"]) == 50 for record in RECORDS)
    assert [len(record["text_completion"]) for record in RECORDS] == [10, 10, 10, 1] + [10] * 6
    assert not any("wikipedia_content" in record for record in RECORDS)
    assert all(len(questions) == 10 for questions in german().values()) and german()["Harry Potter"][0] == "Wer ist der Autor der Harry-Potter-Buchreihe?"


def test_what_is_shipped_is_small_and_says_where_it_is_from():
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 200_000
    text = (SHIPPED / "SOURCE.md").read_text(encoding="utf-8")
    assert all(word in text for word in ("CC-BY-4.0", "CC-BY-SA", "607591b415043f7692bc17a9748de3d8ff3fc0c7", "arXiv:2406.11614"))


def test_the_case_of_a_concept():
    request, sets = about("Poland", RECORDS, "completions")
    assert named(sets["columns"].read()) == [(23, 743)]
    assert sets["questions"].read()[0] == {"question": "What is the capital city of Poland?"} and len(sets["unrelated"].read()) == 50
    assert set(sets) == {"columns", "questions", "unrelated"}
    forget, keep = request.rows("forget"), request.rows("keep")
    assert len(forget) == 10 and forget[0]["prompt"].startswith("In 1926") and forget[0]["answer"].startswith("Republic over to")
    assert len(keep) == 81 and not any(row["concept"] == "Poland" for row in keep)
    with pytest.raises(UnknownName, match="no concept named 'Polnd'; did you mean Poland"):
        about("Polnd", RECORDS, "completions")
    with pytest.raises(Missing, match="the article on Poland is not shipped"):
        about("Poland", RECORDS, "article")


def record(concept, **changes):
    return {
        "Concept": concept, "Layer": 1, "Dim": 17, "QA": [f" What is {concept}?\n"], "unrelated_QA": [" What is the pet of Pavo?\n"],
        "text_completion": [{"First_half": f"{concept} is the home", "Second_half": "of Runa"}], "wikipedia_content": f"{concept} is.\n\nThe {concept} of Runa.", **changes,
    }


def test_a_folder_of_the_repository_is_read_whole(tmp_path):
    """Both parts, the article, a concept with two columns, and German questions where there are any."""
    (tmp_path / "llama2-7b_concepts_dev.json").write_text(json.dumps([record("bay"), record("Harry Potter")]))
    (tmp_path / "llama2-7b_concepts_test.json").write_text(json.dumps([record("bay", Dim=3)]))
    found = read(tmp_path)
    request, sets = about("bay", found, "article")
    assert named(sets["columns"].read()) == [(1, 17), (1, 3)] and sets["article"].read() == request.rows("forget") == [{"text": "bay is.\nThe bay of Runa."}]
    assert [row["concept"] for row in request.rows("keep")] == ["Harry Potter"]
    assert sets["questions"].read() == [{"question": "What is bay?"}] * 2
    assert len(about("Harry Potter", found, "completions")[1]["german"].read()) == 10


def test_what_is_wrong_with_a_folder_is_one_line(tmp_path):
    with pytest.raises(Missing, match="no folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(Missing, match=r"holds no file \*_concepts_\*\.json"):
        read(tmp_path)
    (tmp_path / "x_concepts_dev.json").write_text(json.dumps([{"Concept": "bay", "Layer": 1}]))
    with pytest.raises(BadRows, match="x_concepts_dev.json, record 1: no Dim, QA"):
        read(tmp_path)
    with pytest.raises(BadRows, match="bay has no completions"):
        about("bay", [record("bay", text_completion=[])], "completions")


def test_articles_are_cut_at_the_ends_of_lines():
    lines = [f"{at} " + "word " * 80 for at in range(10)]
    found = pieces("\n\n".join(lines))
    assert max(map(len, found)) <= PIECE and " ".join(found).split() == " ".join(lines).split() and len(found) == 4
    assert [len(piece) for piece in pieces("x" * 4000)] == [PIECE] and pieces(" \n ") == []


def test_a_case_with_a_model_is_measured_on_its_columns(tmp_path):
    (tmp_path / "tiny_concepts_dev.json").write_text(json.dumps([record("bay"), record("fen")]))
    (tmp_path / "model").mkdir()
    trained_lm().save(tmp_path / "model")
    case = ConceptVectors.set({"model": str(tmp_path / "model"), "folder": str(tmp_path), "concept": "bay"}).case(context())
    assert case.name == "concept_vectors bay" and case.suite == concept_vectors.SUITE
    ctx = context(baselines=case.baselines, sets=case.sets)
    found = ConceptVector.set({"top": 20}).run(case.original, case.request, ctx)
    assert found.n == 1 and found.value == 1.0 and (found.table[0]["layer"], found.table[0]["column"]) == (1, 17)
    behavior = ConceptBehavior.set({"max_new": 4}).run(case.original, case.request, ctx)
    assert [row["question"] for row in behavior.table] == ["What is bay?", "What is the pet of Pavo?"]


def test_llama_s_columns_are_refused_on_another_model():
    """They mean something for one checkpoint only: a model without such a layer says so."""
    request, sets = about("Poland", RECORDS, "completions")
    with pytest.raises(UnknownName, match="layer 23 asked, the model has layers 0 to 1"):
        ConceptVector().run(tiny_lm(), request, context(baselines={"original": tiny_lm()}, sets=sets))


def test_the_suite_is_there():
    for name in concept_vectors.SUITE:
        registry.card(*name.split("/"))


def test_the_stand_in_has_columns_of_the_embedded_model():
    columns = row_files.read(SHIPPED / "authors_columns.jsonl")
    assert len(named(columns)) == 12 and all(row["Layer"] < 30 and row["Dim"] < 1536 and row["drop"] > abs(row["keep"]) for row in columns)


def _removed(subject, rows):
    """Each row's column by itself, taken away."""
    return [([place], value_columns.changes(subject, [place], "remove", 0.1, 0)) for place in named(rows)]


@pytest.mark.slow
def test_the_stand_in_on_the_real_model():
    """The original is untouched; the reference, fine-tuned from the same base, has nearly the same columns."""
    case = ConceptVectors().case(Context())
    ctx = Context(baselines=case.baselines, sets=case.sets, passes=pass_folders())
    mine = ConceptVector().run(case.original, case.request, ctx)
    worth = value_columns.drops(case.original, case.request.sample("forget", 12), _removed(case.original, case.sets["columns"].read()[:2]), ctx, "")
    assert worth.mean(1) == pytest.approx([row["drop"] for row in case.sets["columns"].read()[:2]], abs=2e-3), "what is shipped is what the model does"
    assert mine.value == 1.0 and mine.parts["cosine"] == pytest.approx(1) and mine.parts["l2"] == 0.0 and mine.parts["given"] == 1.0
    assert mine.n == 12 and 0.5 < mine.parts["reference"] < 1.0
