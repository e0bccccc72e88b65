import numpy as np
import pytest

from efface.core.config import Fit
from efface.core.errors import Missing
from efface.core.types import Data, Request
from efface.metrics.interclass_confusion import InterclassConfusion
from efface.ops import side_by_side
from efface.testing.tiny import context, digits, tiny_classifier


class Fixed:
    """A classifier that says what the row tells it to."""

    family = "classifier"

    def __init__(self, column="said"):
        self.column = column

    def predict(self, rows):
        return np.eye(3)[[row[self.column] for row in rows]]


def rows(*given, clean=None):
    """(label, what the candidate says, what the reference says) of each row."""
    extra = [{"clean": right} for right in clean] if clean else [{}] * len(given)
    return Data.inline([{"x": [0.0], "y": y, "said": said, "other": other, **more} for (y, said, other), more in zip(given, extra, strict=True)])


def test_formula():
    """Labels 0 and 1 were swapped. Of the test rows of class 0 and 1, four, one is taken for the other class by the candidate, none by the reference.

    Class 2 is not concerned, and a row of class 1 that is taken for 2 is an error of another kind.
    """
    request = Request(forget=rows((1, 1, 0), (0, 1, 1), clean=[0, 1]), keep=rows((0, 0, 0), (1, 1, 1), (2, 2, 2)))
    test = rows((0, 0, 0), (0, 1, 0), (1, 1, 1), (1, 2, 2), (2, 0, 0))
    found = InterclassConfusion().run(Fixed(), request, context(baselines={"reference": Fixed("other")}, utility={"test": test}))
    assert found.value == 0.25 and found.n == 4 and found.low < 0.25 < found.high
    assert found.parts == {"memorized": 0.5, "reference": 0.0, "reference_memorized": 0.0}


def test_without_right_labels_the_labels_of_the_forget_rows_are_concerned():
    keep = rows((0, 0, 0), (1, 1, 1), (2, 2, 2))
    test = rows((0, 1, 0), (0, 2, 0), (2, 0, 2))
    two = Request(forget=rows((1, 1, 0), (0, 0, 1)), keep=keep)
    assert InterclassConfusion().run(Fixed(), two, context(utility={"test": test})).value == 0.5, "0 taken for 1, of two rows of class 0"
    one = Request(forget=rows((1, 1, 0)), keep=keep)
    found = InterclassConfusion().run(Fixed(), one, context(utility={"test": test}))
    assert found.value == pytest.approx(1 / 3) and found.n == 3, "all rows of other classes, taken for 1"


def test_no_test_row_of_the_classes():
    request = Request(forget=rows((1, 1, 0), (0, 0, 1)), keep=rows((0, 0, 0), (1, 1, 1)))
    with pytest.raises(Missing, match="no test row is of a class that was mislabeled \\(0, 1\\)"):
        InterclassConfusion().run(Fixed(), request, context(utility={"test": rows((2, 2, 2))}))


def test_swapped_labels_confuse_and_retraining_does_not():
    """Digits 4 and 9 are swapped in half of their training rows: trained on all, a network confuses them; without those rows, hardly."""
    parts = digits("random")
    train, wrong, right = [*parts.forget, *parts.keep], [], []
    for at, row in enumerate(train):
        (wrong if row["y"] in (4, 9) and at % 2 else right).append(row)
    wrong = [{**row, "y": 13 - row["y"], "clean": row["y"]} for row in wrong]
    every = [*right, *wrong]
    fit = Fit(lr=1e-2, steps=150, batch=64, schedule="linear", precision="no")
    starts = [tiny_classifier().trainable(0, 0) for _ in range(2)]
    original, reference = side_by_side.train(starts, every, [range(len(every)), range(len(right))], [0, 0], fit, context()).subjects
    request = Request(forget=Data.inline(wrong), keep=Data.inline(right))
    ctx = context(baselines={"reference": reference}, utility={"test rows": Data.inline(parts.test)})
    found = InterclassConfusion().run(original, request, ctx)
    assert found.value > 0.2 > 0.1 > found.parts["reference"]
    assert found.parts["memorized"] > 0.4 > 0.1 > found.parts["reference_memorized"]
    assert InterclassConfusion().run(reference, request, ctx).value == found.parts["reference"]
