"""Models that every attack is tried on: one that was pushed too far, and one in which the knowledge is only hidden."""

import pytest

from efface.core.config import Fit
from efface.ops.loop import Watch, descend
from efface.testing.tiny import context, facts, trained_lm


def ascended(level, lr, keep):
    """The trained model after gradient ascent on the forget rows, up to a mean loss of `level`, with `keep` times descent on the keep rows."""
    after = trained_lm().trainable(0, 0)
    rows = facts()

    def loss(batch):
        return {"forget": -after.losses(batch["forget"]).clamp(max=50).mean(), "keep": keep * after.losses(batch["keep"]).mean()}

    def measure():
        return float(after.losses(after.encode(rows.forget)).mean())

    fit = Fit(lr=lr, steps=60, batch=16, precision="no")
    return descend(after, {"forget": rows.forget, "keep": rows.keep}, loss, fit, context(), Watch(measure, level, 1, "far enough"))


@pytest.fixture(scope="session")
def over():
    """Forget rows far less likely than rows that nobody saw."""
    return ascended(20.0, 3e-3, 5.0)


@pytest.fixture(scope="session")
def hidden():
    """Forget rows just as unlikely as unseen ones, after the fewest steps that do it."""
    return ascended(2.5, 2e-4, 1.0)
