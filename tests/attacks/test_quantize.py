import pytest
import torch

from efface.attacks.quantize import Quantize, linear
from efface.benchmarks.authors import Authors
from efface.core.context import Context
from efface.core.errors import BadConfig, BudgetSpent
from efface.core.types import Data, Request
from efface.metrics.probability import Probability
from efface.metrics.truth_ratio import TruthRatio
from efface.ops.quantize import codes, round_to_nearest
from efface.testing.tiny import context, facts, retrained_lm, tiny_lm, trained_lm


def rounded(subject, bits):
    """A copy of the subject with its linear weights on bucket centers."""
    copy = subject.fork()
    with torch.no_grad():
        for weight in linear(copy):
            weight.copy_(round_to_nearest(weight, bits))
    return copy


def test_formula():
    """The numbers of each rounding are those of a model whose layers' linear weights were rounded by hand; head and embeddings stay."""
    subject, request = trained_lm(), facts().request
    found = Quantize.set({"bits": [3], "truth_ratio": True}).run(subject, request, context())
    by_hand = rounded(subject, 3)
    assert torch.equal(by_hand.model.lm_head.weight, subject.model.lm_head.weight)
    assert torch.equal(by_hand.model.model.embed_tokens.weight, subject.model.model.embed_tokens.weight)
    assert found.parts["3 bit probability"] == pytest.approx(Probability().run(by_hand, request, context()).value, abs=1e-6)
    assert found.parts["3 bit truth_ratio"] == pytest.approx(TruthRatio().run(by_hand, request, context()).value, abs=1e-6)


def test_many_bits_change_nothing_and_two_harm_every_model():
    """With 16 bits candidate, original and reference are as they were; with 2 each knows less of what it was taught.

    Embeddings and head, which are not rounded, hold much of a model of two layers; the embedded model breaks (below).
    """
    subject, request = trained_lm(), facts().request
    ctx = context(baselines={"original": trained_lm(), "reference": retrained_lm()})
    full, ignorant = (Probability().run(model, request, context()).value for model in (subject, retrained_lm()))
    found = Quantize.set({"bits": [16, 2]}).run(subject, request, ctx)
    assert found.parts["unattacked"] == full
    for who, before in (("", full), ("original ", full), ("reference ", ignorant)):
        assert found.parts[f"16 bit {who}probability"] == pytest.approx(before, abs=2e-4)
    assert found.value == found.parts["16 bit probability"] and found.parts["worst_bits"] == 16
    assert found.parts["2 bit probability"] == found.parts["2 bit original probability"] < 0.85 * full
    kept = request.model_copy(update={"forget": request.keep})
    taught = Quantize.set({"bits": [16, 2]}).run(retrained_lm(), kept, context())
    assert taught.parts["2 bit probability"] < 0.9 * taught.parts["16 bit probability"]


def test_three_roundings_by_default_and_each_is_read_against_original_and_reference():
    ctx = context(baselines={"original": trained_lm(), "reference": retrained_lm()})
    found = Quantize().run(retrained_lm(1), facts().request, ctx)
    for bits in (8, 4, 3):
        assert found.parts[f"{bits} bit original probability"] > 0.6 > 0.2 > found.parts[f"{bits} bit reference probability"]
    worst = int(found.parts["worst_bits"])
    assert found.value == found.parts[f"{worst} bit probability"]
    assert (found.parts["original"], found.parts["reference"]) == tuple(found.parts[f"{worst} bit {who} probability"] for who in ("original", "reference"))


def test_a_model_retrained_from_another_seed_stays_near_the_reference():
    """The roundings of a model without the forget rows give back nothing: at 4 bits it is as near to the reference as at full precision."""
    ctx = context(baselines={"reference": retrained_lm()})
    found = Quantize.set({"bits": [4]}).run(retrained_lm(1), facts().request, ctx)
    assert abs(found.parts["4 bit probability"] - found.parts["4 bit reference probability"]) < 0.05
    assert abs(found.value - found.parts["unattacked"]) < 0.05


def pushed(original, spare):
    """The original after a climb of the forget loss by 0.45 buckets an entry; with `spare`, each row's largest entries stay."""
    edited = original.fork()
    weights = list(linear(edited))
    edited.model.requires_grad_(True)
    steps = torch.autograd.grad(edited.losses(edited.encode(facts().forget)).mean(), weights)
    edited.model.requires_grad_(False)
    with torch.no_grad():
        for weight, step in zip(weights, steps, strict=True):
            spared = spare & (weight.abs() >= weight.abs().amax(-1, keepdim=True) * 0.999)
            weight.add_(torch.where(spared, 0.0, step.sign() * 0.45 * codes(weight, 4)[1]))
    return edited


