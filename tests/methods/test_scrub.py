"""SCRUB: the divergence and the order of passes by hand, starts without a gradient, rewinding, and what it does to a digit."""

import logging

import pytest
import torch

from efface.core.errors import Unfit
from efface.core.types import Data, Request
from efface.families.classifier import Classifier
from efface.families.networks import MLP, SmallCNN, seeded
from efface.methods.scrub import Scrub, ScrubConfig, State, divergence, first_gradient, passes, rewind, said_by
from efface.ops.loop import descend, optimizer_for
from efface.testing.tiny import context, digits, trained_classifier

FAST = {"fit.lr": 1e-3}


def right(subject, rows):
    return float((subject.predict(rows).argmax(1) == [row["y"] for row in rows]).mean())


def first(forget=40, keep=80):
    """A request with the first rows of each set."""
    return Request(forget=Data.inline(digits().forget[:forget]), keep=Data.inline(digits().keep[:keep]))


def test_formula():
    """T = 2: softmax((0, 0) / 2) = (.5, .5), softmax((2 log 3, 0) / 2) = (.75, .25), so KL = .5 log(4 / 3), and T^2 times that is .5753641."""
    before, after = torch.zeros(1, 2), torch.tensor([[2 * torch.log(torch.tensor(3.0)), 0.0]])
    assert float(divergence(before, after, 2.0)) == pytest.approx(0.5753641, abs=1e-6)
    assert float(divergence(after, after, 2.0)) == 0


@pytest.mark.parametrize(
    ("start", "order"),
    [("auto", ["forget", "keep", "forget", "keep", "keep"]), ("min", ["keep", "forget", "keep", "forget", "keep"])],
)
def test_passes(start, order):
    """10 keep rows in batches of 4 are 3 steps a pass, 2.5 passes 8 steps: 3, 3 and 2; 5 forget rows in batches of 2 are 3 steps."""
    plan = passes(ScrubConfig.model_validate({"start": start, "msteps": 2, "forget_batch": 2, "fit": {"lr": 1.0, "epochs": 2.5, "batch": 4, "schedule": "linear", "warmup": 2}}), 5, 10)
    assert [name for name, _ in plan] == order
    assert [fit.steps for name, fit in plan if name == "keep"] == [3, 3, 2] and [fit.steps for name, fit in plan if name == "forget"] == [3, 3]
    assert [fit.lr for name, fit in plan if name == "keep"] == pytest.approx([1, 5 / 8, 2 / 8])
    assert [fit.batch for name, fit in plan if name == "forget"] == [2, 2]
    assert [fit.warmup for name, fit in plan if name == "keep"] == [2, 0, 0]


def test_no_op():
    assert Scrub.set({"fit.epochs": 0, "fit.steps": 0}).run(trained_classifier(), first(), context()).digest == trained_classifier().digest


def test_forgets_and_keeps():
    """Calibration, Adam 1e-3, jitter .1: all forget rows wrong, 99.2 % of the keep rows right."""
    parts, ctx = digits(), context()
    after = Scrub.set(FAST).run(trained_classifier(), parts.request, ctx)
    assert 1 - right(after, parts.forget) >= 0.95 and right(after, parts.keep) >= 0.95
    assert ctx.notes["first_gradient"] < 1e-6 and ctx.notes["jitter"] == 0.1
    assert [line["step"] for line in ctx.curve] == list(range(len(ctx.curve))) and sum("forget" in line for line in ctx.curve) == 3 * 5


def test_keep_pass_first_forgets_too():
    parts, ctx = digits(), context()
    after = Scrub.set({**FAST, "start": "min", "fit.batch": 128}).run(trained_classifier(), parts.request, ctx)
    assert 1 - right(after, parts.forget) >= 0.95 and right(after, parts.keep) >= 0.95 and "jitter" not in ctx.notes


def test_without_a_gradient_it_warns_and_sgd_does_not_move(caplog):
    """Calibration: SGD at 5e-4 to 2e-3 from the subject itself changes nothing."""
    parts, ctx = digits(), context()
    with caplog.at_level(logging.WARNING, "efface"):
        after = Scrub.set({"start": "max", "fit.optimizer": "sgd", "fit.lr": 2e-3, "fit.epochs": 4}).run(trained_classifier(), parts.request, ctx)
    assert "no gradient" in caplog.text and "no gradient" in ctx.notes["warning"]
    assert right(after, parts.forget) == 1.0


