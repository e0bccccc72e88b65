import pytest
import torch

from efface.core.config import Fit
from efface.core.errors import BudgetSpent, Missing, Unfit
from efface.metrics.relearn_time import RelearnTime
from efface.ops.loop import descend, mean_loss
from efface.testing.tiny import context, digits, retrained_classifier, tiny_classifier, trained_classifier

PARTS = digits()


def run(subject, settings=None, reference=None, original=True, **changes):
    baselines = {**({"original": trained_classifier()} if original else {}), **({"reference": reference} if reference else {})}
    return RelearnTime.set(settings).run(subject, PARTS.request, context(baselines=baselines, **changes))


def epochs_by_hand(cap, above):
    """The same count with a plain loop over epochs: eight steps of SGD each, the loss looked at after each."""
    target = mean_loss(trained_classifier(), PARTS.forget) + above
    copy, ctx = retrained_classifier().trainable(0, 0), context()
    seen = []

    def loss(batch):
        return {"loss": copy.losses(batch["all"]).mean()}

    fit = Fit(lr=0.05, momentum=0.9, steps=8 * cap, batch=64, optimizer="sgd", clip=0, precision="no")
    ctx.progress = lambda steps, label, total: (step for step in steps if step % 8 or seen.append(mean_loss(copy, PARTS.forget)) is None)
    descend(copy, {"all": [*PARTS.forget, *PARTS.keep]}, loss, fit, ctx)
    return next((at for at, level in enumerate(seen) if level <= target), None)


def test_the_original_needs_no_epoch():
    found = run(trained_classifier())
    assert found.value == 0 and found.parts["reached"] == 1 and found.why == ""
    assert found.parts["loss_target"] == pytest.approx(found.parts["loss_before"] + 1e-5)


def test_what_was_only_hidden_is_back_before_what_was_never_there():
    """The class's output is pushed down: answers forget, weights know. The retrained network takes many times as long."""
    hidden = trained_classifier().fork()
    with torch.no_grad():
        hidden.modules_of("head")[0].bias[3] -= 30
    assert mean_loss(hidden, PARTS.forget) > 5
    found = run(hidden, reference=retrained_classifier())
    assert 0 < found.value < found.parts["reference"] / 2
    assert found.parts["reference_loss_before"] > 10 and found.parts["reached"] == 1


def test_epochs_are_those_of_a_plain_loop():
    found = run(retrained_classifier(), {"cap": 25, "tolerance": 0.02})
    assert 2 < found.value == epochs_by_hand(25, 0.02)


def test_what_is_never_reached_is_a_lower_bound_and_no_zero():
    found = run(retrained_classifier(), {"cap": 2})
    assert found.value == 2 and found.parts["reached"] == 0 and "within 2 epochs; the value is a lower bound" in found.why


def test_it_repeats_and_the_subject_is_untouched():
    before = retrained_classifier().digest
    assert run(retrained_classifier(), {"cap": 3}).parts == run(retrained_classifier(), {"cap": 3}).parts
    assert retrained_classifier().digest == before


def test_limits():
    with pytest.raises(Missing, match="no original"):
        run(retrained_classifier(), original=False)
    with pytest.raises(Unfit, match="relearn_time would take about .* most = 1e\\+06 "):
        run(retrained_classifier(), {"most": 1e6})
    with pytest.raises(BudgetSpent):
        run(tiny_classifier(), budget={"steps": 5})