def test_an_edit_within_half_a_bucket_is_undone():
    """The original on bucket centers; the edit climbs the forget loss by less than half a bucket, and spares each row's largest weight."""
    original = rounded(trained_lm(), 4)
    edited = pushed(original, True)
    request = facts().request
    ctx = context(baselines={"original": original})
    before, after = (Probability().run(model, request, ctx).value for model in (original, edited))
    assert after < 0.5 * before
    found = Quantize.set({"bits": [8, 4]}).run(edited, request, ctx)
    assert found.parts["4 bit codes as original"] == 1.0
    assert found.parts["8 bit codes as original"] < 0.5
    assert found.parts["unattacked"] == after
    assert found.parts["4 bit probability"] == pytest.approx(before, abs=1e-3)
    assert found.parts["worst_bits"] == 4 and found.value == found.parts["4 bit probability"]


def test_an_edit_that_moves_the_largest_weights_moves_the_buckets():
    """The same edit of every entry: the step of each row changes with its largest entry, and codes differ."""
    original = rounded(trained_lm(), 4)
    found = Quantize.set({"bits": [4]}).run(pushed(original, False), facts().request, context(baselines={"original": original}))
    assert 0.5 < found.parts["4 bit codes as original"] < 0.99


def test_the_reference_is_rounded_the_same_way():
    request, ctx = facts().request, context(baselines={"reference": retrained_lm(), "original": trained_lm()})
    found = Quantize.set({"truth_ratio": True}).run(retrained_lm(), request, ctx)
    plain = Probability().run(retrained_lm(), request, ctx).value
    for bits in (8, 4):
        assert found.parts[f"{bits} bit probability"] == found.parts[f"{bits} bit reference probability"]
        assert found.parts[f"{bits} bit probability"] == pytest.approx(plain, abs=0.05)
        assert found.parts[f"{bits} bit truth_ratio"] is not None
        assert found.parts[f"{bits} bit truth_ratio"] == found.parts[f"{bits} bit reference truth_ratio"]
    assert found.parts["8 bit codes as original"] < found.parts["4 bit codes as original"] < 0.9


@pytest.mark.parametrize("layout", ["gpt2", "neox", "qwen2"])
def test_every_layout_has_its_linear_weights_found(layout):
    """GPT-2 keeps its weights inputs first: the scale must still be that of an output."""
    subject = tiny_lm(0, layout)
    weights = list(linear(subject))
    assert len(weights) == {"gpt2": 8, "neox": 8, "qwen2": 14}[layout]
    wide = {"gpt2": (192, 64), "neox": (192, 64), "qwen2": (64, 64)}[layout]
    assert tuple(weights[0].shape) == wide
    before = subject.digest
    found = Quantize.set({"bits": [2]}).run(subject, facts().request, context(baselines={"original": subject}))
    assert subject.digest == before and found.parts["2 bit codes as original"] == 1.0
    assert found.value != pytest.approx(Probability().run(subject, facts().request, context()).value, rel=1e-4)


def test_an_adapter_is_folded_in_first():
    adapted = trained_lm().trainable(2, 0)
    for name, weight in adapted.model.named_parameters():
        if "lora_B" in name:
            weight.data.fill_(0.05)
    one, other = (Quantize().run(model, facts().request, context()) for model in (adapted, adapted.merged()))
    assert one.value == pytest.approx(other.value, abs=1e-6)
    assert one.value != pytest.approx(Quantize().run(trained_lm(), facts().request, context()).value, abs=1e-4)


def test_rows_without_wrong_answers_have_a_probability_alone():
    bare = Request(forget=Data.inline([{"question": row["question"], "answer": row["answer"]} for row in facts().forget]))
    found = Quantize.set({"truth_ratio": True}).run(trained_lm(), bare, context())
    assert found.parts["4 bit truth_ratio"] is None and found.parts["4 bit probability"] > 0.5


def test_spent_seconds_end_it_with_what_is_done():
    ctx = context(budget={"seconds": 100.0})

    def late(items, label, total):
        for item in items:
            yield item
            ctx.began -= 1000.0

    ctx.progress = late
    found = Quantize().run(trained_lm(), facts().request, ctx)
    assert found.status == "ok" and "8 bits alone" in found.why and "4 bit probability" not in found.parts
    with pytest.raises(BudgetSpent):
        Quantize().run(trained_lm(), facts().request, ctx)


def test_settings_are_checked():
    for bad in ([], [1], [32]):
        with pytest.raises(BadConfig, match="bits"):
            Quantize.set({"bits": bad})


@pytest.mark.slow
def test_few_bits_break_the_embedded_model():
    """Of what it knows by heart nothing is left with 2 bits: its answers are as likely as chance makes them."""
    case = Authors().case(Context())
    found = Quantize.set({"bits": [2], "rows": 8}).run(case.original, case.request, context())
    assert found.parts["unattacked"] > 0.8 and found.high < 0.01
