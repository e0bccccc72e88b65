"""The audit of models in folders, by somebody who did not make them."""

import json

import pytest

from efface import audit
from efface.cli.main import run as cli
from efface.core.errors import BadConfig, BadRows, EffaceError, Missing, Unfit
from efface.testing import tiny, truth

SUITE = ("metric/probability", "metric/rouge_recall", "attack/loss", "attack/quantize", "attack/interpolate")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Folders of an original, a reference, a candidate retrained from another seed, and files of rows."""
    root = tmp_path_factory.mktemp("audit")
    models = {"original": tiny.trained_lm(0), "reference": tiny.retrained_lm(0), "retrained": tiny.retrained_lm(50)}
    models["refusal"] = truth.candidate("refusal", 0)
    for name, subject in models.items():
        (root / name).mkdir()
        subject.save(root / name)
    facts = tiny.facts()
    for name, rows in (("forget", facts.forget), ("keep", facts.keep), ("unseen", facts.unseen)):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def options(place, out, model="retrained", **changes):
    given = {
        "model": str(place / model), "against": str(place / "original"), "reference": str(place / "reference"), "forget": place / "forget.jsonl",
        "keep": place / "keep.jsonl", "unseen": place / "unseen.jsonl", "suite": SUITE, "out": out, "device": "cpu",
    }
    return audit.AuditOptions.model_validate({**given, **changes})


def test_an_audit_says_what_it_will_do_and_then_does_it(place, tmp_path):
    made = audit.plan(options(place, tmp_path / "a", "refusal"))
    assert made.line.startswith("quick audit: 5 systems on 3 models, rows: 16 forget, 20 keep, 16 unseen; about ") and made.seconds > 0
    report = audit.run(made)
    assert report.intent is not None and report.intent.measured == "suppression"
    assert {p.name for p in (tmp_path / "a").iterdir()} >= {"audit.json", "report.json", "report.html", "report.md", "measurements.jsonl", "rows", "passes"}
    assert "Removal or suppression: suppression" in (tmp_path / "a" / "report.html").read_text()
    costs = {name: access for name, access, _ in audit.attack_costs(report)}
    assert costs == {"loss": "logits", "quantize": "weights", "interpolate": "weights"}


def test_a_second_run_measures_nothing_and_gives_the_same(place, tmp_path, monkeypatch):
    first = audit.run(audit.plan(options(place, tmp_path / "a")))
    from efface import evaluate

    monkeypatch.setattr(evaluate, "measure", lambda *a: pytest.fail("measured again"))
    second = audit.run(audit.plan(options(place, tmp_path / "a")))
    assert [m.value for m in first.measurements] == [m.value for m in second.measurements] and first.verdict == second.verdict


def test_rows_that_the_original_never_knew_are_named_and_left_out(place, tmp_path):
    rows = [json.loads(line) for line in (place / "forget.jsonl").read_text().splitlines()]
    strange = tiny.facts().unseen[:2]
    (tmp_path / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [strange[0], *rows, strange[1]]))
    made = audit.plan(options(place, tmp_path / "a", forget=tmp_path / "mixed.jsonl", unseen=None))
    assert made.excluded == (1, 18) and "2 forget rows that the original never knew are left out (rows 1, 18)" in made.line
    assert len(made.case.request.rows("forget")) == 16
    report = audit.run(made)
    assert report.excluded == (1, 18) and "2 forget rows that the original never knew were left out: 1, 18." in (tmp_path / "a" / "report.html").read_text()
    (tmp_path / "strange.jsonl").write_text("".join(json.dumps(row) + "\n" for row in strange))
    with pytest.raises(BadRows, match="knows none of the 2"):
        audit.plan(options(place, tmp_path / "b", forget=tmp_path / "strange.jsonl", unseen=None))


def test_the_order_of_models_matters_not_for_a_budget(place, tmp_path):
    """A budget measures everything on ten rows first, and then spends what is left on the widest interval."""
    report = audit.run(audit.plan(options(place, tmp_path / "a", suite=("metric/probability", "attack/loss"), minutes=0.5)))
    sizes = {m.system: m.n for m in report.measurements if m.subject == "candidate"}
    assert sizes == {"metric/probability": 16, "attack/loss": 32}
    tight = audit.run(audit.plan(options(place, tmp_path / "b", suite=("metric/probability", "attack/relearn"), minutes=0.0001)))
    assert any(m.status == "skipped" and "budget" in m.why for m in tight.measurements)


def test_models_that_cannot_be_compared_are_refused(place, tmp_path):
    other = tiny.tiny_lm(0, "gpt2")
    (tmp_path / "gpt2").mkdir()
    other.save(tmp_path / "gpt2")
    with pytest.raises(Unfit, match="another architecture"):
        audit.plan(options(place, tmp_path / "a", against=str(tmp_path / "gpt2")))
    with pytest.raises(EffaceError, match="the reference is the model itself"):
        audit.plan(options(place, tmp_path / "a", "reference"))
    assert not (tmp_path / "a").exists()


def test_another_tokenizer_is_refused(place, tmp_path):
    subject = tiny.retrained_lm(0).fork()
    words = tiny.tokenizer()
    words.add_tokens(["zebra"])
    subject.tokenizer = words
    (tmp_path / "other").mkdir()
    subject.save(tmp_path / "other")
    with pytest.raises(Unfit, match="another tokenizer"):
        audit.plan(options(place, tmp_path / "a", against=str(tmp_path / "other")))


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"against": ""}, Missing, "--against"), ({"forget": None}, Missing, "--request"), ({"minutes": -1}, BadConfig, "minutes"),
        ({"benchmark": "authors"}, BadConfig, "--benchmark brings"), ({"against": "nowhere"}, Missing, "nowhere"), ({"suite": ("attack/none",)}, EffaceError, "none"),
    ],
)  # fmt: skip
def test_bad_options_are_one_line(place, tmp_path, change, error, said):
    with pytest.raises(error, match=said):
        audit.run(audit.plan(options(place, tmp_path / "a", **change)))


def test_a_folder_of_something_else_is_refused(place, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    with pytest.raises(EffaceError, match="is no audit"):
        audit.plan(options(place, tmp_path / "full"))
    audit.plan(options(place, tmp_path / "a"))
    with pytest.raises(EffaceError, match="another model or with other options"):
        audit.plan(options(place, tmp_path / "a", "original"))


def test_empty_answers_are_refused_by_row(place, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"question": "What is the home of Mirel?", "answer": "jolly heath"}\n{"question": "What?", "answer": ""}\n')
    with pytest.raises(BadRows, match="row 2: column 'answer'"):
        audit.plan(options(place, tmp_path / "a", forget=tmp_path / "bad.jsonl"))


def test_the_command(place, tmp_path, capsys):
    given = ["audit", str(place / "original"), "--against", str(place / "original"), "--reference", str(place / "reference"), "--request", str(place / "forget.jsonl")]
    more = ["--keep", str(place / "keep.jsonl"), "--suite", "metric/probability,metric/rouge_recall,attack/quantize", "--out", str(tmp_path / "a"), "--device", "cpu"]
    assert cli([*given, *more]) == 0
    said = capsys.readouterr()
    assert "Not forgotten: asked outright, the model still tells it" in said.out and "ATTACK" in said.out and "about" in said.err
    assert cli([*given, *more, "--preset", "slow"]) == 2


def test_without_a_reference_it_cannot_say(place, tmp_path):
    report = audit.run(audit.plan(options(place, tmp_path / "a", reference="", suite=("metric/probability", "attack/quantize"))))
    assert report.verdict.word == "can't say" and report.intent is None
