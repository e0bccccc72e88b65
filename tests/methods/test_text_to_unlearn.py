"""Text-to-Unlearn: the terms of its loss by hand, what is trained, and what the reference asks of it on the toy generator."""

import pytest
import torch
from torch import nn

from efface.benchmarks.gan_shapes import GanShapes
from efface.core.errors import BadConfig, Missing, Unfit
from efface.core.types import Request
from efface.families import concept_chances
from efface.families.gan import Gan
from efface.families.generators import StyleGenerator
from efface.families.networks import seeded
from efface.families.two_towers import ImageText
from efface.methods.maximize_distance import MaximizeDistance
from efface.methods.text_to_unlearn import Mapper, TextToUnlearn, mapper, target
from efface.metrics.concept_rate import ConceptRate
from efface.metrics.latent_drift import LatentDrift
from efface.metrics.score_w1 import ScoreW1
from efface.ops.directions import cosines, shares
from efface.testing.tiny import context

RED = Request(kind="concept", names=("red",), near=("green",))
QUICK = {"latents": 16, "mapper.steps": 5, "fit.steps": 4, "fit.batch": 16, "mapper.batch": 16}
TABLE = {"red": [1.0, 0, 0], "green": [0, 1.0, 0]}


def colors():
    """An encoder that sees the mean color alone."""
    return ImageText(lambda pixels: pixels.mean((2, 3)), lambda texts: torch.tensor([TABLE[text] for text in texts]), name="mean color")


def generator():
    return Gan(seeded(StyleGenerator, 0, channels=4, hidden=16), (8,), {"channels": 4, "hidden": 16})


def run(settings=None, subject=None, request=RED, **baselines):
    ctx, blank = context(baselines={"encoder": colors(), **baselines}), subject or generator()
    return blank, TextToUnlearn.set({**QUICK, **(settings or {})}).run(blank, request, ctx), ctx


# -- the formulas -----------------------------------------------------------------------------------------------------------


class Paint(nn.Module):
    """Three latent numbers are the color of the whole picture."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return (x + self.shift).view(-1, 3, 1, 1).expand(-1, 3, 2, 2)


def painted(settings):
    """What is frozen about "red" for a generator whose pictures are its latents, and everything that goes into it."""
    subject = Gan(Paint(), (3,), values=(0.0, 1.0))
    rows = [{"latent": [0.1, 0.9, 0.1]}, {"latent": [0.9, 0.1, 0.1]}, {"latent": [0.2, 0.2, 0.8]}]
    config = TextToUnlearn.set({**QUICK, **settings}).config
    edit = mapper(subject, colors(), "red", rows, config, context())
    return target(subject, colors(), "red", edit, rows, config.spare), subject.encode(rows).x


def test_direction_and_sparing():
    """Delta is the mean difference of the unit vectors with and without the edit; g its share along Delta, cut to 0..1.

    The second latent is red already, so its own difference is small: it is kept less than the two others.
    """
    found, latents = painted({"mapper.steps": 60, "mapper.lr": 0.02, "size": 0.0})
    plain, edited = (nn.functional.normalize(x, dim=1) for x in (latents, latents + found.edits))
    assert torch.allclose(found.edited, edited, atol=1e-5) and torch.allclose(found.delta, (edited - plain).mean(0), atol=1e-5)
    assert torch.allclose(found.kept, shares(edited - plain, found.delta).clamp(0, 1), atol=1e-5)
    assert found.kept[1] < 0.3 < 0.9 < found.kept[0] and found.delta[0] > 0
    assert painted({"spare": False, "mapper.steps": 60})[0].kept.tolist() == [1, 1, 1]


def test_the_mapper_shows_the_prompt():
    """Pictures with the edit fit "red" better than without; a weight on the edit's length makes it shorter."""
    found, latents = painted({"mapper.steps": 60, "mapper.lr": 0.02, "size": 0.0})
    short, _ = painted({"mapper.steps": 60, "mapper.lr": 0.02, "size": 5.0})
    fits = [nn.functional.normalize(x, dim=1)[:, 0] for x in (latents, latents + found.edits)]
    assert (fits[1] >= fits[0] - 0.02).all() and (fits[1] - fits[0]).mean() > 0.2
    assert short.edits.square().mean() < found.edits.square().mean()
    assert Mapper(5)(torch.randn(2, 5)).abs().max() == 0, "an untrained mapper edits nothing"


def test_the_first_step_by_hand():
    """A copy that has not moved: cosine 0, so direction 1; reach weight 3 x far 2 = 6; nothing to keep yet; all is finite, and so is the
    gradient's norm.
    """
    _, _, ctx = run({"reach": 3.0, "far": 2.0})
    first = ctx.curve[0]
    assert first["direction"] == pytest.approx(1, abs=1e-3) and first["reach"] == pytest.approx(6, abs=1e-2) and first["keep"] == pytest.approx(0, abs=1e-6)
    assert 0 < first["gradient_norm"] < float("inf") and "identity" not in first
    assert ctx.curve[-1]["direction"] < 1


def test_a_term_at_weight_zero_is_left_out():
    _, _, ctx = run({"reach": 0.0, "keep": 0.0})
    assert all(line["reach"] == line["keep"] == 0 for line in ctx.curve)


def test_identity_is_asked_of_a_classifier():
    from efface.testing import tiny_gan

    _, _, ctx = run(identity=tiny_gan.judges()["judge/shape"])
    assert ctx.curve[0]["identity"] == pytest.approx(0, abs=1e-5) and ctx.curve[-1]["identity"] > 0


