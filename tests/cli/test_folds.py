"""efface folds: a table of rounds on standard output, and one line for what is wrong."""

import json

from efface.testing.tiny import facts, trained_lm

QUICK = ("--set", "fit.steps=1", "--set", "fit.batch=2", "--device", "cpu")


def test_rounds_are_printed(efface, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    trained_lm().save(model)
    for name in ("forget", "keep"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in getattr(facts(), name)[:4]), encoding="utf-8")
    given = ("--model", model, "--forget", tmp_path / "forget.jsonl", "--keep", tmp_path / "keep.jsonl", "--method", "grad_diff", "--folds", 2, *QUICK)
    done = efface("folds", *given, "--out", tmp_path / "a")
    assert done.code == 0 and done.out.splitlines()[0].split() == ["ROUND", "REQUEST", "VERBATIM_MEMORY", "KNOWLEDGE_MEMORY"]
    assert [line.split()[:2] for line in done.out.splitlines()[1:4]] == [["1", "1"], ["2", "1"], ["2", "2"]]
    grown = efface("folds", *given, "--study", "scaling", "--suite", "metric/probability", "--out", tmp_path / "b", "--json")
    rows = json.loads(grown.out)["rounds"]
    assert [(row["round"], row["rows"], row["measure"], row["n"]) for row in rows] == [(1, 2, "probability", 2), (2, 4, "probability", 4)]


def test_wrong_use_is_one_line(efface, tmp_path):
    wrong = efface("folds", "--study", "backward", "--out", tmp_path / "a")
    assert wrong.code == 2 and wrong.line == "--study backward: it must be sequential or scaling"
    nothing = efface("folds", "--method", "grad_diff", "--out", tmp_path / "a")
    assert nothing.code == 2 and "no model was given" in nothing.line and not (tmp_path / "a").exists()
    assert efface("folds", "--method", "no_such", "--out", tmp_path / "a").code == 2
