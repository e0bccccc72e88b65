"""Fine-tuning: every row counts the same, nothing happens at zero steps, and the target knows what it was taught."""

import pytest
import torch

from efface.core.errors import Unfit
from efface.core.types import Data, Request
from efface.ops.loop import mean_loss
from efface.recipes.finetune import Finetune
from efface.testing import tiny

FACTS = tiny.facts()


def test_formula():
    """One step of AdamW from zero moments moves every weight by lr * g / (|g| + eps), so by lr in the sign of -g.

    The loss is the mean over rows of the mean loss per token: its gradient is taken here by hand, on both rows of the batch.
    """
    rows = [FACTS.forget[0], FACTS.keep[0]]
    subject = tiny.tiny_lm()
    request = Request(forget=Data.inline(rows[:1]), keep=Data.inline(rows[1:]))
    after = Finetune.set({"fit.lr": 1e-4, "fit.steps": 1, "fit.batch": 2, "fit.warmup": 0, "fit.clip": 0, "fit.precision": "no"}).run(
        subject, request, tiny.context()
    )
    own = subject.fork()
    own.model.requires_grad_(True)
    sum(own.losses(own.encode([row]))[0] for row in rows).div(2).backward()
    for (name, before), now in zip(own.model.named_parameters(), after.model.parameters(), strict=True):
        clear = before.grad.abs() > 1e-5
        moved = (now - before)[clear].detach()
        assert torch.allclose(moved, -1e-4 * before.grad[clear].sign(), atol=2e-6), name


def test_no_op():
    subject = tiny.tiny_lm()
    after = Finetune.set({"fit.steps": 0}).run(subject, FACTS.request, tiny.context())
    assert after is not subject and after.digest == subject.digest


def test_forgets():
    """The target is what must be forgotten: it knows forget and keep rows alike, and not those it never saw."""
    target = tiny.trained_lm()
    assert mean_loss(target, FACTS.forget) < 0.1 and mean_loss(target, FACTS.keep) < 0.1 and mean_loss(target, FACTS.unseen) > 1.5
    assert target.generate(FACTS.forget[:4], 24) == [row["answer"] for row in FACTS.forget[:4]]


def test_keeps():
    """One kind of rows is enough; none is refused."""
    settings = {"fit.steps": 2, "fit.batch": 4, "fit.precision": "no"}
    for given in ({"forget": Data.inline(FACTS.forget)}, {"keep": Data.inline(FACTS.keep)}):
        ctx = tiny.context()
        Finetune.set(settings).run(tiny.tiny_lm(), Request(**given), ctx)
        assert len(ctx.curve) == 2
    with pytest.raises(Unfit, match="finetune reads forget and keep rows and the request has neither"):
        Finetune.set(settings).run(tiny.tiny_lm(), Request(), tiny.context())


def test_limits():
    """With an adapter the base stays shared and untouched."""
    subject = tiny.tiny_lm()
    before = subject.digest
    after = Finetune.set({"fit.steps": 2, "fit.batch": 4, "fit.rank": 2, "fit.precision": "no"}).run(subject, FACTS.request, tiny.context())
    assert after.adapted and subject.digest == before
    assert {p.data_ptr() for p in subject.model.parameters()} <= {p.data_ptr() for p in after.model.parameters()}
