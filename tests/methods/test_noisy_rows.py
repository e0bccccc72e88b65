"""Single rows with wrong labels: the one small scenario in which forgetting single rows shows.

Retraining on the keep rows gets all of them wrong by their noisy labels, and the trained model has them by heart. Calibration
(share of forget rows that are wrong): original 0, retrained 100 %, fine-tuning 0, random labels 98, NegGrad+ at .9 95, EU-k 99.
"""

import pytest

from efface.core import registry
from efface.testing.tiny import context, digits, trained_classifier

pytestmark = pytest.mark.slow
FIT = {"fit.optimizer": "sgd", "fit.momentum": 0.9, "fit.weight_decay": 0.0, "fit.batch": 64, "fit.clip": 0, "fit.lr": 0.05, "fit.epochs": 10}


def wrong_and_kept(method, settings):
    """Share of forget rows that are wrong and of keep rows that are right after a run."""
    parts = digits("noisy")
    after = registry.load("method", method).set({**FIT, **settings}).run(trained_classifier(scenario="noisy"), parts.request, context())
    right = [(after.predict(rows).argmax(1) == [row["y"] for row in rows]).mean() for rows in (parts.forget, parts.keep)]
    return 1 - right[0], right[1]


def test_the_original_has_them_by_heart():
    wrong, kept = wrong_and_kept("random_label", {"fit.epochs": 0, "fit.steps": 0})
    assert wrong < 0.02 and kept > 0.99


@pytest.mark.parametrize(
    ("method", "settings", "least"),
    [
        ("random_label", {"fit.lr": 0.05}, 0.95),
        ("random_label", {"order": "union"}, 0.9),
        ("salun", {"fit.lr": 0.1, "exclude_true": True}, 0.9),
        ("neggrad_plus", {"alpha": 0.9, "fit.lr": 0.01, "fit.epochs": 5, "stop.at": "steps"}, 0.88),
        ("eu_k", {}, 0.95),
    ],
)
def test_rows_are_forgotten(method, settings, least):
    wrong, kept = wrong_and_kept(method, settings)
    assert wrong >= least and kept > 0.95


def test_fine_tuning_the_last_layers_forgets_next_to_nothing():
    wrong, kept = wrong_and_kept("cf_k", {"fit.lr": 0.01, "stop.at": "steps"})
    assert wrong < 0.15 and kept > 0.99
