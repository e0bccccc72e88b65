"""The reader of WMDP's files, on a few invented rows of the hub's layout, and the stand-in of countries."""

import json
import sys
from types import SimpleNamespace

import pytest

from efface.benchmarks import wmdp
from efface.benchmarks.wmdp import Wmdp, read, stand_in
from efface.core import registry
from efface.core.context import Context
from efface.core.errors import BadRows, Missing
from efface.families import checkpoint
from efface.metrics.multiple_choice import MultipleChoice
from efface.ops import multiple_choice
from efface.runs import pass_folders
from efface.testing.tiny import context, tiny_lm


def rows(part, count):
    return [{"question": f"{part} question {at}?", "choices": [f"{part} {at} {option}" for option in "pqrs"], "answer": at % 4} for at in range(count)]


@pytest.fixture
def release(tmp_path):
    for part, count in (("bio", 5), ("cyber", 3), ("chem", 2)):
        (tmp_path / f"wmdp-{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(part, count)))
    mmlu = [{**row, "subject": subject} for subject in ("virology", "world_history") for row in rows(subject, 2)]
    (tmp_path / "mmlu.jsonl").write_text("".join(json.dumps(row) + "\n" for row in mmlu))
    return tmp_path


def test_rows_are_questions_with_their_key_and_their_part(release):
    found = read("bio", release, "")
    assert len(found) == 5 and found[1]["question"] == "bio question 1?" and found[1]["answer"] == "bio 1 q" and found[1]["key"] == 1
    assert found[1]["perturbed_answer"] == ["bio 1 p", "bio 1 r", "bio 1 s"] and (found[1]["group"], found[1]["about"]) == ("bio", "biology")
    item = multiple_choice.of_row(found[1])
    assert multiple_choice.prompt(item).startswith("The following are multiple choice questions (with answers) about biology.\n\nbio question 1?\nA. bio 1 p\n")


@pytest.mark.parametrize("name", ["wmdp-bio.json", "wmdp_bio.jsonl", "bio.json"])
def test_files_may_have_any_of_their_names(tmp_path, name):
    (tmp_path / name).write_text(json.dumps(rows("bio", 2)))
    assert len(read("bio", tmp_path, "")) == 2


def test_parquet_as_the_hub_keeps_it(tmp_path, monkeypatch):
    (tmp_path / "wmdp-bio").mkdir()
    (tmp_path / "wmdp-bio" / "test-00000-of-00001.parquet").write_bytes(b"")
    parquet = SimpleNamespace(read_table=lambda path: SimpleNamespace(to_pylist=lambda: rows("bio", 3)))
    monkeypatch.setitem(sys.modules, "pyarrow", SimpleNamespace(parquet=parquet))
    assert len(read("bio", tmp_path, "")) == 3
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(Missing, match="pyarrow"):
        read("bio", tmp_path, "")


def test_the_hub_gives_the_same_rows(release, monkeypatch):
    def load_dataset(name, config, split):
        if name == "offline/wmdp":
            raise OSError("no\nconnection")
        assert (name, config, split) == ("cais/wmdp", "wmdp-cyber", "test")
        return rows("cyber", 3)

    errors = SimpleNamespace(DatasetsError=type("DatasetsError", (Exception,), {}))
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset, exceptions=errors))
    assert read("cyber", None, "cais/wmdp") == read("cyber", release, "")
    with pytest.raises(Missing, match="'wmdp-cyber' of offline/wmdp from the hub: no connection"):
        read("cyber", None, "offline/wmdp")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(Missing, match=r"efface\[hub\]"):
        read("cyber", None, "cais/wmdp")


def test_what_is_wrong_with_the_files_is_one_line(release, tmp_path):
    with pytest.raises(Missing, match="no folder"):
        read("bio", tmp_path / "nowhere", "")
    (release / "wmdp-chem.jsonl").unlink()
    with pytest.raises(Missing, match="WMDP's part 'chem' is not in"):
        read("chem", release, "")
    (release / "wmdp-cyber.jsonl").write_text(json.dumps({**rows("cyber", 1)[0], "choices": ["a", "b"]}) + "\n")
    with pytest.raises(BadRows, match="wmdp-cyber, row 1: 2 choices; WMDP has four"):
        read("cyber", release, "")
    (release / "wmdp-cyber.jsonl").write_text(json.dumps({**rows("cyber", 1)[0], "answer": 4}) + "\n")
    with pytest.raises(BadRows, match="wmdp-cyber, row 1: the answer '4'"):
        read("cyber", release, "")


def test_the_case_counts_its_questions_and_is_measured_by_part(release, tmp_path):
    (tmp_path / "model").mkdir()
    tiny_lm().save(tmp_path / "model")
    settings = {"model": str(tmp_path / "model"), "folder": str(release), "mmlu": str(release / "mmlu.jsonl")}
    case = Wmdp.set(settings).case(context())
    assert case.name == "wmdp bio+cyber+chem, 10 questions" and set(case.baselines) == {"original"} and case.reference == ""
    assert [row["group"] for row in case.request.rows("keep")] == ["world_history"] * 2
    assert {name: {row["group"] for row in data.read()} for name, data in case.utility.items()} == {"mmlu": {"world_history"}, "mmlu near": {"virology"}}
    found = MultipleChoice().run(case.original, case.request, context(utility=case.utility))
    assert {name: found.parts[f"group {name} n"] for name in ("bio", "cyber", "chem")} == {"bio": 5, "cyber": 3, "chem": 2}
    assert found.parts["mmlu near n"] == 2 and found.n == 10
    alone = Wmdp.set({**settings, "parts": ["chem"], "mmlu": ""}).case(context())
    assert alone.name == "wmdp chem, 2 questions" and alone.request.keep is None
    with pytest.raises(Missing, match="no part of WMDP"):
        Wmdp.set({**settings, "parts": []}).case(context())


def test_the_stand_in_is_made_of_facts():
    name, forget, keep, utility = stand_in()
    assert (name, len(forget), len(keep)) == ("wmdp stand-in (capitals)", 40, 40) and utility == {"countries": keep}
    for row in [*forget, *keep]:
        item = multiple_choice.of_row(row)
        assert len(set(item.options)) == 4 and item.options[item.right] == row["value"] and item.about == "geography"
        assert row["answer"].count(row["value"]) and row["perturbed_answer"]
    assert {row["group"] for row in forget} == {"capital"} and {row["group"] for row in keep} == {"continent", "reverse"}


def test_the_suite_is_there():
    for name in wmdp.SUITE:
        registry.card(*name.split("/"))


@pytest.mark.slow
def test_the_embedded_model_knows_capitals():
    """Without letters it knows most of them (27 of 40 when this was written); by letters it always says A, and the measurement says so."""
    case = Wmdp().case(Context())
    assert case.original.origin.startswith(checkpoint.EMBEDDED) and case.name.endswith("40 questions")
    found = MultipleChoice().run(case.original, case.request, Context(utility=case.utility, passes=pass_folders()))
    assert found.parts["cloze_low"] > 0.4 and found.n == 40
    assert found.parts["stuck"] == 1.0 and found.parts["letter A"] == 1.0 and found.why.startswith("A is the answer")
