"""The keep term: nothing, a loss, or a distance."""

import pytest
import torch

from efface.core.errors import Unfit
from efface.core.types import Request
from efface.ops.divergences import kl_rows
from efface.ops.keep import Keep
from efface.testing.tiny import context, facts, tiny_lm


def batch(subject):
    return {"keep": subject.encode(facts().keep[:4], range(4))}


def test_none_reads_nothing():
    keep = Keep("none", 1.0, tiny_lm(), Request(), context())
    assert keep.pools == {} and keep.terms(tiny_lm(), {}) == {}
    with pytest.raises(Unfit, match="no 'keep' rows"):
        Keep("loss", 1.0, tiny_lm(), Request(), context())


def test_loss_is_the_mean_over_rows():
    after = tiny_lm(1)
    keep = Keep("loss", 0.25, tiny_lm(), facts().request, context())
    assert keep.pools == {"keep": facts().keep}
    assert torch.equal(keep.terms(after, batch(after))["keep"], 0.25 * after.losses(batch(after)["keep"]).mean())


def test_kl_is_from_the_frozen_to_the_trained():
    """Zero between equals; otherwise KL(before || after), not the other way around, with a gradient for `after` alone."""
    before, after = tiny_lm(), tiny_lm(1).trainable(0, 0)
    keep = Keep("kl", 2.0, before, facts().request, context())
    assert float(keep.terms(before, batch(before))["keep"]) == pytest.approx(0, abs=1e-6)
    found = keep.terms(after, batch(after))["keep"]
    (p, labels), (q, _) = before.logits(batch(before)["keep"]), after.logits(batch(after)["keep"])
    assert float(found.detach()) == pytest.approx(2 * float(kl_rows(p, q.detach(), labels).mean()), rel=1e-5)
    assert float(found.detach()) != pytest.approx(2 * float(kl_rows(q.detach(), p, labels).mean()), rel=1e-3)
    found.backward()
    assert all(weight.grad is None for weight in before.model.parameters())
    assert any(float(weight.grad.abs().sum()) > 0 for weight in after.model.parameters() if weight.grad is not None)