def test_batch_normalization_gives_a_gradient():
    """Then there is neither warning nor jitter, and measuring it moves no statistics; the network without it has none."""
    rows = digits().forget[:32]
    shapes = {SmallCNN: {"side": 8, "widths": (4, 8), "embedding": 16}, MLP: {}}
    found = {}
    for kind, shape in shapes.items():
        after = Classifier(seeded(kind, 0, **shape), shape).trainable(0, 0)
        before = after.digest
        found[kind] = first_gradient(after, rows, said_by(after, rows), 2.0, context())
        assert after.digest == before and not after.model.training
    assert found[SmallCNN] > 1e-3 and found[MLP] < 1e-6
    ctx = context()
    Scrub.set({"fit.epochs": 1, "start": "max"}).run(Classifier(seeded(SmallCNN, 0, **shapes[SmallCNN])), first(), ctx)
    assert not {"warning", "jitter"} & set(ctx.notes)


def test_limits():
    """Without maximizing passes and without the divergence it is fine-tuning on the keep rows, bit for bit."""
    settings = {"msteps": 0, "alpha": 0.0, "fit.epochs": 1}
    after = Scrub.set(settings).run(trained_classifier(), first(), context())
    plain = trained_classifier().trainable(0, 0)
    alone = context().alone(seed=context().seed_for("pass", 0))
    descend(plain, {"keep": first().rows("keep")}, lambda batches: {"keep": plain.losses(batches["keep"]).mean()}, Scrub.set(settings).config.fit, alone)
    assert after.digest == plain.digest


def test_one_optimizer_serves_two_runs():
    """The second run goes on with the moments of the first: momentum at once, where a run of its own would begin without."""
    request, moved = first(), []
    for shared in (True, False):
        after = trained_classifier().trainable(0, 0)
        trained = list(after.model.parameters())
        fit = Scrub.set({"fit.optimizer": "sgd", "fit.momentum": 0.9, "fit.epochs": 0, "fit.steps": 1}).config.fit
        optimizer = optimizer_for(trained, fit)
        for _ in range(2):
            after.model.requires_grad_(True)
            descend(after, {"keep": request.rows("keep")}, lambda b: {"keep": after.losses(b["keep"]).mean()}, fit, context(), optimizer=optimizer if shared else None)  # noqa: B023
        moved.append(sum(float((a - b).norm()) for a, b in zip(after.model.parameters(), trained_classifier().model.parameters(), strict=True)))
    assert moved[0] > 1.3 * moved[1]


def test_rewind_takes_the_state_that_is_as_wrong_as_unseen_rows():
    """Errors .2, .6, .9 after three passes, .55 on unseen rows: the second."""
    after, ctx = trained_classifier().fork(), context()
    states = [State(error, {name: torch.full_like(tensor, at) for name, tensor in after.model.state_dict().items()}) for at, error in enumerate((0.2, 0.6, 0.9))]
    rewind(after, states, 0.55, ctx)
    assert all((tensor == 1).all() for tensor in after.model.state_dict().values())
    assert ctx.notes["rewound_to"] == 2 and ctx.notes["forget_error"] == 0.6


def test_rewinding_run():
    ctx = context()
    request = Request(forget=first().forget, keep=first().keep, unseen=Data.inline(digits().unseen))
    after = Scrub.set({**FAST, "rewind": True, "fit.epochs": 3}).run(trained_classifier(), request, ctx)
    assert ctx.notes["rewound_to"] in (1, 2, 3)
    assert 1 - right(after, request.rows("forget")) == pytest.approx(ctx.notes["forget_error"])
    with pytest.raises(Unfit, match="unseen"):
        Scrub.set({"rewind": True}).run(trained_classifier(), first(), context())


def test_adapters_get_a_start_too():
    """Half of a new adapter is zero; noise on the other half alone would change nothing."""
    ctx = context()
    after = Scrub.set({"fit.rank": 4, "fit.epochs": 1, "fit.lr": 1e-3}).run(trained_classifier(), first(), ctx)
    assert ctx.notes["jitter"] == 0.1 and ctx.curve[0]["forget"] < -1e-6
    assert after.digest != trained_classifier().digest