@pytest.mark.parametrize(("train", "moved"), [("synthesis", ("synthesis.",)), ("mapping", ("mapping.",)), ("all", ("mapping.", "synthesis."))])
def test_what_is_trained(train, moved):
    blank, after, _ = run({"train": train})
    old = dict(blank.model.named_parameters())
    for name, parameter in after.model.named_parameters():
        assert torch.equal(parameter, old[name]) == (not name.startswith(moved)), name
    assert not any(p.requires_grad for p in after.model.parameters())


def test_counted_normalization_stays():
    """The running means of a DCGAN generator are those of its training, and forgetting leaves them."""
    from efface.families.generators import DCGenerator

    blank = Gan(seeded(DCGenerator, 0, noise=4, channels=2), (4, 1, 1), {"noise": 4, "channels": 2})
    with torch.no_grad():  # random weights under normalization that has counted nothing draw but gray
        for parameter in blank.model.parameters():
            parameter.mul_(10.0 if parameter.ndim == 4 else 1.0)
    _, after, _ = run(subject=blank)
    old = dict(blank.model.named_buffers())
    assert after.digest != blank.digest and all(torch.equal(buffer, old[name]) for name, buffer in after.model.named_buffers())


def test_no_op_and_refusals():
    blank, after, _ = run({"fit.steps": 0})
    assert after.digest == blank.digest
    with pytest.raises(BadConfig, match=r"fit\.rank"):
        run({"fit.rank": 2})
    with pytest.raises(Missing, match='the baseline "encoder"'):
        TextToUnlearn().run(generator(), RED, context())
    with pytest.raises(Unfit, match="no difference between pictures with and without 'red'"):
        run({"mapper.steps": 0})
    with pytest.raises(Unfit, match="no parameter for the role 'mapping'"):
        run({"train": "mapping"}, subject=Gan(Paint(), (3,), values=(0.0, 1.0)))


# -- on the toy generator ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toy():
    """The case, what the method makes of it, and what the plain baseline makes of it."""
    case = GanShapes().case(context())
    seen = context(baselines={name: subject for name, subject in case.baselines.items() if not name.startswith(("judge", "reference"))})
    made = TextToUnlearn().run(case.original, case.request, seen)
    plain = MaximizeDistance().run(case.original, case.request, seen)
    return case, made, plain, context(baselines=case.baselines)


@pytest.mark.slow
def test_red_is_gone_and_the_rest_stays(toy):
    """Over 500 latents the rate of red falls by at least 80 %; elsewhere pictures change by less than 10 % of what random pairs differ by."""
    case, made, _, ctx = toy
    rate, drift = ConceptRate().run(made, case.request, ctx), LatentDrift().run(made, case.request, ctx)
    assert rate.n == 500 and rate.parts["original"] > 0.2 and rate.parts["fall"] >= 0.8
    assert drift.value < 0.1


@pytest.mark.slow
def test_held_out_pictures_move_against_the_direction(toy):
    """cos(E(G(w + T)) - E(G0(w + T)), -Delta), averaged over latents that training never saw: 0 for a copy, above 0.5 after.

    So it is for the unedited pictures of latents on which the original draws red; the others are to stay, and have no direction.
    """
    case, made, _, ctx = toy
    eyes, config, original = case.baselines["encoder"], TextToUnlearn().config, case.original
    edit = mapper(original, eyes, "red", [{"seed": ctx.seed_for("latent", at)} for at in range(config.latents)], config, ctx)
    rows = [{"seed": concept_chances.FIRST + at} for at in range(256)]
    found, latents = target(original, eyes, "red", edit, rows, True), original.encode(rows).x

    def cosine(subject, edits):
        moves = eyes.images(subject.drawn(subject.styles(latents) + edits)) - eyes.images(original.drawn(original.styles(latents) + edits))
        return cosines(moves, -found.delta)

    with torch.no_grad():
        nothing = torch.zeros_like(found.edits)
        assert cosine(original.fork(), found.edits).abs().max() == 0
        assert cosine(made, found.edits).mean() > 0.5
        assert cosine(made, nothing)[torch.from_numpy(concept_chances.shows(original, case.request, ctx)[:256])].mean() > 0.5


@pytest.mark.slow
def test_scores_move_under_the_erased_prompt(toy):
    """W1 is 0 for the original and, under "red", at least three times what it is under the names of shapes."""
    case, made, _, ctx = toy
    assert ScoreW1().run(case.original, case.request, ctx).value == 0
    found = ScoreW1().run(made, case.request, ctx)
    assert found.value > 0.1 and found.parts["times_unrelated"] >= 3


@pytest.mark.slow
def test_the_plain_baseline_drifts_more(toy):
    """It forgets as well, and changes latents that never showed the concept more."""
    case, made, plain, ctx = toy
    rates = [ConceptRate().run(subject, case.request, ctx).parts["fall"] for subject in (made, plain)]
    drifts = [LatentDrift().run(subject, case.request, ctx).value for subject in (made, plain)]
    assert rates[1] >= 0.8 and drifts[1] > 2 * drifts[0]


@pytest.mark.slow
def test_the_direction_alone_does_not_forget(toy):
    """The sources' terms without the two additions turn pictures the right way and then stop: the rate of red falls by less than a tenth."""
    case, _, _, ctx = toy
    seen, settings = context(baselines={"encoder": case.baselines["encoder"]}), {"reach": 0.0, "spare": False, "fit.steps": 150}
    after = TextToUnlearn.set(settings).run(case.original, case.request, seen)
    assert seen.curve[-1]["direction"] < 0.5 and ConceptRate().run(after, case.request, ctx).parts["fall"] < 0.1
