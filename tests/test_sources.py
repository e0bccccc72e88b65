"""One table of which a part must go: by class, by row numbers, by a column; and everything that can be wrong with it."""

import json

import pytest
from safetensors.torch import save_model

from efface import runs, sources
from efface.cli.main import run as efface
from efface.core.errors import EffaceError
from efface.families.tables import write_arrays
from efface.testing import tiny

ARCH = "efface.families.networks:MLP"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Training and test rows of the digits, the first with an identity, and the weights of a trained network."""
    folder = tmp_path_factory.mktemp("table")
    parts = tiny.digits()
    train = [{**row, "identity": at % 5} for at, row in enumerate([*parts.forget[:40], *parts.keep[:200]])]
    write_arrays(folder / "train.safetensors", train)
    write_arrays(folder / "test.safetensors", [*parts.unseen[:20], *parts.test[:60]])
    save_model(tiny.trained_classifier().model, str(folder / "net.safetensors"))
    (folder / "ids.txt").write_text("1\n2\n41\n")
    return folder


def source(place, **changes):
    given = {"model": str(place / "net.safetensors"), "arch": ARCH, "data": place / "train.safetensors", "test": place / "test.safetensors"}
    return sources.Source.model_validate({**given, **changes})


def test_a_class_goes_and_its_test_rows_are_the_null(place):
    case = sources.start(source(place, forget_where="y=3"), "method")
    assert case.request.kind == "class" and case.request.names == ("3",)
    assert {row["y"] for row in case.request.rows("forget")} == {row["y"] for row in case.request.rows("unseen")} == {3}
    assert 3 not in {row["y"] for row in [*case.request.rows("keep"), *case.utility["test rows"].read()]}
    assert len(case.request.rows("forget")) == 40 and len(case.request.rows("keep")) == 200


def test_rows_by_number_and_by_column(place):
    by_number = sources.start(source(place, forget_where=f"rows={place / 'ids.txt'}"), "method").request
    assert len(by_number.rows("forget")) == 3 and len(by_number.rows("keep")) == 237 and by_number.kind == "examples"
    by_column = sources.start(source(place, forget_where="identity=2"), "method").request
    assert len(by_column.rows("forget")) == 48 and {row["identity"] for row in by_column.rows("keep")} == {0, 1, 3, 4}
    assert len(by_column.rows("unseen")) == 80


def test_what_is_wrong_is_said_in_one_line(place, tmp_path):
    rows = tiny.digits().keep[:4]
    broken = {
        "label": [*rows, {**rows[0], "y": 10}], "nan": [*rows, {**rows[0], "x": [float("nan"), *rows[0]["x"][1:]]}], "shape": [{"x": [1.0, 2.0], "y": 1}, {"x": [0.0, 2.0], "y": 3}],
        "twice": [{**rows[0], "y": 3}, rows[0], *rows[1:]],
    }
    for name in ("label", "shape", "twice"):
        write_arrays(tmp_path / f"{name}.safetensors", broken[name])
    (tmp_path / "nan.jsonl").write_text("".join(json.dumps({"x": list(row["x"]), "y": row["y"]}) + "\n" for row in broken["nan"]))
    for data, where, says in (
        (tmp_path / "label.safetensors", "y=3", r"label.safetensors, row 5: y = 10; it must be a class number below 10"),
        (tmp_path / "nan.jsonl", "y=3", r"nan.jsonl, row 5: x is empty or holds a number that is not finite"),
        (tmp_path / "shape.safetensors", "y=3", r"shape.safetensors: the model does not take these rows"),
        (tmp_path / "twice.safetensors", "y=3", r"both forget and keep: forget row 1 = keep row 1"),
        (place / "train.safetensors", "y=11", r"no row is left of 240 by 'y=11'"),
        (place / "train.safetensors", "", r"what to forget was not said"),
    ):
        with pytest.raises(EffaceError, match=says):
            sources.start(source(place, data=data, forget_where=where, test=None), "method")
    everything = tmp_path / "one.safetensors"
    write_arrays(everything, [{**row, "y": 3} for row in rows])
    with pytest.raises(EffaceError, match="y=3 takes all 4 rows"):
        sources.start(source(place, data=everything, forget_where="y=3", test=None), "method")


def test_from_the_command_line_to_the_verdict(place, tmp_path, capsys):
    """Without a reference the verdict is "can't say"; with one it is made, and the run can be proven from its folder alone."""
    out = tmp_path / "run"
    common = ["--model", str(place / "net.safetensors"), "--arch", ARCH, "--data", str(place / "train.safetensors"), "--test", str(place / "test.safetensors")]
    assert efface(["forget", *common, "--forget-class", "3", "--method", "refit", "--set", "fit.epochs=15", "--out", str(out)]) == 0
    reference = tmp_path / "reference"
    reference.mkdir()
    tiny.retrained_classifier().save(reference)
    quick = ["--suite", "metric/accuracy"]
    assert efface(["prove", str(out), *quick]) == 0
    assert "Can't say: no reference model was given" in capsys.readouterr().out
    assert efface(["prove", str(out), "--reference", str(reference), *quick]) == 0
    assert runs.load_report(out).verdict.word in ("forgotten", "not forgotten", "over-forgotten", "can't say", "damaged")
    assert efface(["forget", *common, "--forget-class", "3", "--forget-where", "y=3", "--out", str(tmp_path / "x")]) == 2
    assert "said more than once" in capsys.readouterr().err
    assert efface(["forget", *common, "--forget-class", "3", "--arch-args", "[1]", "--out", str(tmp_path / "x")]) == 2
    assert "give an object" in capsys.readouterr().err
    assert efface(["forget", *common, "--forget-class", "3", "--task", "cat", "--out", str(tmp_path / "x")]) == 2
