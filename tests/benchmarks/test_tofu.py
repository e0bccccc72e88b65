"""The reader of TOFU's files, on a small invented release of the same form: 100 rows a percent would be 4,000, here 5 authors."""

import json
import sys
from types import SimpleNamespace

import pytest

from efface.benchmarks.tofu import Tofu, _files, _hub, read
from efface.core.errors import BadRows, Missing
from efface.testing.tiny import context, facts, tiny_lm


def lines(rows):
    return "".join(json.dumps(row).replace("/", "\\/") + "\n" for row in rows)  # TOFU escapes its slashes


def plain(at):
    return {"question": f"What did author {at // 20} write {at}/{at}?", "answer": f"Book {at}."}


def perturbed(at, count=5):
    return {
        **plain(at), "paraphrased_answer": f"It was book {at}.", "perturbed_answer": [f"It was book {at}-{other}." for other in range(count)],
        "paraphrased_question": f"What is {at}?",
    }


@pytest.fixture
def release(tmp_path):
    """100 rows of 5 authors; forget10 is the last author; wrong answers for the first 40 retain rows."""
    fact = [{"question": f"Capital {at}?", "answer": f"Town {at}", "perturbed_answer": ["A", "B", "C"]} for at in range(7)]
    parts = {
        "full": [plain(at) for at in range(100)],
        "forget10_perturbed": [perturbed(at) for at in range(80, 100)],
        "retain_perturbed": [perturbed(at) for at in range(40)],
        "real_authors_perturbed": fact,
        "world_facts_perturbed": fact[:3],
    }
    for name, rows in parts.items():
        (tmp_path / f"{name}.json").write_text(lines(rows))
    return tmp_path


def test_json_files_are_json_lines_and_the_last_rows_are_forgotten(release):
    parts = read(_files(release), "forget10")
    assert [row["question"] for row in parts.forget] == [f"What did author 4 write {at}/{at}?" for at in range(80, 100)]
    assert [row["answer"] for row in parts.keep] == [f"Book {at}." for at in range(80)]
    assert len(parts.forget[0]["perturbed_answer"]) == 5
    assert {name: len(rows) for name, rows in parts.facts.items()} == {"real_authors": 7, "world_facts": 3}
    assert parts.unseen == []


def test_authors_are_twenty_rows_in_a_run(release):
    parts = read(_files(release), "forget10")
    assert {row["author"] for row in parts.forget} == {"4"}
    assert [row["author"] for row in parts.keep[::20]] == ["0", "1", "2", "3"]


def test_keep_rows_have_wrong_answers_where_tofu_has_them(release):
    parts = read(_files(release), "forget10")
    assert [("perturbed_answer" in row) for row in parts.keep] == [True] * 40 + [False] * 40


def test_a_holdout_part_is_used_when_it_is_there(release):
    (release / "holdout10.json").write_text(lines([plain(at) for at in range(200, 220)]))
    assert len(read(_files(release), "forget10").unseen) == 20


def test_known_retain_rows_end_where_the_forget_rows_begin(release):
    """With nearly all retain rows known, none of them may reach into the forget part."""
    (release / "retain_perturbed.json").write_text(lines([perturbed(at) for at in range(90)]))
    assert len(read(_files(release), "forget10").keep) == 80


@pytest.mark.parametrize("part", ["full", "forget10_perturbed", "retain_perturbed", "real_authors_perturbed", "world_facts_perturbed"])
def test_a_missing_part_is_named(release, part):
    (release / f"{part}.json").unlink()
    with pytest.raises(Missing, match=part):
        read(_files(release), "forget10")


def test_parts_of_different_releases_are_refused(release):
    (release / "forget10_perturbed.json").write_text(lines([perturbed(at) for at in range(70, 90)]))
    with pytest.raises(BadRows, match="row 1 of 'forget10_perturbed'"):
        read(_files(release), "forget10")
    (release / "forget10_perturbed.json").write_text(lines([perturbed(at) for at in range(300)]))
    with pytest.raises(BadRows, match="fewer rows"):
        read(_files(release), "forget10")


def test_a_broken_line_is_named(release):
    with (release / "full.json").open("a") as file:
        file.write("{oops\n")
    with pytest.raises(BadRows, match=r"full\.json:101"):
        read(_files(release), "forget10")


def test_case_loads_model_and_reference_and_measures_on_them(release, tmp_path):
    for name, seed in (("model", 0), ("reference", 1)):
        (tmp_path / name).mkdir()
        tiny_lm(seed).save(tmp_path / name)
    settings = {"model": str(tmp_path / "model"), "reference": str(tmp_path / "reference"), "folder": str(release)}
    case = Tofu.set(settings).case(context())
    assert case.name == "tofu forget10" and set(case.baselines) == {"original", "reference"}
    assert case.original.digest == tiny_lm(0).digest and case.baselines["reference"].digest == tiny_lm(1).digest
    assert "retain90" in case.reference and case.request.unseen is None
    assert len(case.request.rows("forget")) == 20 and set(case.utility) == {"real_authors", "world_facts"}
    alone = Tofu.set({"model": str(tmp_path / "model"), "folder": str(release)}).case(context())
    assert set(alone.baselines) == {"original"} and alone.reference == ""


def test_what_is_not_given_is_asked_for(release):
    with pytest.raises(Missing, match="model="):
        Tofu.set({"folder": str(release)}).case(context())
    with pytest.raises(Missing, match="no folder"):
        Tofu.set({"model": "x", "folder": str(release / "nowhere")}).case(context())


def test_the_hub_gives_the_same_parts(release, monkeypatch):
    """A stand-in for the library `datasets`: configurations by name, ValueError for one that is not there, OSError offline."""
    files = _files(release)

    def load_dataset(name, config, split):
        assert split == "train"
        if name == "offline/TOFU":
            raise OSError("no connection\nto the hub")
        rows = files(config)
        if rows is None:
            raise ValueError(f"BuilderConfig {config!r} not found")
        return rows

    errors = SimpleNamespace(DatasetsError=type("DatasetsError", (Exception,), {}))
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset, exceptions=errors))
    assert read(_hub("locuslab/TOFU"), "forget10") == read(files, "forget10")
    with pytest.raises(Missing, match="'full' of offline/TOFU from the hub: no connection to the hub"):
        read(_hub("offline/TOFU"), "forget10")


def test_the_hub_needs_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(Missing, match=r"efface\[hub\]"):
        Tofu.set({"model": "x"}).case(context())


def test_rows_of_the_facts_stay_readable_by_the_metrics():
    """The tiny facts have the columns that TOFU has, so what is tested on them holds for TOFU."""
    assert set(perturbed(0)) <= set(facts().forget[0])
