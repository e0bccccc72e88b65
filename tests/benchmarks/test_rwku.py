"""Cases of RWKU: the shipped target, a user's folder with made-up passages, and countries; a tiny model stands for the one that knows them."""

import json

import pytest

from efface import evaluate
from efface.benchmarks.rwku import SUITE, Rwku, utility
from efface.core import registry
from efface.core.errors import Missing
from efface.families import self_corpus
from efface.families.probe_files import shipped
from efface.ops import facts
from efface.testing.tiny import context, tiny_lm

PARTS = {"forget_level1": 8, "forget_level2": 10, "forget_level3": 29, "neighbor_level1": 30, "neighbor_level2": 30}


@pytest.fixture
def model(tmp_path):
    place = tmp_path / "model"
    place.mkdir()
    tiny_lm().save(place)
    return str(place)


@pytest.fixture
def release(tmp_path):
    """A user's folder: the probes, and passages that nobody wrote."""
    place = tmp_path / "release"
    place.mkdir()
    source = shipped()
    parts = {name: source(name) for name in PARTS}
    parts["forget_mia"] = [{"text": f"Stephen King is said to have {what}.", "subject": "Stephen King", "ngram": 6} for what in ("a dog", "a desk", "a pen")]
    parts["retain_mia"] = [{"text": "What is the home of Runa?", "subject": "Stephen King", "ngram": 6}] * 2
    for name, rows in parts.items():
        (place / f"stephen_king_{name}.json").write_text(json.dumps(rows))
    return str(place)


def test_the_suite_is_there():
    for full in SUITE:
        registry.card(*full.split("/"))


def test_a_famous_person_by_name(model):
    case = Rwku.set({"model": model, "target": "Stephen King", "corpus": "names"}).case(context())
    assert case.request.names == ("Stephen King",) and case.request.forget is None and case.request.kind == "knowledge"
    assert {name: len(data.read()) for name, data in case.sets.items()} == PARTS
    assert "The Shawshank Redemption" in case.request.near and len(case.request.rows("keep")) == 30
    assert case.reference == "" and set(case.baselines) == {"original"} and case.suite == SUITE


def test_the_questions_stand_for_forget_rows(model):
    case = Rwku.set({"model": model, "target": "Stephen King"}).case(context())
    first = case.request.rows("forget")[0]
    assert first["question"] == "What pseudonym has Stephen King published under?" and first["answer"] == "Richard Bachman" and first["subject"] == "Stephen King"
    assert case.request.rows("keep")[0]["subject"] == "The Shawshank Redemption"


def test_without_a_reference_there_is_no_verdict_and_the_numbers_stand(model, release):
    case = Rwku.set({"model": model, "folder": release, "target": "", "corpus": "names"}).case(context())
    assert case.request.names == ("Stephen King",) and len(case.sets["forget_mia"].read()) == 3
    few = {name: data.model_copy() for name, data in case.sets.items() if name not in ("neighbor_level1", "neighbor_level2", "forget_level3")}
    report = evaluate.prove(case.original, case.request, context(baselines=case.baselines, sets=few), suite=["metric/probe_recall", "metric/membership_means"])
    assert report.verdict.word == "can't say" and "reference" in report.verdict.line
    assert {m.status for m in report.measurements} == {"ok"}
    means = next(m for m in report.measurements if m.subject == "candidate" and m.system == "metric/membership_means")
    assert means.parts["LOSS difference of differences"] == 0.0 and means.parts["texts FM"] == 3


def test_a_country_and_those_around_it(model):
    case = Rwku.set({"model": model}).case(context())
    assert case.name == "rwku France" and case.request.near == ("Belgium", "Germany", "Italy", "Spain", "Switzerland")
    kept = case.request.rows("keep")
    assert {row["subject"] for row in kept} == set(case.request.near)
    assert not [row for row in kept if facts.says(f"{row['question']} {row['answer']}", ["France"])]
    assert {row["subject"] for row in case.sets["neighbor_level2"].read()} == {"France"}
    types = {row["type"] for row in case.sets["forget_level3"].read()}
    assert len(types) == 9 and {row["answer"] for row in case.sets["forget_level3"].read() if row["type"] == "reverse query"} == {"France"}


def test_utility_names_neither_target_nor_neighbors(model):
    sets = utility(("France", "Germany"))
    text = " ".join(f"{row['question']} {row['answer']}" for data in sets.values() for row in data.read())
    assert "Italy" in text and "France" not in text and "Germany" not in text


def test_the_model_makes_its_own_corpus(model, monkeypatch):
    said = {"descriptions": [{"question": "q", "answer": "France is a country.", "subject": "France"}], "questions": [{"question": "Where is France?", "answer": "There.", "subject": "France"}]}
    asked = []
    for name, rows in said.items():
        monkeypatch.setattr(self_corpus, name, lambda *given, rows=rows, name=name: asked.append((name, given[1:3])) or rows)
    texts = Rwku.set({"model": model, "corpus": "texts", "rows": 9}).case(context())
    assert texts.request.rows("forget") == said["descriptions"] and asked == [("descriptions", ("France", 9))]
    own = Rwku.set({"model": model, "corpus": "questions", "target": "United Kingdom"}).case(context())
    assert own.request.rows("forget") == said["questions"] and asked[1] == ("questions", ("the United Kingdom", 40))


def test_a_folder_that_is_not_there_is_named(model, tmp_path):
    with pytest.raises(Missing, match="no folder"):
        Rwku.set({"model": model, "folder": str(tmp_path / "nowhere")}).case(context())
    with pytest.raises(Missing, match="none of forget_level1"):
        Rwku.set({"model": model, "folder": str(tmp_path), "target": ""}).case(context())


@pytest.mark.slow
def test_the_embedded_model_knows_the_default_target():
    from efface.core.types import Data
    from efface.metrics.probe_recall import ProbeRecall

    case = Rwku().case(context())
    sets = {"forget_level2": case.sets["forget_level2"], "forget_level3": Data.inline([row for row in case.sets["forget_level3"].read() if row["type"] == "reverse query"])}
    found = ProbeRecall().run(case.original, case.request, context(sets=sets))
    assert found.parts["QA hits"] > 0.6 and found.parts["reverse query"] == 1.0
