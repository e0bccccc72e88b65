import json
import random

import numpy as np
import pytest

from efface.attacks.relearn import Curve, Relearn, first, gains, split
from efface.core.errors import BadConfig, Missing
from efface.core.types import Data, Request
from efface.testing.tiny import context, facts, retrained_lm, tiny_lm, trained_lm

STRONG = {"lrs": [2e-3], "rank": 0, "steps": 12, "every": 2, "batch": 8}
"""An adversary strong enough for a model of two layers."""


def run(subject, settings=None, reference=None, **changes):
    baselines = {"original": trained_lm(), **({"reference": reference} if reference else {})}
    return Relearn.set({**STRONG, **(settings or {})}).run(subject, facts().request, context(baselines=baselines, **changes))


def points(found):
    return [value for name, value in found.parts.items() if name.startswith("step ")]


def test_formula():
    """Two rows at three steps; area = mean over steps, gain = area beyond the reference's over the same steps."""
    mine = Curve((0, 2), np.array([[0.2, 0.4], [0.6, 0.8]]), "spent")
    base = Curve((0, 2, 4), np.array([[0.1, 0.1], [0.1, 0.3], [0.9, 0.9]]), "")
    assert gains(mine, None).tolist() == pytest.approx([0.4, 0.6])
    assert gains(mine, base).tolist() == pytest.approx([0.3, 0.4])
    assert (first(mine, 0.3), first(mine, 0.5), first(mine, 0.75), first(mine, None)) == (0.0, 2.0, None, None)


def test_what_is_asked_was_never_taught():
    rows = [{"author": str(at // 5), "question": str(at)} for at in range(20)]
    taught, asked = split(rows, 20, random.Random(0))
    assert {row["author"] for row in taught}.isdisjoint(row["author"] for row in asked)
    assert len(taught) == len(asked) == 10
    bare = [{"question": str(at)} for at in range(9)]
    taught, asked = split(bare, 3, random.Random(0))
    assert len(taught) == len(asked) == 3
    assert {row["question"] for row in taught}.isdisjoint(row["question"] for row in asked)
    one = [{"author": "1", "question": str(at)} for at in range(4)]
    assert [len(side) for side in split(one, 20, random.Random(0))] == [2, 2]
    with pytest.raises(Missing, match="two forget rows"):
        split(bare[:1], 3, random.Random(0))


def test_the_reference_gains_nothing_over_itself_nor_does_a_reference_of_another_seed():
    same = run(retrained_lm(), reference=retrained_lm())
    assert (same.parts["gain"], same.parts["gain_low"], same.parts["gain_high"]) == (0.0, 0.0, 0.0)
    other = run(retrained_lm(1), reference=retrained_lm())
    assert abs(other.parts["gain"]) < 0.1


def test_what_was_only_hidden_comes_back_and_what_was_never_there_does_not(hidden):
    """In half the steps the hidden facts are back at three quarters of what they were; the reference learns none of them."""
    found = run(hidden, reference=retrained_lm())
    assert found.parts["step 0"] < 0.3
    assert found.parts["step 6"] > 0.75 * 0.95
    assert found.parts["reference step 12"] < 0.3
    assert found.parts["gain_low"] > 0.2
    assert found.parts["s_star"] <= 6 and found.parts["reference_s_star"] is None


def test_same_seed_same_curve_and_the_subject_is_untouched():
    before = retrained_lm().digest
    once, again, other = run(retrained_lm(), {"steps": 4}), run(retrained_lm(), {"steps": 4}), run(retrained_lm(), {"steps": 4}, seed=1)
    assert points(once) == points(again) != points(other)
    assert retrained_lm().digest == before


def test_a_spent_budget_ends_the_curve_and_keeps_it():
    found = run(trained_lm(), reference=retrained_lm(), budget={"steps": 3})
    assert found.status == "ok" and "3 steps" in found.why
    assert len(points(found)) == 2 and found.value is not None
    assert found.parts["reference step 2"] is not None and "reference step 4" not in found.parts
    ctx = context(budget={"steps": 3})
    Relearn.set({**STRONG, "lrs": [1e-3, 2e-3]}).run(tiny_lm(), facts().request, ctx)
    assert ctx.spent["steps"] == 4  # the step that breaks the budget is the last, over all learning rates


def test_the_worst_learning_rate_counts(hidden):
    both = run(hidden, {"lrs": [1e-6, 2e-3], "steps": 6}, reference=retrained_lm())
    assert both.parts["lr"] == 2e-3
    assert both.parts["gain"] == run(hidden, {"steps": 6}, reference=retrained_lm()).parts["gain"]
    for bad in ([], [1.0, 2.0, 3.0, 4.0], [-1.0]):
        with pytest.raises(BadConfig, match="lrs"):
            Relearn.set({"lrs": bad})


def test_an_adapter_is_folded_in_first():
    """An adapted model and the same model with the adapter folded in go through the same curve."""
    adapted = trained_lm().trainable(2, 0)
    for name, weight in adapted.model.named_parameters():
        if "lora_B" in name:
            weight.data.fill_(0.05)
    small = {"rank": 2, "steps": 4}
    assert points(run(adapted, small)) == pytest.approx(points(run(adapted.merged(), small)), abs=1e-5)


def test_the_reference_curve_is_kept_beside_the_passes(tmp_path):
    settings = {"steps": 2}
    made = run(trained_lm(), settings, reference=retrained_lm(), passes=(tmp_path,))
    (stored,) = tmp_path.glob("relearn-*.json")
    stored.write_text(json.dumps({**json.loads(stored.read_text()), "steps": [0, 3]}))
    read = run(trained_lm(), settings, reference=retrained_lm(), passes=(tmp_path,))
    assert made.parts["gain"] == read.parts["gain"] and "reference step 3" in read.parts


def test_without_baselines_there_is_a_curve_and_no_gain():
    found = Relearn.set({**STRONG, "steps": 2}).run(tiny_lm(), facts().request, context())
    assert found.parts["gain"] is None and found.parts["s_star"] is None and "reference_area" not in found.parts
    with pytest.raises(Missing):
        Relearn().run(tiny_lm(), Request(forget=Data.inline(facts().forget[:1])), context())
