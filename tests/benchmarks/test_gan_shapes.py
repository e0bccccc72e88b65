"""The toy generator: its case, the shipped models, and that judges and encoder are right about real pictures."""

import numpy as np
import pytest
import torch

from efface.benchmarks import gan_shapes
from efface.benchmarks.gan_shapes import GanShapes
from efface.core.errors import UnknownName
from efface.families import concept_chances, judges, shapes
from efface.families.diffusion import pictures_of
from efface.testing.tiny import context


@pytest.fixture(scope="module")
def case():
    return GanShapes().case(context())


def test_the_case(case):
    assert case.request.names == ("red",) and case.request.near == ("green", "blue") and case.request.kind == "concept"
    assert set(case.baselines) == {"original", "reference", "reference/1", "reference/2", "encoder", "judge/color", "judge/shape"}
    assert len({subject.digest for subject in case.baselines.values()}) == 7 and "without red" in case.reference
    assert case.original.latent == (8,) and case.original.generate(1).shape == (1, 16, 16, 3)


def test_other_concepts_have_no_reference():
    case = GanShapes.set({"concept": "square"}).case(context())
    assert case.reference == "" and "reference" not in case.baselines and case.request.near == ("circle", "triangle")
    with pytest.raises(UnknownName, match="purple"):
        GanShapes.set({"concept": "purple"}).case(context())


def test_original_and_references(case):
    """The original draws red on a fifth to a half of its latents, each reference on less than 2 %; all classes that stay are drawn on more than 5 %."""
    ctx = context(baselines=case.baselines)
    rates = {name: concept_chances.shows(case.baselines[name], case.request, ctx).mean() for name in ("original", *gan_shapes.REFERENCES)}
    assert 0.2 < rates.pop("original") < 0.5 and max(rates.values()) < 0.02
    for name in ("original", *gan_shapes.REFERENCES):
        for judge, subject in judges.judges(ctx).items():
            shares = np.bincount(concept_chances.said(case.baselines[name], subject, ctx).argmax(1), minlength=3) / concept_chances.LATENTS
            assert (shares[1 if judge == "color" and name != "original" else 0 :] > 0.05).all(), (name, judge, shares)
        assert all(values.mean() > 0.85 for values in concept_chances.clarity(case.baselines[name], ctx).values())


def test_judges_and_encoder_are_right_about_real_pictures(case):
    """Pictures of a draw that none of them was trained on: at least 95 % right each."""
    rows = shapes.rows(180, seed=77)
    drawn = pictures_of(rows)
    for name in ("color", "shape"):
        truth = np.array([row[name] for row in rows])
        assert (judges.chances(case.baselines[f"judge/{name}"], drawn).argmax(1) == truth).mean() >= 0.95
        assert (case.baselines["encoder"].fits(drawn, list(gan_shapes.NAMES[name])).argmax(1) == truth).mean() >= 0.95


def test_shown():
    row = {"color": 0, "shape": 2}
    assert [gan_shapes.shown(row, name) for name in ("red", "triangle", "green", "circle")] == [True, True, False, False]


def test_everything_can_be_made_again():
    """A few steps of each recipe, twice: the same weights. The shipped ones are the same functions with their own settings."""
    rows = shapes.rows(18)
    made = [gan_shapes.generator(rows, 1, context(), {"fit.steps": 2}) for _ in range(2)]
    assert made[0].digest == made[1].digest != gan_shapes.untrained(1).digest
    assert gan_shapes.judge("color", 0, context(), {"fit.steps": 1}).arguments["labels"] == list(shapes.COLORS)
    assert torch.isfinite(gan_shapes.encoder(0, context(), {"fit.steps": 1}).texts(["red"])).all()
