"""SimNPO: the formula with delta inside beta, length normalization, and no reference at all."""

import math

import pytest
import torch

from efface.methods.npo import npo
from efface.methods.simnpo import simnpo
from efface.testing.tiny import tiny_lm, trained_lm


def test_formula(forget, uniform, second_step, plain, the_facts):
    """m = 2, delta = 1, beta = 2.5: (2 / 2.5) softplus(-2.5) = 0.8 * 0.0788898 = 0.0631118; at m = delta it is (2 / beta) log 2.

    The paper has delta outside beta: 0.8 softplus(-2.5 * 2 + 1) = 0.8 * 0.0181499 = 0.0145199, which is ours at delta = 1 / 2.5.
    A model that gives each of V tokens 1 / V has m = log V.
    """
    assert float(simnpo(torch.tensor([2.0]), 2.5, 1.0)) == pytest.approx(0.0631118, abs=1e-6)
    assert float(simnpo(torch.tensor([2.0]), 2.5, 1 / 2.5)) == pytest.approx(0.0145199, abs=1e-6)
    assert float(simnpo(torch.tensor([1.7]), 4.5, 1.7)) == pytest.approx(2 / 4.5 * math.log(2), rel=1e-6)
    size = math.log(len(uniform.tokenizer))
    _, ctx = forget("simnpo", {"delta": size, "beta": 2.0, "forget_weight": 0.3, "fit.steps": 1, "stop.at": "steps"}, uniform)
    assert (ctx.curve[0]["forget"], ctx.curve[0]["keep"]) == pytest.approx((0.3 * math.log(2), size), rel=1e-5)
    one, drawn, logged = second_step("simnpo", {"beta": 2.5, "delta": 0.5, "forget_weight": 0.3}, {"forget": 16, "keep": 48})
    rows = [plain(one, the_facts.forget[at]) for at in drawn["forget"]]
    found = [0.8 * math.log1p(math.exp(-2.5 * (-sum(row) / len(row) - 0.5))) for row in rows]
    assert logged["forget"] == pytest.approx(0.3 * sum(found) / len(found), rel=1e-4)


def test_no_op(forget):
    after, _ = forget("simnpo", {"keep": "none", "forget_weight": 0.0, "fit.steps": 3, "stop.at": "steps"})
    assert after.digest == trained_lm().digest


def test_forgets(forget, losses):
    after, ctx = forget("simnpo")
    assert losses(after)["forget"] >= losses(trained_lm())["unseen"] and "unseen" in ctx.notes["stopped"]


def test_keeps(forget, losses):
    assert losses(forget("simnpo")[0])["keep"] < 0.3


def test_limits():
    """Constant loss per token: an answer twice as long has the same loss here and another one in NPO.

    The gradient on a row's log p is -(d loss / d m) / T = 2 sigmoid(-beta (m - delta)) / T.
    """
    per_token, before = torch.tensor([1.3], dtype=torch.float64), torch.tensor([0.4], dtype=torch.float64)
    short, long = ((-per_token * t) / t for t in (7, 14))
    assert torch.equal(simnpo(-short, 2.5), simnpo(-long, 2.5))
    assert abs(float(npo(-per_token * 7, -before * 7, 0.1) - npo(-per_token * 14, -before * 14, 0.1))) > 1
    log_p = torch.tensor([-9.0, -30.0, -2.0], dtype=torch.float64, requires_grad=True)
    length = torch.tensor([9.0, 12.0, 4.0], dtype=torch.float64)
    (found,) = torch.autograd.grad(simnpo(-log_p / length, 2.5, 0.7).sum(), log_p)
    assert torch.allclose(found, 2 * torch.sigmoid(-2.5 * (-log_p / length - 0.7)) / length, atol=1e-6)


def test_no_reference_is_read(forget, reads):
    with reads(trained_lm()) as seen:
        _, ctx = forget("simnpo", {"fit.steps": 3, "stop.at": "steps"}, seed=0)
    assert len(ctx.curve) == 3 and seen == []


def test_padding_and_order_change_nothing(padded, the_facts):
    subject, rows = tiny_lm(), the_facts.forget[:6]
    plainly = simnpo(subject.losses(subject.encode(rows)), 2.5)
    assert torch.allclose(simnpo(subject.losses(padded(subject.encode(rows), 11)), 2.5), plainly, rtol=1e-6)
    order = [3, 0, 5, 1, 4, 2]
    assert torch.allclose(simnpo(subject.losses(subject.encode([rows[at] for at in order])), 2.5), plainly[order], rtol=1e-6)
