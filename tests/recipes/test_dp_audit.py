"""The claim of private training against adversaries who know the rows: an audit with canaries, and how well they are known by heart."""

import math
import random

import numpy as np
import pytest
from scipy.stats import binom

pytest.importorskip("opacus")

from efface.core.types import Data, Request
from efface.families.classifier import Classifier
from efface.families.networks import MLP, seeded
from efface.recipes.dp import DP
from efface.recipes.finetune import Finetune
from efface.testing import tiny

SHAPE = {"inputs": 64, "hidden": [64], "outputs": 10}
COUNT = 100


def canaries():
    """Noise with a label drawn at random: nothing but the row itself tells it. Each is trained on with chance one half."""
    source = random.Random(7)
    rows = [{"x": [float(source.random() < 0.5) for _ in range(64)], "y": source.randrange(10)} for _ in range(COUNT)]
    return rows, np.array([source.random() < 0.5 for _ in rows])


@pytest.fixture(scope="module")
def trained():
    """Claimed epsilon and model of ordinary training, and of private training with little and with much noise."""
    rows, inside = canaries()
    request = Request(keep=Data.inline([*tiny.digits("random").keep[:50], *(row for row, member in zip(rows, inside, strict=True) if member)]))
    start = Classifier(seeded(MLP, 0, **SHAPE), SHAPE)
    plain = Finetune.set({"fit.lr": 1e-2, "fit.steps": 50, "fit.batch": 50, "fit.clip": 0, "fit.precision": "no"}).run(start, request, tiny.context())
    found = [(math.inf, plain)]
    for noise in (0.1, 5.0):
        ctx = tiny.context()
        model = DP.set({"noise": noise, "delta": 1e-5, "fit.lr": 1e-2, "fit.steps": 50, "fit.batch": 50}).run(start, request, ctx)
        found.append((ctx.notes["epsilon"], model))
    return found


def chances(model, rows):
    """Probability of each canary's label."""
    return model.predict(rows)[np.arange(len(rows)), [row["y"] for row in rows]]


def lower_bound(scores, inside):
    """Largest epsilon that the guesses rule out at 95 %: an (epsilon, 0)-private training lets each of k guesses be right with chance
    e^epsilon / (1 + e^epsilon) at most, independently (Steinke and others, 2023). The 40 highest are called members, the 40 lowest not."""
    order = np.argsort(scores, kind="stable")
    right = int((~inside[order[:40]]).sum() + inside[order[-40:]].sum())
    tried = np.arange(0, 8, 0.01)
    return float(max((epsilon for epsilon in tried if binom.sf(right - 1, 80, 1 / (1 + math.exp(-epsilon))) <= 0.05), default=0.0))


def test_the_audit_by_hand():
    """80 of 80 right: p^80 <= 0.05 for p <= 0.9632, so epsilon 3.26; 40 of 80 rule out nothing."""
    inside = np.arange(100) % 2 == 0
    assert lower_bound(np.where(inside, 1.0, 0.0), inside) == pytest.approx(3.26, abs=0.011)
    assert lower_bound(np.arange(100.0), inside) == 0.0


def test_no_attack_beats_the_claim(trained):
    """What members are guessed from never rules out the claimed epsilon; the same attack on ordinary training does rule it out."""
    rows, inside = canaries()
    bounds = [lower_bound(chances(model, rows), inside) for _, model in trained]
    claims = [epsilon for epsilon, _ in trained]
    assert all(bound <= claim for bound, claim in zip(bounds, claims, strict=True))
    assert claims[2] < 2.5 < bounds[0], f"bounds {bounds}, claims {claims}"


def test_exposure_falls_with_epsilon(trained):
    """log2(10) - log2(rank of the canary's label among the ten), a mean over the canaries trained on: 3.32 by heart, 1.14 by chance."""
    rows, inside = canaries()
    known = [row for row, member in zip(rows, inside, strict=True) if member]
    exposures = []
    for _, model in trained:
        mine = chances(model, known)
        ranks = (model.predict(known) >= mine[:, None]).sum(1)
        exposures.append(float(np.mean(math.log2(10) - np.log2(ranks))))
    claims = [epsilon for epsilon, _ in trained]
    assert claims[0] > claims[1] > claims[2]
    assert exposures[0] > exposures[1] > exposures[2] + 0.3 and exposures[0] > 3.2 and exposures[2] < 1.6, f"{exposures} at {claims}"
