"""SISA: the schedule, bit-exact deletion, and what a deletion costs."""

import json

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from efface.core.context import Context
from efface.core.errors import BadConfig, BadRows, Diverged, Unfit
from efface.core.types import Data, Request
from efface.families import lineage
from efface.families.classifier import Classifier, SklearnClassifier
from efface.families.networks import MLP, SmallCNN, seeded
from efface.recipes.sisa import Sisa, schedule
from efface.testing import tiny

DIGITS = tiny.digits("random")
ROWS = [*DIGITS.forget, *DIGITS.keep]
SHAPE = {"inputs": 64, "hidden": [16], "outputs": 10}
QUICK = {"shards": 2, "slices": 3, "epochs": 3, "batch": 8, "lr": 0.05, "momentum": 0.5}
COUNT = 64
"""Rows of a quick run: not a multiple of 2 x 3, so that there are remainders."""


def small() -> Classifier:
    return Classifier(seeded(MLP, 0, **SHAPE), SHAPE)


def training(rows) -> lineage.Training:
    return lineage.training(Request(keep=Data.inline(rows)))


def built(rows, deleted=(), folder=None, start=None, **settings):
    """Ensemble, lineage and training log."""
    ctx = Context(seed=3, device="cpu", folder=folder)
    return *Sisa.set({**QUICK, **settings}).build(start or small(), training(rows), deleted, ctx), ctx.curve


def moved(rows, number: int) -> list:
    """The same rows, one of them moved by a huge constant and told to be something else."""
    row = rows[number - 1]
    return [*rows[: number - 1], {"x": [value + 1e6 for value in row["x"]], "y": (row["y"] + 1) % 10}, *rows[number:]]


def in_slice(record: lineage.Lineage, number: int) -> int:
    """Number of the first slice that holds a row, from 1."""
    return min(int(piece.name[-1]) for piece in record.pieces if number in piece.rows)


def test_formula():
    """a = 2 E / (R + 1). E = 5, R = 3: a = 2.5, floors 2, 5, 7, so 2, 3, 2 epochs; E = 6, R = 2: a = 4. One step by hand:

    a linear model at zero gives every of two classes 1/2; the gradient of the mean loss over x = (1, 0) of class 0 and x = (0, 2)
    of class 1 is ((-1/4, 1/2), (1/4, -1/2)), and lr = 1 subtracts it.
    """
    assert schedule(5, 3) == [2, 3, 2] and schedule(6, 2) == [4, 4] and schedule(1, 1) == [1]
    for epochs, slices in ((20, 4), (20, 5), (7, 3), (50, 9)):
        spent = sum(each * stage for stage, each in enumerate(schedule(epochs, slices), start=1)) / slices
        assert spent == pytest.approx(epochs, abs=1)
    model = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(model.weight)
    rows = [{"x": [1.0, 0.0], "y": 0}, {"x": [0.0, 2.0], "y": 1}]
    after, _, _ = built(rows, start=Classifier(model), shards=1, slices=1, epochs=1, batch=2, lr=1.0, momentum=0.0)
    assert after.members[0].model.weight.tolist() == [[0.25, -0.5], [-0.25, 0.5]]


def test_no_op(tmp_path):
    """What stands in the folder is not trained again; the start is left as it was."""
    start, rows = small(), ROWS[:COUNT]
    before = start.digest
    first, record, curve = built(rows, folder=tmp_path, start=start)
    again, same, nothing = built(rows, folder=tmp_path, start=start)
    assert again.digest == first.digest and same == record and len(curve) == 6 and nothing == []
    assert start.digest == before and built(rows)[0].digest == first.digest


@pytest.mark.parametrize("slice_number", [1, 2, 3])
def test_forgets(tmp_path, slice_number):
    """Bit for bit what training without the row gives, whatever the row was; R - r + 1 stages of one shard are trained, no others."""
    rows = ROWS[:COUNT]
    clean, record, _ = built(rows)
    number = next(n for n in range(1, COUNT + 1) if in_slice(record, n) == slice_number)
    dirty, _, _ = built(moved(rows, number), folder=tmp_path)
    assert dirty.digest != clean.digest
    after, left, curve = built(moved(rows, number), {number}, tmp_path)
    without, named, _ = built(rows, {number})
    assert after.digest == without.digest != clean.digest
    assert len(curve) == 3 - slice_number + 1
    assert all(number not in piece.rows for piece in left.pieces) and left.deleted == [number]
    assert [piece.rows for piece in left.pieces] == [piece.rows for piece in named.pieces]


def test_other_rows_stay_in_their_batches(monkeypatch):
    """Without row 5, every batch is what it was, but for row 5."""
    seen: list[list[float]] = []
    encode = Classifier.encode
    monkeypatch.setattr(Classifier, "encode", lambda self, rows, index=None: (seen.append([row["id"] for row in rows]), encode(self, rows, index))[1])
    rows = [{**row, "id": at} for at, row in enumerate(ROWS[:COUNT], start=1)]
    built(rows)
    with_it, seen[:] = list(seen), []
    built(rows, {5})
    assert seen == [[number for number in batch if number != 5] for batch in with_it] and any(5 in batch for batch in with_it)


def test_keeps():
    """Three shards that vote know the digits nearly as well as one network trained on everything."""
    after, _, _ = built(ROWS, shards=3, epochs=15, batch=32, momentum=0.9, lr=0.1)
    right = (after.predict(DIGITS.test).argmax(1) == [row["y"] for row in DIGITS.test]).mean()
    assert right > 0.9


