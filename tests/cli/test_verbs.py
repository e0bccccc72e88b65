import json
from pathlib import Path

import pytest

from efface import api, runs
from efface import compare as comparing
from efface.core.errors import Missing


@pytest.fixture
def asked(monkeypatch, report, tmp_path) -> dict[str, tuple]:
    """What the verbs ask of the Python interface, which does nothing here but remember it."""
    seen: dict[str, tuple] = {}

    def remember(name: str, answer: object):
        def call(*arguments: object, **named: object) -> object:
            seen[name] = (*arguments, named) if named else arguments
            return answer

        return call

    page = tmp_path / "run1" / "report.html"
    page.parent.mkdir()
    for name, answer in (
        ("forget", page.parent),
        ("train", page.parent),
        ("prove", report),
        ("write_report", page),
        ("load_report", report),
    ):
        monkeypatch.setattr(runs, name, remember(name, answer))
    table = tmp_path / "table.md"
    table.write_text("| method |\n")
    monkeypatch.setattr(comparing, "compare", remember("compare", table))
    for name, answer in (("load", "model"), ("request", "request"), ("prove", report)):
        monkeypatch.setattr(api, name, remember(f"api.{name}", answer))
    return seen


def test_forget_hands_on_what_it_is_given(efface, asked, rows) -> None:
    done = efface(
        "forget", "--model", "smollm2", "--forget", rows / "forget.jsonl", "--keep", rows / "keep.jsonl", "--method", "simnpo",
        "--set", "beta=0.2", "--set", "fit.lr=1e-5", "--seed", 3, "--device", "cpu", "--dtype", "float32",
        "--reason", "asked", "--out", rows / "new",
    )  # fmt: skip
    options = asked["forget"][0]
    assert done.code == 0 and "efface prove" in done.out
    assert (options.model, options.method, options.seed, options.device, options.dtype, options.reason) == (
        "smollm2",
        "simnpo",
        3,
        "cpu",
        "float32",
        "asked",
    )
    assert options.settings == {"beta": "0.2", "fit.lr": "1e-5"} and options.out == rows / "new" and options.unseen is None


def test_forget_shows_the_columns_that_it_found(efface, asked, rows) -> None:
    done = efface("forget", "--model", "m", "--forget", rows / "forget.jsonl", "--keep", rows / "keep.jsonl", "--out", rows / "new")
    assert done.err.splitlines() == [
        "efface: forget.jsonl: 3 rows, prompt = question, answer = answer",
        "efface: keep.jsonl: 3 rows, prompt = question, answer = answer",
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty"),
        ("{\n", "bad.jsonl:1"),
        ('{"a": 1}\n', "found columns a"),
        ('{"question": "q", "answer": ""}\n', "row 1"),
        ("[3]", "element 1"),
    ],
)
def test_bad_rows_are_refused_before_any_model_is_touched(efface, asked, tmp_path, content, says) -> None:
    (tmp_path / "bad.jsonl").write_text(content)
    done = efface("forget", "--model", "m", "--forget", tmp_path / "bad.jsonl", "--out", tmp_path / "new")
    assert done.code == 2 and says in done.line and "forget" not in asked


def test_missing_rows_and_settings_are_refused_before_any_model_is_touched(efface, asked, rows) -> None:
    done = efface("forget", "--model", "m", "--forget", rows / "nowhere.jsonl", "--out", rows / "new")
    assert done.code == 2 and "no file" in done.line
    done = efface("forget", "--model", "m", "--forget", rows / "forget.jsonl", "--set", "beta", "--out", rows / "new")
    assert done.code == 2 and "name=value" in done.line and "forget" not in asked


def test_forget_on_a_benchmark_and_in_json(efface, asked, tmp_path) -> None:
    done = efface("forget", "--benchmark", "authors", "--split", 10, "--out", tmp_path / "new", "--json")
    assert json.loads(done.out) == {"run": str(tmp_path / "run1"), "model": str(tmp_path / "run1/model")}
    assert (asked["forget"][0].benchmark, asked["forget"][0].split, asked["forget"][0].method) == ("authors", "10", "npo")


