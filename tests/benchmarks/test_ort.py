"""Cases of ORT: countries, a folder in RWKU's layout with made-up multiple choices, and the shipped authors."""

import json

import pytest

from efface.benchmarks.ort import SUITE, Ort
from efface.core import registry
from efface.core.errors import BadRows, Missing
from efface.families.probe_files import shipped
from efface.metrics.form_dependence import FormDependence
from efface.testing.tiny import context, tiny_lm


@pytest.fixture
def model(tmp_path):
    place = tmp_path / "model"
    place.mkdir()
    tiny_lm().save(place)
    return str(place)


@pytest.fixture
def release(tmp_path):
    """RWKU's first target with two multiple choices a side, which nobody published."""
    place = tmp_path / "release"
    place.mkdir()
    parts = {name: shipped()(name) for name in ("forget_level1", "forget_level2", "forget_level3", "neighbor_level1", "neighbor_level2")}
    item = {"subject": "Stephen King", "level": "4", "type": "multiple choice", "query": "Who wrote Carrie?\nA. Joe Hill\nB. Stephen King\nC. Peter Straub\nD. Owen King", "answer": "B"}
    for name, rows in {**parts, "forget_level4": [item] * 2, "neighbor_level4": [{**item, "neighbor": "Joe Hill"}] * 2}.items():
        (place / f"{name}.json").write_text(json.dumps(rows))
    return place


def test_the_suite_is_there():
    assert SUITE[0] == "metric/form_dependence"
    for full in SUITE:
        registry.card(*full.split("/"))


def test_a_country(model):
    case = Ort.set({"source": "country", "model": model, "target": "Japan"}).case(context())
    assert case.name == "ort Japan" and case.request.names == ("Japan",) and case.suite == SUITE
    assert case.request.reason == "benchmark ort, Japan" and "reference" not in case.baselines
    assert Ort.set({"source": "country", "model": model}).case(context()).name == "ort France"


def test_a_folder_in_rwkus_layout(model, release):
    case = Ort.set({"source": "folder", "model": model, "folder": str(release)}).case(context())
    assert case.name == "ort Stephen King" and len(case.sets["forget_level4"].read()) == 2
    asked = FormDependence()._asked("forget", case.request, context(sets=case.sets))
    assert {name: len(of.probes) for name, of in asked.items()} == {"cloze": 8, "question": 10, "spelled": 10, "multiple_choice": 2}
    spelled = asked["spelled"].probes[0]
    assert spelled.answers[0] == "\n".join("RichardBachman") and spelled.lead == "Answer:\n"
    kept = FormDependence()._asked("keep", case.request, context(sets=case.sets))
    assert len(kept["multiple_choice"].probes) == 2 and len(kept["cloze"].probes) == 20  # of 30, at most 20 a side


def test_a_folder_must_be_given_and_hold_the_multiple_choices(model, release):
    with pytest.raises(Missing, match="--case folder=FOLDER"):
        Ort.set({"source": "folder", "model": model}).case(context())
    (release / "forget_level4.json").unlink()
    with pytest.raises(Missing, match="no forget_level4"):
        Ort.set({"source": "folder", "model": model, "folder": str(release)}).case(context())


def test_a_multiple_choice_without_options_is_named(model, release):
    (release / "forget_level4.json").write_text(json.dumps([{"subject": "Stephen King", "level": "4", "query": "Who wrote Carrie?", "answer": "B"}]))
    case = Ort.set({"source": "folder", "model": model, "folder": str(release)}).case(context())
    with pytest.raises(BadRows, match="'Who wrote Carrie"):
        FormDependence().run(tiny_lm(), case.request, context(sets=case.sets, baselines=case.baselines))


@pytest.mark.slow
def test_the_authors_can_be_asked_in_every_form():
    from efface.families import probing
    from efface.ops import facts, probes

    case = Ort().case(context())
    assert case.name == "ort authors" and "reference" in case.baselines and case.suite == SUITE
    found = facts.of_rows(case.request.rows("forget"))
    assert {form: len(asked) for form, asked in probing.by_form(list(probes.FORMS), found).items()} == dict.fromkeys(probes.FORMS, 40)
