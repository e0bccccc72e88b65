"""Every trained method with LoRA; one method over all layouts of decoders."""

import pytest
import torch

from efface.core import registry
from efface.methods.npo import NPO
from efface.testing.tiny import context, facts, tiny_lm, trained_lm

METHODS = ["gradient_ascent", "finetune", "grad_diff", "kl", "idk", "dpo", "npo", "simnpo"]


@pytest.mark.parametrize("name", METHODS)
def test_lora(forget, name):
    """The base is shared and stays as it is; the adapter, which begins as nothing, is what changes the answers."""
    before = trained_lm()
    after, _ = forget(name, {"fit.rank": 4, "fit.lr": 1e-2, "fit.steps": 3, "stop.at": "steps"})
    assert after.adapted and not before.adapted
    shared = {id(p) for p in before.model.parameters()}
    own = [key for key, p in after.model.named_parameters() if id(p) not in shared]
    assert own and all("lora_" in key for key in own)
    batch = before.encode(facts().forget)
    assert not torch.allclose(after.losses(batch), before.losses(batch), atol=1e-3)
    assert after.base_view().digest != after.digest


@pytest.mark.parametrize("layout", ["gpt2", "neox", "qwen2", "olmo2"])
@pytest.mark.parametrize("rank", [0, 4])
def test_layouts(layout, rank):
    """The keep term by KL goes through the head of each layout; the start is (2 / beta) log 2 and KL 0."""
    before = tiny_lm(layout=layout)
    name, ctx = before.digest, context()
    settings = {"keep": "kl", "forget_weight": 1.0, "fit.rank": rank, "fit.lr": 1e-2, "fit.steps": 3, "fit.batch": 4, "stop.at": "steps"}
    after = NPO.set(settings).run(before, facts().request, ctx)
    assert ctx.curve[0]["forget"] == pytest.approx(13.862944, rel=1e-4)
    assert ctx.curve[0]["keep"] == pytest.approx(0, abs=1e-6) and ctx.curve[1]["keep"] > 0
    assert ctx.curve[2]["forget"] < ctx.curve[0]["forget"]
    assert before.digest == name and after.digest != name


@pytest.mark.parametrize("name", [*METHODS, "rmu"])
def test_every_default_is_recorded_against_the_paper(name):
    """Defaults that are not the paper's are said to be so: the docstring names the paper's rate, the card where the run ends."""
    system = registry.load("method", name)
    if name != "finetune":  # folklore has no defaults
        assert "lr 1e-5" in __import__(system.__module__, fromlist=["x"]).__doc__ or "lr 5e-5" in __import__(system.__module__, fromlist=["x"]).__doc__
        assert "level of rows never seen" in system.card.departs
    assert system().config.stop.at == "auto"


@pytest.mark.parametrize("rank", [0, 4])
def test_a_target_that_is_an_adapter(forget, rank):
    """What must forget is often an adapter on a base: with a rank its own adapter is trained, without one the merged weights are."""
    target, _ = forget("finetune", {"fit.rank": 2, "fit.steps": 2, "fit.lr": 1e-2, "stop.at": "steps"}, tiny_lm())
    name = target.digest
    settings = {"keep": "kl", "forget_weight": 1.0, "fit.rank": rank, "fit.lr": 1e-2, "fit.steps": 3, "stop.at": "steps"}
    after, ctx = forget("npo", settings, target)
    assert after.adapted == bool(rank) and target.digest == name != after.digest
    assert ctx.curve[0]["forget"] == pytest.approx(13.862944, rel=1e-4) and ctx.curve[0]["keep"] == pytest.approx(0, abs=1e-6)
    assert ctx.curve[2]["keep"] > 0
