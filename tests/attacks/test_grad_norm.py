from types import SimpleNamespace

import pytest
import torch
from torch import nn

from efface.attacks.grad_norm import GradNorm, score
from efface.core.errors import BudgetSpent, EffaceError
from efface.families.decoder import Batch
from efface.testing.tiny import context, facts, retrained_lm, tiny_lm, trained_lm


class Plane(nn.Module):
    """loss = 3 a_0 + 4 a_1 + b for each label that counts."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.a, self.b, self.scale = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(())), scale


def plane(scale=1.0):
    """A subject of one row with two labels, the last of which is the end."""
    model = Plane(scale)
    batch = Batch(torch.zeros(1, 4), torch.ones(1, 4), torch.tensor([[-100, 5, 6, -100]]), torch.zeros(1))

    def losses(given):
        count = (given.labels != -100).sum()
        return (scale * count * (3 * model.a[0] + 4 * model.a[1] + model.b)).unsqueeze(0)

    return SimpleNamespace(model=model, encode=lambda rows: batch, encode_row=lambda row: SimpleNamespace(ends=True), losses=losses)


def test_formula():
    """Gradients (3, 4) and 1 of the one label that is left: norms 5 and 1, s = -3; with p = 1 they are 7 and 1, s = -4."""
    assert score(plane(), {}, 2.0) == pytest.approx(-3.0)
    assert score(plane(), {}, 1.0) == pytest.approx(-4.0)
    with pytest.raises(EffaceError, match="not finite"):
        score(plane(float("nan")), {}, 2.0)


def test_one_row_by_hand():
    """The gradient of the mean over the answer's words, taken here from the logits."""
    copy, row = tiny_lm().trainable(0, 0), facts().forget[2]
    encoded = copy.encode_row(row)
    logits = copy.model(input_ids=torch.tensor([encoded.prompt + encoded.answer])).logits[0]
    places = range(len(encoded.prompt) - 1, len(encoded.prompt) + len(encoded.answer) - 2)
    loss = -torch.stack([logits[at].log_softmax(-1)[token] for at, token in zip(places, encoded.answer, strict=False)]).mean()
    loss.backward()
    norms = [float(p.grad.norm()) for p in copy.model.parameters()]
    assert score(tiny_lm().trainable(0, 0), row, 2.0) == pytest.approx(-sum(norms) / len(norms), rel=1e-5)


def test_dropout_is_off_and_the_subject_is_untouched():
    subject = tiny_lm(layout="gpt2")
    before = (subject.digest, [p.requires_grad for p in subject.model.parameters()])
    plain = [row["value"] for row in GradNorm.set({"rows": 3}).run(subject, facts().request, context()).table]
    for module in subject.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    assert plain == [row["value"] for row in GradNorm.set({"rows": 3}).run(subject, facts().request, context()).table]
    assert before == (subject.digest, [p.requires_grad for p in subject.model.parameters()])


def test_finds_members_where_there_are_any(over):
    """Its gradients say nothing clear of the model that was pushed too far: there they vanish although the loss is high."""
    request, ctx = facts().request, context(baselines={"reference": retrained_lm(), "original": trained_lm()})
    found = GradNorm().run(trained_lm(), request, ctx)
    assert found.value > 0.9 and found.parts["original"] == found.value
    assert found.parts["reference_auc"] == pytest.approx(0.5, abs=0.21)
    assert abs(GradNorm().run(over, request, ctx).value - found.parts["reference_auc"]) > 0.2


def test_the_reference_is_measured_once_and_kept(tmp_path):
    ctx = context(baselines={"reference": retrained_lm()}, passes=(tmp_path,))
    first = GradNorm.set({"rows": 4}).run(trained_lm(), facts().request, ctx)
    (stored,) = tmp_path.glob("grad_norm-*.json")
    stored.write_text("[[0, 0, 0, 1], [1, 1, 0, 1]]")  # three members with half a win each, one with two and a half, of 16 pairs
    again = GradNorm.set({"rows": 4}).run(trained_lm(), facts().request, context(baselines={"reference": retrained_lm()}, passes=(tmp_path,)))
    assert again.value == first.value and again.parts["reference_auc"] == 0.25
    GradNorm.set({"rows": 4, "p": 1.0}).run(trained_lm(), facts().request, context(baselines={"reference": retrained_lm()}, passes=(tmp_path,)))
    assert len(list(tmp_path.glob("grad_norm-*.json"))) == 2


def test_a_spent_budget_leaves_the_rows_read_so_far():
    found = GradNorm().run(tiny_lm(), facts().request, context(budget={"queries": 7}))
    assert found.status == "ok" and "budget" in found.why
    assert (found.parts["members"], found.parts["non_members"]) == (4.0, 3.0)
    with pytest.raises(BudgetSpent, match="queries"):
        GradNorm().run(tiny_lm(), facts().request, context(budget={"queries": 1}))
