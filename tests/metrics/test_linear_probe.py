import pytest
import torch

from efface.core.errors import Missing, Unfit
from efface.core.types import Data, Request
from efface.metrics.linear_probe import LinearProbe
from efface.testing.tiny import context, digits, retrained_classifier, trained_classifier

PARTS = digits()
UTILITY = {"test rows": Data.inline(PARTS.test)}


def run(subject, settings=None, request=PARTS.request, utility=UTILITY, **baselines):
    return LinearProbe.set({"rows": 400, **(settings or {})}).run(subject, request, context(baselines=baselines, utility=utility))


@pytest.fixture(scope="module")
def silenced():
    """Answers forget the class, features know all of it."""
    after = trained_classifier().fork()
    with torch.no_grad():
        after.modules_of("head")[0].bias[3] -= 100
    return after


def test_a_new_last_layer_brings_back_what_was_only_silenced(silenced):
    """No row of the class is answered rightly, and the probe's AUC and the head swap are the original's, above the retrained network's."""
    assert (silenced.predict(list(PARTS.forget)).argmax(1) != 3).all()
    found, original = run(silenced, reference=retrained_classifier()), run(trained_classifier())
    assert found.value == original.value and found.parts["head_swap_forget"] == original.parts["head_swap_forget"]
    assert found.low > found.parts["reference"]
    assert found.parts["head_swap_forget"] > found.parts["reference_head_swap_forget"] + 0.1
    assert found.parts["head_swap_test"] > 0.9 and found.parts["reference_head_swap_test"] > 0.9


def test_the_reference_is_as_itself_and_a_reference_of_another_seed_near():
    same = run(retrained_classifier(), reference=retrained_classifier())
    assert same.value == same.parts["reference"] and same.parts["head_swap_forget"] == same.parts["reference_head_swap_forget"]
    other = run(retrained_classifier(1), reference=retrained_classifier())
    assert abs(other.value - other.parts["reference"]) < 0.05


def test_features_that_say_nothing():
    """With a first layer of zeros every row has the same features: an AUC of 1/2, whatever the labels."""
    blank = trained_classifier().fork()
    with torch.no_grad():
        for parameter in blank.model.parameters():
            parameter.zero_()
    found = run(blank)
    assert found.value == 0.5 and found.parts["head_swap_forget"] == 0


def test_shown_rows_are_not_asked():
    """With a single row shown the head swap is asked about all others; what it was shown counts for nothing."""
    few, many = (run(trained_classifier(), {"head_rows": count}).parts["head_swap_forget"] for count in (1, 60))
    assert few < many


def test_what_is_refused():
    random = digits("random").request
    with pytest.raises(Unfit, match="a class that went as a whole"):
        run(trained_classifier(), request=random)
    with pytest.raises(Missing, match="5 held-out rows of the forgotten class and of others; found 50 and 0"):
        run(trained_classifier(), utility={})
    bare = Request(forget=PARTS.request.forget, keep=PARTS.request.keep, unseen=Data.inline(PARTS.unseen[:2]))
    with pytest.raises(Missing, match="found 2 and"):
        run(trained_classifier(), request=bare)
