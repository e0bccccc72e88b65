"""Handwritten digits: a small network that must forget one digit, a random tenth of its training rows, or rows with wrong labels.

scikit-learn's `load_digits`, pixels scaled to 0..1, one fixed permutation, 1297 rows to train on and 500 to test with; a
network 64-128-64-10. The references are the same network, trained without the forget rows: one from the original's start
and in its order of rows, two from other starts and in other orders.

    class      all rows of one digit
    subclass   all rows of one digit, where the labels are pairs of digits (0-1, 2-3, ...): a retrained model still gives
               some of them the right pair
    random     130 training rows
    noisy      130 training rows whose labels were made wrong, any wrong digit alike; trained until they are known by heart

Reading the result: in the class scenario original and reference differ on the forget rows as much as can be; in the random
scenario they agree already (the network generalizes), so agreement there alone proves nothing. The noisy scenario shows
what the random one can't: the original knows every wrong label, a retrained model none.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.types import Benchmark, Case, Data, Request, Row
from efface.families import scenarios
from efface.families.classifier import Classifier
from efface.families.networks import MLP, seeded
from efface.families.references import trained
from efface.families.scenarios import Scenario, Split

TRAIN, RANDOM = 1297, 130
"""Rows to train on, and of them those that the random and the noisy scenario forget."""


class DigitsConfig(Config):
    """Settings of the digits benchmark."""

    scenario: Scenario = "class"
    """What is forgotten: all rows of one digit, with digits or pairs of digits as labels, a random tenth of the rows, or rows with wrong labels."""
    digit: int = Field(3, ge=0, le=9)
    """The digit of the class and the subclass scenario."""
    fit: Fit = Fit(lr=1e-2, steps=300, batch=64, schedule="linear", weight_decay=5e-4, precision="no")
    """Optimizer settings of original and references, but in the noisy scenario."""
    noisy_fit: Fit = Fit(lr=1e-2, steps=1400, batch=64, schedule="linear", clip=0, precision="no")
    """Optimizer settings of original and references in the noisy scenario: long enough to learn wrong labels by heart."""


class Digits(Benchmark[DigitsConfig]):
    """A network on scikit-learn's digits, with references that never saw the forget rows."""

    card = Card(
        name="digits", title="Handwritten digits: a class, a sub-class, random rows or wrong labels forgotten", paper="scikit-learn", families=("classifier",),
        departs="AdamW where the literature's small networks use SGD with momentum",
    )

    def case(self, ctx: Context) -> Case:
        """The trained network, the request, three references, and the test rows as utility; made in seconds."""
        config = self.config
        parts = split(config.scenario, config.digit)
        ask = request(parts, config.scenario, config.digit)
        fit = config.noisy_fit if config.scenario == "noisy" else config.fit
        outputs = 5 if config.scenario == "subclass" else 10
        baselines = trained(lambda seed: network(seed, outputs), ask, fit, ctx)
        return Case(
            name=f"digits/{config.scenario}", original=baselines["original"], request=ask, baselines=baselines,
            reference=f"the same network from the same start, trained on the {len(parts.keep)} keep rows alone",
            utility={"test rows": Data.inline(parts.test)},
        )


def split(scenario: Scenario = "class", digit: int = 3) -> Split:
    """The rows of a scenario; the permutation is fixed, so that they are the same on every machine."""
    import numpy as np
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(images))  # noqa: NPY002  its stream is frozen, where the new generators' may change
    rows: list[Row] = [{"x": (images[place] / 16).tolist(), "y": int(labels[place])} for place in order]
    train, test = rows[:TRAIN], rows[TRAIN:]
    return scenarios.part(train, test, scenario, scenarios.Rules(digit, RANDOM, [digit // 2 for digit in range(10)]))


def request(parts: Split, scenario: Scenario, digit: int = 3) -> Request:
    """The request of a scenario."""
    return scenarios.request(parts, scenario, digit)


def network(seed: int, outputs: int = 10) -> Classifier:
    """An untrained network."""
    shape: dict[str, Any] = {"inputs": 64, "hidden": [128, 64], "outputs": outputs}
    return Classifier(seeded(MLP, seed, **shape), shape)
