"""LEACE: the eraser by hand, the exact fold, what is gone and what is not, and what may stand in a column."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from efface.core.errors import BadConfig, BadRows, Unfit
from efface.core.types import Data, Request
from efface.families.classifier import Classifier
from efface.families.networks import MLP, seeded
from efface.methods.leace import LEACE, LEACEConfig, eraser, explained, fold, indicator, read
from efface.testing.tiny import context, diabetes, digits, trained_classifier, trained_regressor

pytest.importorskip("concept_erasure")
PARTS = digits()
ROWS = [*PARTS.forget, *PARTS.keep]


def right(subject, rows):
    return float((subject.predict(rows).argmax(1) == [row["y"] for row in rows]).mean())


@pytest.fixture(scope="module")
def erased():
    """The digits network after digit 3 was erased, the notes of the run, and the eraser itself."""
    ctx = context()
    after = LEACE.set().run(trained_classifier(), PARTS.request, ctx)
    x = read(trained_classifier(), ROWS, context())
    return after, ctx.notes, eraser(x, indicator("", ROWS, len(PARTS.forget)), LEACEConfig(), affine=True)


def test_formula():
    """x = (1, 1), (-1, 1), (1, -1), (-1, -1) and z = its first number: Cov(x) = 4/3 I, so P takes the first axis away, and leaves the mean."""
    x = torch.tensor([[1.0, 1], [-1, 1], [1, -1], [-1, -1]], dtype=torch.float64) + torch.tensor([5.0, 7.0])
    found = eraser(x, x[:, :1], LEACEConfig(), affine=True)
    assert torch.allclose(found.projection, torch.tensor([[0.0, 0], [0, 1]], dtype=torch.float64), atol=1e-9)
    assert torch.allclose(found.shift, torch.tensor([5.0, 0], dtype=torch.float64), atol=1e-9) and found.removed == 1


def test_the_fold_is_exact(erased):
    """The new head on features is the old head on erased features, to 1e-5 in single precision."""
    after, _, found = erased
    x = read(trained_classifier(), ROWS, context())
    with torch.no_grad():
        old = trained_classifier().fork().model.double()
        wanted = old.stack[-1](x @ found.projection.T + found.shift)
        given = after.logits(after.encode(ROWS))
    assert (given - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_no_linear_probe_finds_it(erased):
    """On erased features, and so on logits, the best line explains nothing of the fitted rows, and ranks other rows like chance."""
    after, notes, found = erased
    z = indicator("", ROWS, len(PARTS.forget))
    unseen = [*PARTS.unseen, *PARTS.test]
    known = np.arange(len(unseen)) < len(PARTS.unseen)
    x, other = (read(trained_classifier(), rows, context()) for rows in (ROWS, unseen))
    assert notes["r2_before"] > 0.7 and abs(notes["r2_after"]) < 1e-9 and notes["dimensions_erased"] == 1
    assert abs(explained(x @ found.projection.T + found.shift, z)) < 1e-9
    areas = []
    for change in (lambda rows: rows, lambda rows: rows @ found.projection.T + found.shift):
        probe = LogisticRegression(max_iter=2000).fit(change(x), z[:, 0])
        areas.append(roc_auc_score(known, probe.decision_function(change(other))))
    assert areas[0] > 0.99 and 0.35 < areas[1] < 0.65
    with torch.no_grad():
        assert abs(explained(after.logits(after.encode(ROWS)).double(), z)) < 1e-6


def test_forgets_and_keeps(erased):
    after = erased[0]
    assert right(after, PARTS.forget) < 0.05 and right(after, PARTS.keep) > 0.98
    assert right(after, PARTS.test) > right(trained_classifier(), PARTS.test) - 0.02


def test_what_the_head_reads_still_holds_it(erased):
    """The limit that the docstring states: a new head would find the digit again."""
    assert torch.equal(read(erased[0], ROWS, context()), read(trained_classifier(), ROWS, context()))


def test_no_op():
    """Nothing is linear in a coin that is independent of the rows to a tolerance; then the head stays as it is."""
    x = torch.tensor([[1.0, 1], [-1, 1], [1, -1], [-1, -1]], dtype=torch.float64)
    found = eraser(x, torch.tensor([[1.0], [0], [0], [1]], dtype=torch.float64), LEACEConfig(), affine=True)
    assert found.removed == 0 and torch.allclose(found.projection, torch.eye(2, dtype=torch.float64), atol=1e-9)


@pytest.mark.parametrize("bias", [True, False])
def test_fold_by_hand(bias):
    """Head (1, 2) x + 3, P = [[0, 0], [0, 1]] and shift (5, 0): head (0, 2) x + 3 + 5; without bias the shift is nothing."""
    from efface.methods.leace import Eraser

    head = torch.nn.Linear(2, 1, bias=bias)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 2]]))
        if bias:
            head.bias.fill_(3.0)
    fold(head, Eraser(torch.tensor([[0.0, 0], [0, 1]], dtype=torch.float64), torch.tensor([5.0, 0], dtype=torch.float64), 1))
    assert head.weight.tolist() == [[0, 2]] and (head.bias is None or head.bias.tolist() == [8])


def test_a_head_without_bias_is_erased_as_well():
    class Bare(MLP):
        def __init__(self):
            super().__init__(64, (32,), 10)
            self.stack[-1] = torch.nn.Linear(32, 10, bias=False)

    ctx = context()
    after = LEACE.set().run(Classifier(seeded(Bare, 0)), PARTS.request, ctx)
    z = indicator("", ROWS, len(PARTS.forget))
    with torch.no_grad():
        assert abs(explained(after.logits(after.encode(ROWS)).double(), z)) < 1e-6
    assert abs(ctx.notes["r2_after"]) < 1e-9


def test_a_column():
    """Parity of the digit, as a text, goes, and the head is of no more use for it than a coin; a column of numbers goes as well."""
    rows = [{**row, "parity": "odd" if row["y"] % 2 else "even", "ink": float(sum(row["x"]))} for row in ROWS]
    request = Request(kind="feature", forget=Data.inline(rows[: len(PARTS.forget)]), keep=Data.inline(rows[len(PARTS.forget) :]))
    for column in ("parity", "ink"):
        ctx = context()
        after = LEACE.set({"column": column}).run(trained_classifier(), request, ctx)
        with torch.no_grad():
            logits = after.logits(after.encode(rows)).double()
        assert ctx.notes["r2_before"] > 0.5 and abs(explained(logits, indicator(column, rows, 0))) < 1e-6


def test_ten_classes_take_nine_dimensions():
    """With all labels erased no class is left to the head, whose answers are those of a constant."""
    ctx = context()
    after = LEACE.set({"column": "y"}).run(trained_classifier(), PARTS.request, ctx)
    assert ctx.notes["dimensions_erased"] == 9 and right(after, ROWS) < 0.25


def test_orthogonal_erasure():
    """It erases too, and moves the rows farther than the least change does."""
    x, z = read(trained_classifier(), ROWS, context()), indicator("", ROWS, len(PARTS.forget))
    moved = {}
    for method in ("leace", "orth"):
        found = eraser(x, z, LEACEConfig(method=method), affine=True)
        assert abs(explained(x @ found.projection.T + found.shift, z)) < 1e-9
        moved[method] = float((x @ found.projection.T + found.shift - x).square().sum())
    assert moved["leace"] < moved["orth"]


def test_a_regressor():
    ctx = context()
    after = LEACE.set().run(trained_regressor(), diabetes(), ctx)
    low, high = (after.predict(diabetes().rows(name)) for name in ("forget", "keep"))
    before = [trained_regressor().predict(diabetes().rows(name)).mean() for name in ("forget", "keep")]
    assert abs(low.mean() - high.mean()) < 1e-4 < abs(before[0] - before[1])


def test_what_cannot_be():
    with pytest.raises(BadRows, match="row 1 of forget and keep rows has no 'color'"):
        LEACE.set({"column": "color"}).run(trained_classifier(), PARTS.request, context())
    rows = [{**row, "shade": "gray"} for row in ROWS[:40]]
    with pytest.raises(BadConfig, match="1 different values"):
        LEACE.set({"column": "shade"}).run(trained_classifier(), Request(forget=Data.inline(rows[:20]), keep=Data.inline(rows[20:])), context())

    class Folded(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(32, 10)

        def forward(self, x):
            return self.head(x.reshape(-1, 2, 32)).mean(1)

    with pytest.raises(Unfit, match="reads 32 numbers a row; here it reads 64"):
        LEACE.set().run(Classifier(Folded().requires_grad_(False)), PARTS.request, context())
