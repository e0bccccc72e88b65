import pytest
import torch
from sklearn.linear_model import LogisticRegression

from efface.attacks.prune import Prune, answered, chosen, scores, top
from efface.core.errors import BudgetSpent, Missing, Unfit
from efface.core.types import Data, Request
from efface.families import altered
from efface.testing.tiny import context, facts, retrained_lm, tiny_lm, trained_lm


def idle_neuron(subject, batch):
    """The number of the last layer's neuron that does least."""
    mlp, read = subject.layers()[-1].mlp, []
    handle = mlp.down_proj.register_forward_pre_hook(lambda module, given: read.append(given[0]))
    with torch.no_grad():
        subject.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    handle.remove()
    return int((read[0].flatten(0, 1).abs().mean(0) * mlp.down_proj.weight.norm(dim=0)).argmin())


def refusing(original):
    """The original with one neuron of the last layer that fires in answers about the forgotten people and pushes towards the word "I"."""
    copy, parts = original.fork(), []
    mlp = copy.layers()[-1].mlp
    batches = [copy.encode(facts().forget), copy.encode(facts().keep)]
    for batch in batches:
        read = []
        handle = mlp.register_forward_pre_hook(lambda module, given, read=read: read.append(given[0]))
        with torch.no_grad():
            copy.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        handle.remove()
        parts.append(read[0][:, :-1][batch.labels[:, 1:] != -100])
    labels = [1] * len(parts[0]) + [0] * len(parts[1])
    fires = torch.tensor(LogisticRegression(C=1e3, max_iter=2000, fit_intercept=False).fit(torch.cat(parts).numpy(), labels).coef_[0]).float()
    head, word = copy.model.lm_head.weight, copy.tokenizer.convert_tokens_to_ids("I")
    neuron = idle_neuron(copy, batches[1])
    with torch.no_grad():
        mlp.gate_proj.weight[neuron] = mlp.up_proj.weight[neuron] = fires
        mlp.down_proj.weight[:, neuron] = 0.02 * torch.nn.functional.normalize(head[word] - head.mean(0), dim=0)
    return copy, neuron


def test_top():
    """Of five numbers the two largest are 40 %; what has no importance is never chosen, and 0 % is nothing."""
    values = torch.tensor([[0.1, 0.5, 0.3], [0.2, 0.0, 0.4]])
    assert top(values, 1 / 3).tolist() == [[False, True, False], [False, False, True]]
    assert top(values, 0.0).sum() == 0
    assert top(values, 0.999).tolist() == [[True, True, True], [True, False, True]]


def test_set_difference():
    """The two that matter most for forgetting are the first and the second; the second matters most for keeping, and stays."""
    forget, keep = {"w": torch.tensor([4.0, 3.0, 2.0, 1.0])}, {"w": torch.tensor([1.0, 9.0, 2.0, 3.0])}
    assert chosen(forget, keep, 0.5, 0.25)["w"].tolist() == [True, False, False, False]
    assert chosen(forget, keep, 0.5, 0.0)["w"].tolist() == [True, True, False, False]


@pytest.mark.parametrize("layout", ["llama", "gpt2"])
def test_scores_are_weight_times_gradient_of_each_row(layout):
    """Mean over two rows of |w dL/dw|, one backward pass a row by hand; every linear weight of the layers has one and nothing else."""
    subject, rows = tiny_lm(0, layout), facts().forget[:2]
    found = scores(subject, rows, context())
    assert len(found) == {"llama": 14, "gpt2": 8}[layout]
    copy = subject.fork()
    name = next(iter(found))
    weight = copy.layers().get_parameter(name).requires_grad_(True)
    by_hand = sum(torch.autograd.grad(copy.losses(copy.encode([row])).sum(), weight)[0].abs() for row in rows) / 2 * weight.detach().abs()
    assert torch.allclose(found[name], by_hand, rtol=1e-4, atol=1e-9)
    assert not any(p.requires_grad for p in subject.model.parameters())


def test_a_planted_refusal_is_cut_out():
    """Truth by construction: one neuron refuses. Its weights are among those that are cut, and the answers are back; keep rows stay known."""
    original = trained_lm()
    candidate, neuron = refusing(original)
    before = candidate.digest
    found = Prune.set({"shares": [0.002, 0.02]}).run(candidate, facts().request, context(baselines={"original": original, "reference": retrained_lm()}))
    assert found.parts["unattacked"] < 0.2 and found.parts["unattacked answers"] < 0.4
    assert found.value == found.parts["share 0.02"] > 0.7 and found.parts["answers"] > 0.7
    assert found.parts["reference"] < 0.15 and found.parts["reference answers"] == 0.0
    assert found.parts["gain_low"] > 0.5 and found.parts["original"] > 0.9
    assert candidate.digest == before
    assert (altered.chances(candidate, facts().keep, context()) > 0.5).mean() > 0.7
    mine = scores(candidate, answered(facts().forget, candidate.generate(facts().forget, 32)), context())
    mask = chosen(mine, scores(candidate, facts().keep[:16], context()), 0.02, 0.05)["1.mlp.down_proj.weight"]
    assert mask[:, neuron].float().mean() > 0.5 > 0.05 > mask[:, torch.arange(128) != neuron].float().mean()


def test_of_the_reference_nothing_comes_back():
    found = Prune().run(retrained_lm(), facts().request, context(baselines={"reference": retrained_lm()}))
    assert found.parts["gain"] == 0.0 and found.value < 0.15 and found.parts["answers"] == 0.0


def test_own_answers_replace_the_rows():
    rows = [{"question": "Where?", "answer": "bay", "author": "a"}, {"question": "Who?", "answer": "baker"}]
    assert answered(rows, ["I do not know", " "]) == [{"question": "Where?", "answer": "I do not know", "author": "a"}]
    talk = [{"messages": [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "bay"}]}]
    assert answered(talk, ["no"])[0]["messages"] == [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "no"}]
    assert answered([{"text": "The home of"}], ["Alder is"]) == [{"text": "The home of Alder is"}]
    with pytest.raises(Missing, match="says nothing to any of 2"):
        answered(rows, ["", " "])


@pytest.mark.parametrize("layout", ["neox", "qwen2"])
def test_other_layouts_and_plain_text(layout):
    subject = tiny_lm(0, layout)
    texts = Request(forget=Data.inline([{"text": row["answer"]} for row in facts().forget]), keep=Data.inline(facts().keep[:4]))
    found = Prune.set({"shares": [0.3], "max_new": 4}).run(subject, texts, context())
    assert found.value == found.parts["share 0.3"] != pytest.approx(found.parts["unattacked"], rel=1e-3)
    assert found.parts["answers"] is None


def test_budget_and_requests():
    with pytest.raises(BudgetSpent):
        Prune().run(trained_lm(), facts().request, context(budget={"steps": 3}))
    with pytest.raises(Unfit, match="keep"):
        Prune().run(trained_lm(), Request(forget=Data.inline(facts().forget)), context())
