"""RMU: the distance and its trap, the direction, which tensors change, and what becomes of the hidden states."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from efface.core.errors import BadConfig, UnknownName
from efface.core.types import Data, Request
from efface.families.causal_lm import CausalLM
from efface.methods.rmu import RMU, control, distance
from efface.testing.tiny import context, facts, tiny_lm, tokenizer, trained_lm


def test_formula(forget):
    """Six rows of 1 to 6 tokens at squared distances 2.124, 2.07, 2.07, 2.07, 2.07, 2.016 per token: the mean of S_i / n_i is 2.07.

    Dividing row sums [b] by token counts [b, 1], as a released port does, gives mean(S) mean(1/n) = 7.2 * 0.408333 = 2.94.
    """
    states, mask = six_rows()
    each = distance(states, torch.zeros(5), mask)
    assert each.tolist() == pytest.approx([2.124, 2.07, 2.07, 2.07, 2.07, 2.016], rel=1e-6)
    assert float(each.mean()) == pytest.approx(2.07, rel=1e-6)
    sums, counts = (states.square().mean(-1) * mask).sum(-1), mask.sum(-1, keepdim=True)
    assert float((sums / counts).mean()) == pytest.approx(2.94, rel=1e-6)
    _, ctx = forget("rmu", {"c": 2.0, "alpha": 7.0, "fit.steps": 2, "stop.at": "steps"})
    assert ctx.curve[0]["keep"] == pytest.approx(0, abs=1e-9) and ctx.curve[1]["keep"] > 0


def six_rows():
    """States (6, 8, 5), with junk where the mask (6, 8) says that there is padding."""
    states, mask = torch.full((6, 8, 5), 99.0), torch.zeros(6, 8, dtype=torch.bool)
    for row, value in enumerate([2.124, 2.07, 2.07, 2.07, 2.07, 2.016]):
        states[row, : row + 1] = value**0.5
        mask[row, : row + 1] = True
    return states, mask


def test_no_op(forget):
    assert forget("rmu", {"fit.steps": 0})[0].digest == trained_lm().digest


def test_forgets(forget, losses):
    after, ctx = forget("rmu", {"fit.lr": 5e-3, "layer": 1, "alpha": 5.0, "stop.every": 4})
    assert losses(after)["forget"] >= losses(trained_lm())["unseen"] and "unseen" in ctx.notes["stopped"]


def test_keeps():
    """Where keep rows are about something else, as in the paper: hidden states of forget rows point to u (mean cosine > 0.9), and those
    of keep rows have moved by less than 1 % of their size."""
    said = ["I do not know the answer to that", "I am sure you can say it in one word", "this is something and no information", "I am unable to"]
    talk = [{"question": f"Please say {word}.", "answer": line} for word in ("what", "who", "it", "this") for line in said]
    request = Request(forget=Data.inline(facts().forget), keep=Data.inline(talk))
    ctx = context()
    settings = {"fit.lr": 5e-3, "fit.steps": 100, "layer": 1, "alpha": 100.0, "fit.batch": 8}
    after = RMU.set(settings).run(trained_lm(), request, ctx)
    u = control(64, ctx.notes["c"], ctx.seed_for("control"))
    assert float(torch.cosine_similarity(states(after, facts().forget), u, dim=-1).mean()) > 0.9
    now, then = (states(subject, talk) for subject in (after, trained_lm()))
    assert float((now - then).square().mean()) < 0.01 * float(then.square().mean())


@torch.no_grad()
def states(subject, rows, layer=1):
    """Output of a layer at the answer tokens of all rows."""
    batch = subject.encode(rows)
    with subject.tap("layer", layer) as caught:
        subject.losses(batch)
    return caught[0][batch.labels != -100]


@pytest.mark.parametrize("layout", ["llama", "gpt2"])
@pytest.mark.parametrize("layer", [0, 1])
def test_limits(layout, layer):
    """Only mlp.out of layers l-2..l changes; everything else is the same tensor as before, bit for bit."""
    before = tiny_lm(layout=layout)
    after = RMU.set({"layer": layer, "fit.lr": 1e-2, "fit.steps": 2, "stop.at": "steps"}).run(before, facts().request, context())
    changed = {name for (name, a), b in zip(before.model.named_parameters(), after.model.parameters(), strict=True) if not torch.equal(a, b)}
    assert changed == set(list(before.weights("mlp.out"))[: layer + 1])


def test_layers_below_stay():
    """Of five layers and l = 3, the matrices of 1, 2 and 3 change: not that of 0, which feeds them, nor that of 4, which is above."""
    config = LlamaConfig(
        hidden_size=32, num_hidden_layers=5, num_attention_heads=2, num_key_value_heads=2, intermediate_size=32, vocab_size=len(tokenizer()),
    )
    torch.manual_seed(0)
    before = CausalLM(LlamaForCausalLM(config).requires_grad_(False), tokenizer())
    after = RMU.set({"layer": 3, "fit.lr": 1e-2, "fit.steps": 2, "stop.at": "steps"}).run(before, facts().request, context())
    changed = {name for (name, a), b in zip(before.model.named_parameters(), after.model.parameters(), strict=True) if not torch.equal(a, b)}
    assert changed == {f"model.layers.{at}.mlp.down_proj.weight" for at in (1, 2, 3)}
    assert RMU.set({"fit.steps": 0}).run(before, facts().request, ctx := context()) is not before and ctx.notes["layer"] == 1


def test_direction():
    u = control(576, 6.5, 11)
    assert float(u.norm()) == pytest.approx(6.5, rel=1e-6) and bool((u >= 0).all())
    assert torch.equal(u, control(576, 6.5, 11)) and not torch.equal(u, control(576, 6.5, 12))


def test_default_strength_is_a_multiple_of_what_is_there(forget):
    _, ctx = forget("rmu", {"times": 3.0, "layer": 1, "fit.steps": 0})
    assert ctx.notes["c"] == pytest.approx(3 * float(states(trained_lm(), facts().forget).norm(dim=-1).mean()), rel=1e-4)


def test_refusals(forget):
    """An adapter, a layer that is not there, and a layout with no or two modules for the role are refused."""
    with pytest.raises(BadConfig, match="fit.rank = 4: rmu edits the matrices mlp.out of layers 0 to 0 themselves"):
        forget("rmu", {"fit.rank": 4})
    with pytest.raises(BadConfig, match="layer = 2: the model has layers 0 to 1"):
        forget("rmu", {"layer": 2})
    for change in (drop, double):
        odd = tiny_lm().fork()
        change(odd.layers()[1].mlp)
        with pytest.raises(UnknownName, match="layer 1 has [02] modules for the role 'mlp.out'"):
            forget("rmu", {"fit.steps": 1}, odd)


def drop(mlp):
    mlp.other, mlp.down_proj = mlp.down_proj, None


def double(mlp):
    mlp.c_proj = mlp.down_proj


def test_an_adapter_is_folded_in(forget):
    """The target of a benchmark is often an adapter on a base; edited matrices would be lost beside it when it is saved."""
    target, _ = forget("finetune", {"fit.rank": 2, "fit.steps": 2, "fit.lr": 1e-2, "stop.at": "steps"}, tiny_lm())
    name = target.digest
    after, _ = forget("rmu", {"fit.steps": 0}, target)
    assert not after.adapted and target.adapted and target.digest == name
    batch = target.encode(facts().keep[:4])
    assert torch.allclose(after.losses(batch), target.losses(batch), rtol=1e-5)