def test_train(efface, asked, rows) -> None:
    files = ("--forget", rows / "forget.jsonl", "--keep", rows / "keep.jsonl")
    done = efface("train", "--model", "smollm2", "--recipe", "retrain", *files, "--set", "fit.steps=5", "--out", rows / "new", "--json")
    options = asked["train"][0]
    assert done.code == 0 and (options.recipe, options.settings, options.part) == ("retrain", {"fit.steps": "5"}, "")
    efface("train", "--benchmark", "authors", "--part", "reference", "--out", rows / "new")
    assert asked["train"][0].part == "reference"


def test_prove_prints_the_verdict_first_and_everything_else_after(efface, asked, tmp_path, report) -> None:
    done = efface(
        "prove", tmp_path / "run1", "--reference", "ref", "--no-attacks", "--fresh", "--suite", "metric/rouge_recall,attack/min_k"
    )
    folder, options, _ = asked["prove"]
    assert folder == tmp_path / "run1"
    assert (options.reference, options.attacks, options.fresh, options.suite) == (
        "ref",
        False,
        True,
        ("metric/rouge_recall", "attack/min_k"),
    )
    assert done.code == 0 and done.out.startswith(report.verdict.line)
    assert "rouge_recall" in done.out and "worst attack: reference" in done.out
    assert "skipped: metric/gibberish (before, after, reference): gibberish needs" in done.out


def test_prove_in_json_is_the_report(efface, asked, tmp_path, report) -> None:
    assert json.loads(efface("prove", tmp_path / "run1", "--json").out) == json.loads(report.model_dump_json())


def test_3_when_a_gate_fails(efface, asked, tmp_path) -> None:
    done = efface("prove", tmp_path / "run1", "--fail-if", "attack.worst>0.1", "--fail-if", "verdict!=forgotten")
    assert done.code == 3 and done.line.startswith("gate failed: attack.worst>0.1: distance of reference")
    assert done.out.startswith("Forgotten:")
    assert efface("prove", tmp_path / "run1", "--fail-if", "attack.worst>0.2").code == 0


def test_a_malformed_gate_is_refused_before_anything_is_measured(efface, asked, tmp_path) -> None:
    done = efface("prove", tmp_path / "run1", "--fail-if", "attack.worst")
    assert done.code == 2 and "--fail-if" in done.line and "prove" not in asked


def test_terminal_codes_in_a_report_are_not_obeyed(efface, asked, monkeypatch, report, tmp_path) -> None:
    verdict = report.verdict.model_copy(update={"line": "Forgotten: \x1b]0;owned\x07\x1b[2J"})
    monkeypatch.setattr(runs, "prove", lambda *_: report.model_copy(update={"verdict": verdict}))
    assert "\x1b" not in efface("prove", tmp_path / "run1").out


def test_report_prints_the_path(efface, asked, tmp_path) -> None:
    assert efface("report", tmp_path / "run1").out == f"{tmp_path / 'run1/report.html'}\n"
    assert set(json.loads(efface("report", tmp_path / "run1", "--json").out)) == {"html", "markdown", "json"}


def test_report_of_nothing_is_one_line(efface, tmp_path) -> None:
    done = efface("report", tmp_path / "nowhere")
    assert done.code == 2 and "nowhere" in done.line


def test_compare(efface, asked, tmp_path) -> None:
    done = efface(
        "compare",
        "--methods",
        "npo,kl",
        "--seeds",
        "0,1,2",
        "--set",
        "npo:fit.lr=1e-4",
        "--set",
        "fit.steps=9",
        "--no-attacks",
        "--out",
        tmp_path,
    )
    options = asked["compare"][0]
    assert done.code == 0 and "| method |" in done.out and str(tmp_path / "table.md") in done.out
    assert (options.methods, options.seeds, options.attacks, options.benchmark) == (("npo", "kl"), (0, 1, 2), False, "authors")
    assert options.settings == {"npo": {"fit.lr": "1e-4"}, "all": {"fit.steps": "9"}}
    efface("compare", "--out", tmp_path)
    assert asked["compare"][0].methods == ()
    assert "whole numbers" in efface("compare", "--seeds", "a,b", "--out", tmp_path).line


