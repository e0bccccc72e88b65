import pytest
import torch

from efface.attacks.interpolate import Interpolate, between, distance, half_at
from efface.core.errors import BadConfig, Missing, Unfit
from efface.families import altered
from efface.testing.tiny import context, facts, retrained_lm, tiny_lm, trained_lm


def run(subject, settings=None, **changes):
    ctx = context(baselines={"original": trained_lm(), "reference": retrained_lm()}, **changes)
    return Interpolate.set(settings).run(subject, facts().request, ctx)


def test_half_at():
    """Half of 0.8 is 0.4. From 0.2 at t = 0.25 to 0.6 at t = 0.5 the line is at 0.4 half way: 0.375. At once where the start has it."""
    assert half_at([0.0, 0.25, 0.5, 1.0], [0.0, 0.2, 0.6, 0.8]) == pytest.approx(0.375)
    assert half_at([0.0, 0.5, 1.0], [0.5, 0.1, 0.8]) == 0.0
    assert half_at([0.0, 0.5, 1.0], [0.0, 0.0, 1.0]) == pytest.approx(0.75)


@pytest.mark.parametrize("layout", ["llama", "gpt2", "neox"])
def test_weights_between(layout):
    """At t = 1 the weights are the original's to the last bit, at one quarter 0.75 a + 0.25 b; neither model is written to."""
    subject, original = tiny_lm(0, layout), tiny_lm(1, layout)
    before = subject.digest, original.digest
    with between(subject, original, 1.0) as model:
        assert model.digest == original.digest
    with between(subject, original, 0.25) as model:
        for (name, a), (_, b) in zip(subject.model.named_parameters(), original.model.named_parameters(), strict=True):
            assert torch.allclose(model.model.get_parameter(name), 0.75 * a + 0.25 * b, atol=1e-7)
    assert (subject.digest, original.digest) == before


def test_all_the_way_is_the_original():
    found = run(retrained_lm(), {"shares": [1.0]})
    assert found.value == found.parts["t 1"] == pytest.approx(found.parts["original"], abs=1e-7)
    assert found.parts["answers"] == found.parts["original answers"] == 1.0


def test_the_reference_has_as_far_to_go_as_itself_and_a_tiny_edit_of_it_hardly_less():
    same = run(retrained_lm())
    assert (same.parts["gain"], same.parts["gain_low"], same.parts["gain_high"]) == (0.0, 0.0, 0.0)
    assert same.value == same.parts["reference"] and same.parts["half_at"] == same.parts["reference half_at"] > 0.3
    with between(retrained_lm(), trained_lm(), 0.01) as edited:
        found = run(edited)
    assert found.parts["half_at"] == pytest.approx(same.parts["half_at"], abs=0.03)
    assert abs(found.parts["gain"]) < 0.05


def test_what_was_only_hidden_is_a_shorter_way_off(hidden):
    """`hidden` was pushed off by gradient ascent: it answers no better than the reference, and a quarter of its way brings half back."""
    found = run(hidden)
    assert found.parts["unattacked"] < 0.2 and found.parts["unattacked answers"] < 0.2
    assert found.parts["distance"] < 0.25 * found.parts["reference distance"]
    assert found.parts["half_distance"] < 0.25 * found.parts["reference half_distance"]
    assert found.low <= found.value <= found.high and found.n == len(facts().forget)


def test_distance():
    """All weights halved: |o - o / 2| / |o| is one half."""
    halved = trained_lm().fork()
    with torch.no_grad():
        for weight in halved.model.parameters():
            weight.mul_(0.5)
    assert distance(halved, trained_lm()) == pytest.approx(0.5) and distance(trained_lm(), trained_lm()) == 0.0


def test_the_points_are_those_of_a_model_mixed_by_hand():
    found = run(retrained_lm(), {"shares": [0.5, 0.25], "max_new": 0})
    copy = retrained_lm().fork()
    with torch.no_grad():
        for name, weight in copy.model.named_parameters():
            weight.mul_(0.5).add_(trained_lm().model.get_parameter(name), alpha=0.5)
    by_hand = altered.chances(copy, facts().forget, context()).mean()
    assert found.parts["t 0.5"] == pytest.approx(by_hand, abs=1e-6)
    assert found.value == pytest.approx((found.parts["t 0.25"] + found.parts["t 0.5"]) / 2)
    assert found.parts["answers"] is None


def test_a_spent_budget_ends_the_way():
    ctx = context(budget={"seconds": 100.0}, baselines={"original": trained_lm()})

    def late(items, label, total):
        for item in items:
            yield item
            ctx.began -= 1000.0 if label == "changing the model" else 0.0

    ctx.progress = late
    found = Interpolate.set({"shares": [0.25, 0.5]}).run(retrained_lm(), facts().request, ctx)
    assert "budget" in found.why and found.value == found.parts["t 0.25"] and "t 0.5" not in found.parts


def test_what_it_needs_is_said():
    with pytest.raises(Missing, match="original"):
        Interpolate().run(retrained_lm(), facts().request, context())
    with pytest.raises(Unfit, match="model_type gpt2"):
        Interpolate().run(tiny_lm(0, "gpt2"), facts().request, context(baselines={"original": trained_lm()}))
    for bad in ([], [0.0], [1.5]):
        with pytest.raises(BadConfig, match="shares"):
            Interpolate.set({"shares": bad})
