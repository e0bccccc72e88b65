"""Training with a record: it is fine-tuning, and what it stores is what the watched batches changed."""

import pytest
import torch

from efface.core.config import build
from efface.core.errors import BadConfig, Unfit
from efface.core.types import Data, Request
from efface.ops.deltas import key, open_deltas
from efface.ops.loop import draw
from efface.recipes.finetune import Finetune
from efface.recipes.recorded import Recorded, RecordedConfig
from efface.testing.tiny import context, digits, tiny_classifier, tiny_regressor

FEW = {"fit.lr": 0.05, "fit.optimizer": "sgd", "fit.momentum": 0.9, "fit.batch": 8, "fit.steps": 12, "fit.clip": 0, "fit.warmup": 0}
PARTS = digits()
REQUEST = Request(forget=Data.inline(PARTS.forget[:10]), keep=Data.inline(PARTS.keep[:40]))


def run(settings=None, request=REQUEST, **changes):
    return Recorded.set({**FEW, **(settings or {})}).run(tiny_classifier(), request, context(**changes))


def test_is_fine_tuning():
    """The same rows in the same order: the same model, bit for bit, whatever is watched."""
    other = Finetune.set(FEW).run(tiny_classifier(), REQUEST, context())
    assert run().digest == run({"watch": "all"}).digest == other.digest


def test_stores_the_steps_that_met_a_watched_row():
    """The loop draws rows from seed and step alone; the first ten rows of the pool are the watched ones."""
    ctx = context()
    drawn = [draw(50, 8, step, ctx.seed_for("rows", "all")) for step in range(12)]
    expected = {step: sorted({key(PARTS.forget[at]) for at in places if at < 10}) for step, places in enumerate(drawn)}
    found = {step: list(rows) for step, rows in run().deltas.steps.items()}
    assert found == {step: rows for step, rows in expected.items() if rows} and 0 < len(found) < 12


def test_a_change_is_what_one_step_did():
    """The first step alone: the change is -lr times the gradient of the mean loss, .05 g."""
    after = run({"fit.steps": 1, "watch": "all", "fit.weight_decay": 0})
    (step, change), = after.deltas.changes(after.deltas.watched)
    start, end = tiny_classifier().model.state_dict(), after.model.state_dict()
    ctx = context()
    subject = tiny_classifier().trainable(0, 0)
    rows = [[*REQUEST.rows("forget"), *REQUEST.rows("keep")][at] for at in draw(50, 8, 0, ctx.seed_for("rows", "all"))]
    subject.losses(subject.encode(rows)).mean().backward()
    assert step == 0
    for name, parameter in subject.model.named_parameters():
        assert torch.allclose(change[name], -0.05 * parameter.grad, atol=1e-7) and torch.equal(change[name], end[name] - start[name])


def test_the_pieces_of_a_step_are_one_step():
    whole, pieces = run().deltas, run({"fit.accumulate": 4}).deltas
    assert whole.steps == pieces.steps
    for (_, one), (_, other) in zip(whole.changes(whole.watched), pieces.changes(pieces.watched), strict=True):
        assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


def test_an_equal_row_counts_as_the_watched_one():
    """A watched row that stands among the keep rows as well is looked out for in both places."""
    twice = Request(forget=Data.inline(PARTS.forget[:1]), keep=Data.inline([*PARTS.forget[:1], *PARTS.keep[:48]]))
    drawn = [draw(50, 8, step, context().seed_for("rows", "all")) for step in range(12)]
    assert set(run(request=twice).deltas.steps) == {step for step, places in enumerate(drawn) if {0, 1} & set(places)}


def test_a_run_with_a_folder_leaves_its_record_there(tmp_path):
    inside, outside = run().deltas, open_deltas(run(folder=tmp_path).deltas.folder)
    assert outside.folder == tmp_path / "deltas" and outside.steps == inside.steps and outside.watched == inside.watched
    for (_, one), (_, other) in zip(inside.changes(inside.watched), outside.changes(outside.watched), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_refusals():
    with pytest.raises(BadConfig, match="fit.rank = 1"):
        run({"fit.rank": 1})
    with pytest.raises(Unfit, match="neither"):
        Recorded(build(RecordedConfig, FEW)).run(tiny_regressor(), Request(), context())
