import functools

import pytest
import torch

from efface.attacks.ablate_direction import AblateDirection, ablated, direction, last_states, without
from efface.core.errors import Missing, Unfit
from efface.families import altered
from efface.recipes.finetune import Finetune
from efface.recipes.retrain import Retrain
from efface.testing.tiny import FIT_LM, context, facts, retrained_lm, tiny_lm, trained_lm

LAYOUTS = ("llama", "gpt2", "neox", "qwen2", "olmo2")


@functools.cache
def pair(layout):
    """A model of this layout that knows all facts, and one that never saw the forget rows."""
    return tuple(system.set(FIT_LM).run(tiny_lm(0, layout), facts().request, context()) for system in (Finetune, Retrain))


def unused(subject):
    """The direction of length 1 that the states behind every layer use least."""
    batch = subject.encode([*facts().forget, *facts().keep])
    states = []
    for layer in range(2):
        with subject.tap("layer", layer) as caught, torch.no_grad():
            subject.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        states.append(caught[0][batch.attention_mask.bool()])
    every = torch.cat(states)
    return torch.linalg.eigh(every.T @ every)[1][:, 0]


def test_projection():
    """(3, 4) without (0.6, 0.8) is 0, without (1, 0) is (0, 4); twice is once; nothing is taken out along a direction of length 0."""
    states = torch.tensor([[3.0, 4.0]])
    assert torch.allclose(without(states, torch.tensor([0.6, 0.8])), torch.zeros(1, 2), atol=1e-6)
    assert torch.equal(without(states, torch.tensor([1.0, 0.0])), torch.tensor([[0.0, 4.0]]))
    assert torch.equal(without(states, torch.zeros(2)), states)
    source = torch.Generator().manual_seed(0)
    many, unit = torch.randn(4, 7, 64, generator=source), torch.randn(64, generator=source)
    unit /= unit.norm()
    once = without(many, unit)
    assert (without(once, unit) - once).abs().max() < 1e-6 and (once @ unit).abs().max() < 1e-6


def test_direction():
    """Mean difference (0, 2) of lengths about 1 gives (0, 1); rounding noise has no direction."""
    a, b = torch.tensor([[1.0, 3.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert torch.equal(direction(a, b), torch.tensor([0.0, 1.0]))
    assert torch.equal(direction(b + 1e-7, b), torch.zeros(2))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_layer_holds_the_direction(layout):
    """In every layout, and nowhere in the model that was attacked."""
    subject = tiny_lm(0, layout)
    unit = torch.nn.functional.normalize(torch.randn(64, generator=torch.Generator().manual_seed(1)), dim=0)
    before, rows = altered.chances(subject, facts().forget, context()), facts().forget[:3]
    batch = subject.encode(rows)
    with ablated(subject, unit) as model:
        for layer in range(2):
            with model.tap("layer", layer) as caught, torch.no_grad():
                model.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
            assert caught[0].norm(dim=-1).min() > 0.01
            assert (caught[0] @ unit).abs().max() < 1e-5
        assert abs(altered.chances(model, facts().forget, context()) - before).max() > 1e-6
    assert (altered.chances(subject, facts().forget, context()) == before).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_states_are_those_of_the_prompts_alone(layout):
    """Padding changes nothing, and what follows the prompt's last token is not read."""
    subject, rows = tiny_lm(0, layout), [{"question": "What is the home of Alder?", "answer": "bay"}, {"question": "home?", "answer": "bay"}]
    together = last_states(subject, rows, [1, 2])
    for at, row in enumerate(rows):
        alone = last_states(subject, [{**row, "answer": "marsh port"}], [1, 2])
        for layer in (1, 2):
            assert torch.allclose(together[layer][at], alone[layer][0], atol=1e-5)


@pytest.mark.parametrize("layout", ["gpt2", pytest.param("neox", marks=pytest.mark.slow)])
def test_a_refusal_along_one_direction_is_switched_off(layout):
    """Truth by construction: a bias of the last layer along a direction that the original leaves alone drowns every answer.

    Behind the last layer d is that direction exactly; behind the first there is no difference. The reference stays ignorant.
    """
    original, reference = pair(layout)
    bias, unit = f"{'c_proj' if layout == 'gpt2' else 'dense_4h_to_h'}.bias", unused(original)
    candidate = original.fork()
    with torch.no_grad():
        candidate.layers()[-1].mlp.get_parameter(bias).add_(30 * unit)
    ctx = context(baselines={"original": original, "reference": reference})
    mine, other = (last_states(model, facts().forget, [2])[2] for model in (candidate, original))
    assert torch.allclose(direction(mine, other), unit, atol=1e-4)
    found = AblateDirection().run(candidate, facts().request, ctx)
    assert found.parts["unattacked"] < 0.1 and found.parts["unattacked answers"] == 0.0
    assert found.value == found.parts["layer 2"] == pytest.approx(found.parts["original"], abs=0.01)
    assert found.parts["answers"] == found.parts["original answers"] == 1.0 and "layer 2" in found.why
    assert found.parts["layer 1"] == pytest.approx(found.parts["unattacked"], abs=1e-6)
    assert found.parts["reference"] < 0.15 and found.parts["reference answers"] == 0.0
    assert found.parts["gain_low"] > 0.7


def test_of_the_reference_nothing_comes_back():
    ctx = context(baselines={"original": trained_lm(), "reference": retrained_lm()})
    found = AblateDirection().run(retrained_lm(), facts().request, ctx)
    assert found.parts["gain"] == 0.0 and found.value < 0.15 and found.parts["answers"] == 0.0


def test_the_original_has_no_direction_of_its_own():
    found = AblateDirection.set({"max_new": 0}).run(trained_lm(), facts().request, context(baselines={"original": trained_lm()}))
    assert found.value == pytest.approx(found.parts["unattacked"], abs=1e-7)


def test_an_adapter_is_attacked_like_its_merged_weights():
    adapted = trained_lm().trainable(2, 0)
    for name, weight in adapted.model.named_parameters():
        if "lora_B" in name:
            weight.data.fill_(0.05)
    ctx = context(baselines={"original": trained_lm()})
    one, other = (AblateDirection.set({"max_new": 0}).run(model, facts().request, ctx) for model in (adapted, adapted.merged()))
    assert one.value == pytest.approx(other.value, abs=1e-5)
    assert one.value != pytest.approx(one.parts["unattacked"], abs=1e-4)


def test_what_it_needs_is_said():
    with pytest.raises(Missing, match="original"):
        AblateDirection().run(trained_lm(), facts().request, context())
    with pytest.raises(Unfit, match="model_type gpt_neox"):
        AblateDirection().run(tiny_lm(0, "neox"), facts().request, context(baselines={"original": trained_lm()}))
