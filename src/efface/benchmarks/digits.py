"""Handwritten digits: a small network that must forget one class, or a random tenth of its training rows.

scikit-learn's `load_digits`, pixels scaled to 0..1, one fixed permutation, 1297 rows to train on and 500 to test with; a
network 64-128-64-10. The reference is the same network from the same start, trained without the forget rows.

Reading the result: in the class scenario original and reference differ on the forget rows as much as can be; in the random
scenario they agree already (the network generalizes), so agreement there alone proves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from efface.core import registry
from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.types import Benchmark, Case, Data, Request, Row, Subject
from efface.families.classifier import Classifier
from efface.families.networks import MLP, seeded

Scenario = Literal["class", "random"]
TRAIN, RANDOM = 1297, 130
"""Rows to train on, and of them those that the random scenario forgets."""


class DigitsConfig(Config):
    """Settings of the digits benchmark."""

    scenario: Scenario = "class"
    """What is forgotten: all rows of one digit, or a random tenth of the rows."""
    digit: int = Field(3, ge=0, le=9)
    """The digit of the class scenario."""
    fit: Fit = Fit(lr=1e-2, steps=300, batch=64, schedule="linear", weight_decay=5e-4, precision="no")
    """Optimizer settings of original and reference."""


@dataclass(frozen=True)
class Split:
    """The rows of one scenario. `test` holds what must still be known."""

    forget: Sequence[Row]
    keep: Sequence[Row]
    unseen: Sequence[Row]
    test: Sequence[Row]


class Digits(Benchmark[DigitsConfig]):
    """A network on scikit-learn's digits, with the reference that never saw the forget rows."""

    card = Card(
        name="digits", title="Handwritten digits, one class or a random tenth forgotten", paper="scikit-learn", families=("classifier",),
        departs="AdamW where the literature's small networks use SGD with momentum",
    )

    def case(self, ctx: Context) -> Case:
        """The trained network, the request, the reference, and the test rows as utility; made in seconds."""
        config = self.config
        parts = split(config.scenario, config.digit)
        ask = request(parts, config.scenario, config.digit)
        start = network(ctx.seed_for("network"))
        own = ctx.alone(folder=None, budget={}, curve=[], notes={})
        settings: Mapping[str, object] = {f"fit.{name}": value for name, value in config.fit.model_dump().items()}
        original: Subject = registry.load("recipe", "finetune").set(settings).run(start, ask, own)
        reference: Subject = registry.load("recipe", "retrain").set(settings).run(start, ask, own)
        return Case(
            name=f"digits/{config.scenario}", original=original, request=ask, baselines={"original": original, "reference": reference},
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
    if scenario == "random":
        return Split(train[:RANDOM], train[RANDOM:], test[:RANDOM], test[RANDOM:])
    forget, keep = _parted(train, digit)
    unseen, rest = _parted(test, digit)
    return Split(forget, keep, unseen, rest)


def request(parts: Split, scenario: Scenario, digit: int = 3) -> Request:
    """The request of a scenario."""
    named: dict[str, Any] = {"kind": "class", "names": (str(digit),)} if scenario == "class" else {}
    return Request(forget=Data.inline(parts.forget), keep=Data.inline(parts.keep), unseen=Data.inline(parts.unseen), **named)


def network(seed: int) -> Classifier:
    """An untrained network."""
    shape: dict[str, Any] = {"inputs": 64, "hidden": [128, 64], "outputs": 10}
    return Classifier(seeded(MLP, seed, **shape), shape)


def _parted(rows: Sequence[Row], digit: int) -> tuple[list[Row], list[Row]]:
    return [row for row in rows if row["y"] == digit], [row for row in rows if row["y"] != digit]