def test_every_row_is_in_a_key(tmp_path):
    """64 rows, 2 shards x 3 slices: the remainders too belong to some slice, and deleting any row changes a key."""
    _, record, _ = built(ROWS[:COUNT], folder=tmp_path)
    last = [piece.rows for piece in record.pieces if piece.name.endswith("slice3")]
    assert sorted(sum(last, [])) == list(range(1, COUNT + 1))
    assert [len(piece.rows) for piece in record.pieces] == [11, 21, 32, 10, 21, 32]
    assert [piece.after for piece in record.pieces[:3]] == [[], ["shard1-slice1"], ["shard1-slice2"]]
    names = {path.split("/")[1] for piece in record.pieces for path in piece.files}
    assert names == {place.name for place in (tmp_path / "pieces").iterdir()}


@pytest.mark.parametrize("change", [{"lr": 0.04}, {"batch": 9}, {"seed": 4}, {"rows": 1}])
def test_keys_depend_on_settings_seed_and_content(tmp_path, change):
    """A checkpoint made with other settings, another seed or other rows is never taken for this one."""
    rows = ROWS[:COUNT]
    built(rows, folder=tmp_path)
    others = moved(rows, 1) if "rows" in change else rows
    ctx = Context(seed=change.get("seed", 3), device="cpu", folder=tmp_path)
    settings = {**QUICK, **{name: value for name, value in change.items() if name in QUICK}}
    Sisa.set(settings).build(small(), training(others), (), ctx)
    assert len(ctx.curve) == (4 - in_slice(built(rows)[1], 1) if "rows" in change else 6)


def test_a_shard_without_rows_drops_out(tmp_path):
    """When all rows of a shard are gone, the others vote; when all are gone, nobody does."""
    rows = ROWS[:12]
    _, record, _ = built(rows, slices=2, batch=4)
    mine = set(record.pieces[1].rows)
    after, left, _ = built(rows, mine, slices=2, batch=4)
    assert len(after.members) == 1 and left.pieces[1].rows == [] and after.counts == [1]
    nobody, _, _ = built(rows, set(range(1, 13)), slices=2, batch=4)
    with pytest.raises(Unfit, match="nothing is left to answer"):
        nobody.predict(rows)


def test_batch_normalization_moves_with_the_rows_that_are_left(tmp_path):
    """Statistics are part of a checkpoint; a batch of one row, left over by a deletion, is no accident."""
    shape = {"channels": 1, "side": 8, "outputs": 10, "widths": [4], "embedding": 8}
    start = Classifier(seeded(SmallCNN, 0, **shape), shape)
    rows, settings = ROWS[:8], {"shards": 1, "slices": 2, "batch": 2, "epochs": 2, "start": start}
    dirty, _, _ = built(moved(rows, 2), folder=tmp_path, **settings)
    after, _, _ = built(moved(rows, 2), {2}, tmp_path, **settings)
    assert after.digest == built(rows, {2}, **settings)[0].digest != dirty.digest
    assert not torch.equal(after.members[0].model.body[1].running_mean, start.model.body[1].running_mean)


def test_limits(tmp_path):
    """Fresh starts differ from shard to shard; weights by rows count the rows that are left; the run writes what deletion needs."""
    ctx = Context(seed=3, device="cpu", folder=tmp_path)
    after = Sisa.set({**QUICK, "fresh": True, "weigh": "rows", "combine": "probabilities"}).run(small(), Request(keep=Data.inline(ROWS[:COUNT])), ctx)
    assert after.counts == [32, 32] and after.members[0].digest != after.members[1].digest
    held = json.loads((tmp_path / "lineage.json").read_text())
    assert (held["kind"], held["recipe"], held["seed"], held["deleted"]) == ("sisa", "sisa", 3, [])
    assert held["settings"]["slices"] == 3 and held["data"]["source"] == "inline:"
    assert (tmp_path / "start" / "config.json").exists() and (tmp_path / "rows.json").exists()


def test_estimators_are_fitted_anew():
    """A scikit-learn estimator has shards and no slices; a deletion fits one of them again."""
    start = SklearnClassifier(LogisticRegression(max_iter=50), classes=10)
    rows = ROWS[:90]
    after, record, _ = built(rows, start=start, shards=3, slices=0)
    assert [piece.name for piece in record.pieces] == ["shard1-slice1", "shard2-slice1", "shard3-slice1"]
    left, _, _ = built(moved(rows, 1), {1}, start=start, shards=3, slices=0)
    assert left.digest == built(rows, {1}, start=start, shards=3, slices=0)[0].digest
    assert sum(a.digest != b.digest for a, b in zip(after.members, left.members, strict=True)) == 1
    with pytest.raises(Unfit, match="slices = 3: SklearnClassifier is fitted from nothing"):
        built(rows, start=start)
    with pytest.raises(Unfit, match="a shard of 2 rows cannot be fitted"):
        built([row for row in ROWS if row["y"] == 3][:4], start=start, slices=0)


def test_what_cannot_be_is_refused():
    with pytest.raises(BadConfig, match="epochs = 1: with 3 slices some would never be read; set epochs to at least 2"):
        built(ROWS[:COUNT], epochs=1)
    with pytest.raises(BadRows, match="5 rows cannot fill 2 x 3 slices"):
        built(ROWS[:5])
    with pytest.raises(Diverged, match="loss is .* lower lr"):
        built(ROWS[:COUNT], lr=1e30)
    with pytest.raises(Unfit, match="neither forget nor keep rows"):
        Sisa.set(QUICK).run(small(), Request(), Context())
