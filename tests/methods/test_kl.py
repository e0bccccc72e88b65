"""KL minimization: the formula over labeled positions, and what its keep term holds."""

import math

import pytest
import torch

from efface.testing.tiny import trained_lm


def test_formula(forget, uniform, second_step, the_facts):
    """At the start after = before: the terms are -m = -log V (each token 1 / V) and 0.

    After a step, KL is the sum over the vocabulary of p (log p - log q), averaged over a row's answer tokens, then over rows; a
    plain loop over single rows without padding gives the same.
    """
    _, ctx = forget("kl", {"fit.steps": 1, "stop.at": "steps"}, uniform)
    assert ctx.curve[0]["forget"] == pytest.approx(-math.log(len(uniform.tokenizer)), rel=1e-6)
    assert ctx.curve[0]["keep"] == pytest.approx(0, abs=1e-6)
    one, drawn, logged = second_step("kl", {"keep_weight": 3.0}, {"forget": 16, "keep": 48})
    rows = [divergence(trained_lm(), one, the_facts.keep[at]) for at in drawn["keep"]]
    assert logged["keep"] > 0.01
    assert logged["keep"] == pytest.approx(3 * sum(rows) / len(rows), rel=1e-3)


@torch.no_grad()
def divergence(before, after, row):
    """Mean over answer tokens of KL(before || after), one row at a time."""
    encoded = before.encode_row(row)
    ids = torch.tensor([[*encoded.prompt, *encoded.answer]])
    p, q = (subject.model(ids).logits[0, len(encoded.prompt) - 1 : -1].double().softmax(-1) for subject in (before, after))
    return float((p * (p.log() - q.log())).sum(-1).mean())


def test_no_op(forget):
    after, _ = forget("kl", {"forget_weight": 0.0, "keep_weight": 0.0, "fit.steps": 3, "stop.at": "steps"})
    assert after.digest == trained_lm().digest


def test_forgets(forget, losses):
    after, ctx = forget("kl")
    assert losses(after)["forget"] >= losses(trained_lm())["unseen"] and "unseen" in ctx.notes["stopped"]


def test_keeps(forget, losses):
    assert losses(forget("kl")[0])["keep"] < 0.5 * losses(forget("gradient_ascent")[0])["keep"]


def test_limits(forget, reads):
    """Without its keep term it is gradient ascent; with it, no row is read by the frozen model more than once (and one batch for a check)."""
    alone = {"fit.steps": 4, "stop.at": "steps"}
    assert forget("kl", {"keep_weight": 0.0, **alone})[0].digest == forget("gradient_ascent", alone)[0].digest
    with reads(trained_lm()) as seen:
        forget("kl", {"fit.steps": 20, "stop.at": "steps"}, seed=0)  # 160 draws out of 48 rows
    assert sum(seen) == 48 + 8