def test_attack_on_a_run_adds_to_its_report(efface, asked, tmp_path) -> None:
    run = tmp_path / "run1"
    for name in ("run.json", "report.json"):
        (run / name).write_text("{}")
    assert efface("attack", run, "--attack", "loss").code == 0
    suite = asked["prove"][1].suite
    assert "attack/loss" in suite and "metric/model_utility" in suite and len(set(suite)) == len(suite)
    (run / "report.json").unlink()
    efface("attack", run, "--attack", "zlib")
    assert asked["prove"][1].suite == ("attack/zlib",)


def test_attack_on_a_model_needs_rows(efface, asked, rows) -> None:
    assert "--forget" in efface("attack", "somewhere/model", "--attack", "min_k").line
    done = efface("attack", "somewhere/model", "--attack", "min_k", "--forget", rows / "forget.jsonl", "--fail-if", "attack.worst>0.1")
    assert done.code == 3
    assert asked["api.prove"][-2] == ("attack/min_k",) and "prove" not in asked
    assert "did you mean min_k" in efface("attack", "somewhere/model", "--attack", "min_kk").line


def test_demo_forgets_once_and_proves(efface, asked, tmp_path) -> None:
    assert efface("demo", "--out", tmp_path / "new").code == 0
    assert (asked["forget"][0].benchmark, asked["forget"][0].method) == ("authors", "npo")
    asked.clear()
    (tmp_path / "run1/run.json").write_text("{}")
    assert efface("demo", "--out", tmp_path / "run1").out.startswith("Forgotten:")
    assert "forget" not in asked and "prove" in asked


def test_show(efface) -> None:
    done = efface("show", "npo")
    assert done.code == 0 and done.out.startswith("method npo: ") and "arXiv:2404.05868" in done.out and "fit.lr" in done.out
    entry = json.loads(efface("show", "method/npo", "--json").out)
    beta = next(row for row in entry["settings"] if row["name"] == "beta")
    assert entry["kind"] == "method" and beta["type"] == "float > 0" and beta["help"]


def test_show_of_two_kinds_shows_both(efface) -> None:
    """finetune is a recipe and a method."""
    assert [entry["kind"] for entry in json.loads(efface("show", "finetune", "--json").out)] == ["recipe", "method"]


def test_show_without_what_it_needs_still_shows_the_card(efface, monkeypatch) -> None:
    def load(kind: str, name: str) -> type:
        raise Missing("npo needs x; run: pip install x")

    monkeypatch.setattr("efface.core.registry.load", load)
    done = efface("show", "npo", "--json")
    assert done.code == 0 and json.loads(done.out)["settings"] == [] and "pip install x" in done.line


def test_doctor(efface, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "deep" / "cache"))
    found = json.loads(efface("doctor", "--json").out)
    assert found["versions"]["torch"] != "missing" and "cores" in found["devices"]["cpu"]
    assert str(tmp_path) in found["places"]["cache"] and "not converted" in found["places"]["embedded model"]
    assert int(found["systems"]["method"]) >= 8
    assert "embedded model" in efface("doctor").out


def test_doctor_names_broken_plugins(efface, monkeypatch) -> None:
    monkeypatch.setattr("efface.core.registry.broken_plugins", lambda: {"bad-dist": "ImportError: no"})
    assert json.loads(efface("doctor", "--json").out)["plug-ins"] == {"bad-dist": "ImportError: no"}


def test_tables_are_plain_without_a_terminal(efface) -> None:
    lines = efface("list", "--kind", "recipe").out.splitlines()
    assert lines[0].split() == ["KIND", "NAME", "TITLE", "PAPER", "FAMILIES"]
    assert lines[1].index(lines[1].split()[1]) == lines[0].index("NAME")


def test_tables_on_a_terminal_show_markup_as_text(capsys, monkeypatch) -> None:
    import sys

    from efface.cli import output

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    output.table(["A", "B"], [["[red]x[/red]", "y\x1b[2J"]])
    out = capsys.readouterr().out
    assert "[red]x[/red]" in out and "\x1b[2J" not in out


def test_verb_files_stay_short() -> None:
    folder = Path(__file__).parents[2] / "src" / "efface" / "cli"
    assert {path.name for path in folder.glob("*.py") if len(path.read_text().splitlines()) >= 150} == set()
