"""Certificates of private training: epsilon counted again, the base followed, and what must not be claimed."""

import json
import math

import pytest

from efface.certify.issue import issue, verify
from efface.certify.private import count_epsilon
from efface.core.errors import Unsound
from efface.core.types import Data, Request, Step
from efface.runs import RunRecord, Source
from efface.testing.tiny import digits, tiny_classifier

NOTES = {
    "epsilon": 1.712, "delta": 1e-5, "noise_multiplier": 1.1, "sample_rate": 0.01, "dp_steps": 1000.0, "clip": 1.0, "rows": 1297.0,
    "accountant": "rdp", "sampling": "poisson",
}  # fmt: skip


def run(folder, system="dp", notes=None, model="", forget=None, keep=None):
    """A finished run made by hand: a model, and what the run says of itself."""
    (folder / "model").mkdir(parents=True)
    tiny_classifier().save(folder / "model")
    parts = {}
    for name, rows in (("forget", forget), ("keep", keep)):
        if rows is not None:
            path = folder.parent / f"{folder.name}-{name}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            parts[name] = Data.file(path)
    record = RunRecord(
        kind="recipe", source=Source(model=str(model)), request=Request(**parts), step=Step(kind="recipe", system=system, notes=NOTES if notes is None else notes),
    )  # fmt: skip
    (folder / "run.json").write_text(record.model_dump_json())
    return folder


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "epsilon"),
    [(1.1, 0.01, 1000, 1.7118), (1.0, 0.01, 10000, 6.7127), (2.0, 0.1, 100, 2.5806), (5.0, 1.0, 100, 10.7255), (1.0, 1.0, 1, 4.7285)],
)
def test_epsilon_is_counted_as_known(noise, rate, steps, epsilon):
    """Values of Renyi accounting at delta 1e-5 from an independent implementation of its formula."""
    assert count_epsilon(noise, rate, steps, 1e-5) == pytest.approx(epsilon, abs=1e-4)
    assert count_epsilon(0.0, rate, steps, 1e-5) == math.inf


def test_private_training_is_certified(tmp_path):
    certificate = issue(run(tmp_path / "base"))
    assert certificate.claim == "bounded" and certificate.bound == {"epsilon": 1.712, "delta": 1e-5, "rows": 1.0, "epsilon of all rows": 1.712, "delta of all rows": pytest.approx(1e-5)}
    held = {item.name: item for item in certificate.assumptions}
    assert held["epsilon"].basis == "checked" and held["epsilon"].found == "counted 1.7118, claimed 1.7120"
    assert held["clean start"].basis == held["as said"].basis == "declared"
    assert verify(tmp_path / "base" / "certificate.json").good


@pytest.mark.parametrize(
    ("change", "assumption"),
    [
        ({"epsilon": 1.5}, "epsilon"), ({"noise_multiplier": 0.0}, "epsilon"), ({"dp_steps": 5000.0}, "epsilon"), ({"sampling": "shuffled"}, "sampling"),
        ({"delta": 1e-3}, "delta"), ({"clip": math.inf}, "clipping"), ({"clip": "none"}, "a whole record"),
    ],
)  # fmt: skip
def test_refused_by_name(tmp_path, change, assumption):
    folder = run(tmp_path / "base", notes={**NOTES, **({} if change.get("clip") == math.inf else change)})
    if change.get("clip") == math.inf:  # which JSON cannot hold
        text = (folder / "run.json").read_text().replace('"clip":1.0', '"clip":Infinity')
        (folder / "run.json").write_text(text)
    with pytest.raises(Unsound, match=f"the assumption '{assumption}' fails"):
        issue(folder)


def test_unlearning_after_private_training(tmp_path):
    """Five rows forgotten together have five times the epsilon, and the statement says so."""
    base, rows = run(tmp_path / "base"), digits().keep[:20]
    certificate = issue(run(tmp_path / "after", "dp2unlearn", {}, base / "model", rows[:5], rows[5:]))
    assert certificate.bound["epsilon"] == 1.712 and certificate.bound["epsilon of all rows"] == pytest.approx(8.56)
    assert "e^8.56" in certificate.statement and "single forgotten row" in certificate.statement
    with pytest.raises(Unsound, match="'private base' fails.*finetune"):
        issue(run(tmp_path / "wrong", "dp2unlearn", {}, run(tmp_path / "raw", "finetune"), rows[:5], rows[5:]))
    with pytest.raises(Unsound, match="'private base' fails"):
        issue(run(tmp_path / "lost", "dp2unlearn", {}, tmp_path / "nowhere", rows[:5], rows[5:]))
    with pytest.raises(Unsound, match="'no copies' fails.*forget row 1"):
        issue(run(tmp_path / "copies", "dp2unlearn", {}, base, rows[:5], rows[4:] + [{**rows[0], "id": 9}]))


def test_delta_grows_with_the_rows_of_a_group():
    """eps = ln 2, delta = 1e-6: two rows (4 - 1) / (2 - 1) = 3e-6, three rows (8 - 1) / (2 - 1) = 7e-6."""
    import math

    from efface.certify.private import group_delta

    assert group_delta(math.log(2), 1e-6, 1) == pytest.approx(1e-6)
    assert group_delta(math.log(2), 1e-6, 2) == pytest.approx(3e-6)
    assert group_delta(math.log(2), 1e-6, 3) == pytest.approx(7e-6)
    assert group_delta(10.0, 1e-6, 1000) == math.inf
    assert group_delta(0.0, 1e-6, 5) == pytest.approx(5e-6)
