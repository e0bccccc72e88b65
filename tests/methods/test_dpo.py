"""Direct preference optimization: the formula on pairs, and how it relates to NPO."""

import math

import pytest
import torch

from efface.data import refusals
from efface.methods.dpo import dpo
from efface.methods.npo import npo
from efface.testing.tiny import context, trained_lm


def test_formula(forget, second_step, plain, the_facts):
    """The refusal gained 1 nat, the answer lost 1: (2 / 0.5) softplus(-0.5 * 2) = 4 * 0.313262 = 1.253047.

    Nothing gained or lost: (2 / beta) log 2, which is also the first loss of any run. After a step, gains are differences of sums
    over tokens between model and original, of a question's own refusal and its own answer.
    """
    assert float(dpo(torch.tensor([1.0]), torch.tensor([-1.0]), 0.5)) == pytest.approx(1.253047, abs=1e-6)
    assert float(dpo(torch.zeros(1), torch.zeros(1), 0.1)) == pytest.approx(20 * math.log(2), rel=1e-6)
    settings = {"beta": 0.5, "each": 2, "forget_weight": 0.7}
    one, drawn, logged = second_step("dpo", settings, {"forget": 32, "keep": 48})
    refused = refusals.refuse(the_facts.forget, refusals.lines(""), 2, context().random("refusals"))
    found = []
    for at in drawn["forget"]:
        refusal, answer = (sum(plain(one, row)) - sum(plain(trained_lm(), row)) for row in (refused[at], the_facts.forget[at % 16]))
        found.append(4 * math.log1p(math.exp(-0.5 * (refusal - answer))))
    assert logged["forget"] == pytest.approx(0.7 * sum(found) / len(found), rel=1e-3)
    _, ctx = forget("dpo", {**settings, "forget_weight": 1.0, "fit.steps": 1})
    assert ctx.curve[0]["forget"] == pytest.approx(4 * math.log(2), rel=1e-4)


def test_no_op(forget):
    after, _ = forget("dpo", {"keep": "none", "forget_weight": 0.0, "fit.steps": 3, "stop.at": "steps"})
    assert after.digest == trained_lm().digest


def test_forgets(forget, losses):
    after, _ = forget("dpo", {"fit.steps": 40})
    assert losses(after)["forget"] > 1.0


@pytest.mark.parametrize("keep", ["loss", "kl"])
def test_keeps(forget, losses, keep):
    """A preference alone damages; either keep term holds."""
    held = losses(forget("dpo", {"keep": keep, "fit.steps": 12, "stop.at": "steps"})[0])["keep"]
    lost = losses(forget("dpo", {"keep": "none", "fit.steps": 12, "stop.at": "steps"})[0])["keep"]
    assert held < 0.5 * lost


def test_limits(reads):
    """With a refusal that neither gains nor loses it is NPO; the gradients of both sides are equal and opposite."""
    gains = torch.linspace(-30, 5, 8)
    before = torch.full((8,), -9.0)
    assert torch.allclose(dpo(torch.zeros(8), gains, 0.3), npo(before + gains, before, 0.3), rtol=1e-6)
    sides = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    dpo(*sides, 0.2).sum().backward()
    assert torch.allclose(sides[0].grad, torch.full((3,), -1.0)) and torch.allclose(sides[1].grad, torch.full((3,), 1.0))


def test_original_is_read_before_the_loop(forget, reads):
    """16 answers and 16 x 4 refusals once, however many steps follow."""
    for steps in (1, 5):
        with reads(trained_lm()) as seen:
            forget("dpo", {"fit.steps": steps, "stop.at": "steps"}, seed=0)
        # Rows with one prompt share its pass: the prompt is read once more for each group of refusals.
        assert 80 <= sum(seen) <= 80 + 32
