"""Unified concept editing on diffusers pipelines of every kind: what it moves, what it holds, and what it refuses."""

import logging

import pytest
import torch

from efface.core.config import build
from efface.core.context import Context
from efface.core.errors import BadConfig, Unfit
from efface.core.types import Data, Request
from efface.families import concept_states, small_pipelines, text_edit, text_readers
from efface.families.diffusion import Diffusion
from efface.families.text_edit import Edit
from efface.methods.uce import UCE, UCEConfig
from efface.ops import closed_form
from efface.testing import tiny_pipelines

CAT = Request(kind="concept", names=("a cat",), near=("a dog",))


@pytest.fixture(scope="module")
def sd():
    return tiny_pipelines.subject("sd")


def edited(subject, request=CAT, ctx=None, **settings):
    return UCE.set(settings).run(subject, request, ctx or Context())


def weights(subject):
    return {name: subject.model.get_submodule(name).weight.double() for name in text_edit.text_layers(subject)}


def last(subject, text):
    return concept_states.chosen(subject, [text], "last").double()


def test_equals_least_squares_on_stacked_rows(sd):
    """Rows c -> W g, r -> W r and sqrt(lam) I -> sqrt(lam) W, with c and r the states of "cat" and "dog", g that of the begin token."""
    after = weights(edited(sd))
    rows = torch.cat([last(sd, "a cat"), last(sd, "a dog"), 0.5**0.5 * torch.eye(32, dtype=torch.float64)])
    inputs = torch.cat([last(sd, ""), last(sd, "a dog"), 0.5**0.5 * torch.eye(32, dtype=torch.float64)])
    for name, weight in weights(sd).items():
        wanted = torch.linalg.lstsq(rows, inputs @ weight.T).solution.T
        assert float((after[name] - wanted).abs().max()) < 1e-6  # float32 weights; tests/ops has the same to 1e-8 in float64


def test_the_state_of_an_empty_guide_is_the_begin_tokens(sd):
    assert torch.equal(last(sd, ""), sd.embed_text([""]).states[0, :1].double())
    assert torch.equal(last(sd, "a cat"), sd.embed_text(["a cat"]).states[0, 2:3].double())


def test_independent_states_are_met(sd):
    """At lam 1e-6 the concept is read as the guide and the neighbor as before, within 1e-4; at .5 both are off by more."""
    for lam, low, high in ((1e-6, 0.0, 1e-4), (0.5, 1e-4, 0.1)):
        after = weights(edited(sd, lam=lam))
        for said, wanted in (("a cat", ""), ("a dog", "a dog")):
            misses = [float((last(sd, said) @ after[n].T - last(sd, wanted) @ w.T).norm() / (last(sd, wanted) @ w.T).norm()) for n, w in weights(sd).items()]
            assert low <= max(misses) < high


def test_several_concepts_at_once_and_a_guide_of_the_request(sd):
    request = Request(kind="concept", names=("a cat", "a boat"), near=("a dog",), instead="a red image")
    after = weights(edited(sd, request, lam=1e-6))
    for name, weight in weights(sd).items():
        wanted = last(sd, "a red image") @ weight.T
        assert all(torch.allclose(last(sd, text) @ after[name].T, wanted, atol=2e-4 * float(wanted.abs().max())) for text in request.names)


def test_what_is_held(sd):
    """Neighbors and the prompts of keep rows, each once; with preserve 0 or kept 0 fewer are."""
    request = CAT.model_copy(update={"keep": Data.inline([{"prompt": text} for text in ("a boat", "a red image", "a boat", "")])})

    def held(**settings):
        return concept_states.asked(sd, request, build(UCEConfig, settings), Context()).held

    assert held() == ("a dog", "a boat", "a red image", "")
    assert held(preserve=0) == () and held(kept=0) == ("a dog",)
    assert held(kept=0, expansions=("image of {}",)) == ("a dog", "image of a dog")


def test_ways_to_say_it_and_what_they_become(sd):
    """Each way becomes the guide alone, as in the paper's code, or the guide said in the same way."""
    request = Request(kind="concept", names=("plain style",), instead="glossy style")
    for expand, guides in ((False, ("glossy style", "glossy style")), (True, ("glossy style", "a dog in glossy style"))):
        settings = build(UCEConfig, {"expansions": ("a dog in {}",), "expand_guide": expand})
        found = concept_states.asked(sd, request, settings, Context())
        assert found.concepts == ("plain style", "a dog in plain style") and found.guides == guides


def test_which_tokens():
    """"a cat" is begin, a, cat, end, padding to 16; positions from "cat" on meet the guide's last ones, all meet all."""
    subject = tiny_pipelines.subject("sd")
    said, guide = subject.embed_text(["a cat"]).states[0], subject.embed_text([""]).states[0]
    for which, here, there in (("last", [2], [0]), ("last_to_end", range(2, 16), range(2, 16)), ("all", range(16), range(16))):
        contexts, targets = concept_states.pairs(subject, ["a cat"], [""], which)
        assert torch.equal(contexts, said[list(here)]) and torch.equal(targets, guide[list(there)])


@pytest.mark.parametrize("kind", tiny_pipelines.KINDS)
def test_runs_on_every_kind(kind):
    """Only projections that read text change, and the run says how well the system was posed."""
    subject, ctx = tiny_pipelines.subject(kind), Context()
    after = edited(subject, ctx=ctx)
    names = set(text_edit.text_layers(subject)) | (set(subject.modules_of("text.pooled")) if kind in ("sd3", "flux") else set())
    old, new = dict(subject.model.named_parameters()), dict(after.model.named_parameters())
    assert {name for name in old if old[name] is not new[name]} == {f"{name}.weight" for name in names}
    assert not all(torch.equal(old[f"{name}.weight"], new[f"{name}.weight"]) for name in names)
    assert ctx.notes["condition"] > 1 and ctx.notes["added_to_lam"] == 0.0
    assert ("pooled_condition" in ctx.notes) == (kind in ("sd3", "flux"))


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_a_bias_is_added_after_the_map(kind):
    """Where text enters through a projection with a bias, the concept comes out as W g + b, in every encoder's positions."""
    subject = tiny_pipelines.subject(kind)
    with torch.no_grad():
        for name in text_edit.text_layers(subject):
            subject.model.get_submodule(name).bias.fill_(3.0)
    after = edited(subject, lam=1e-8)
    contexts, targets = concept_states.pairs(subject, ["a cat"], [""], "last")
    assert len(contexts) == (2 if kind == "sd3" else 1)
    for name in text_edit.text_layers(subject):
        said, wanted = after.model.get_submodule(name)(contexts), subject.model.get_submodule(name)(targets)
        assert float((said - wanted).abs().max()) < 1e-5 * max(1.0, float(wanted.abs().max()))
        assert float((said - wanted + 3.0).abs().max()) > 1  # with the bias in the target it would be off by the bias
    pooled = text_readers.read(subject, ["a cat", ""]).pooled
    for name in subject.modules_of("text.pooled"):
        assert torch.allclose(after.model.get_submodule(name)(pooled[:1]), subject.model.get_submodule(name)(pooled[1:]), atol=1e-4)


def test_the_older_technique_leaves_nothing_along_the_concept(sd):
    """In every projection W' c is at a right angle to W c; and no one map makes these weights from the old."""
    after = edited(sd, technique="tensor", lam=1e-6)
    for name, weight in weights(sd).items():
        said, was = last(sd, "a cat") @ weights(after)[name].T, last(sd, "a cat") @ weight.T
        assert abs(float(torch.cosine_similarity(said, was))) < 1e-3
        assert torch.allclose(last(sd, "a dog") @ weights(after)[name].T, last(sd, "a dog") @ weight.T, atol=1e-3 * float(weight.abs().max()))
    names = list(text_edit.text_layers(sd))
    m = text_edit.between(sd, after, names)
    change = max(float((weight @ m - weights(after)[name]).norm() / (weight - weights(after)[name]).norm()) for name, weight in weights(sd).items())
    assert change > 0.1


def test_the_edit_is_kept_with_the_run_and_undoes_it(sd, tmp_path):
    after = edited(sd, ctx=Context(folder=tmp_path))
    edit = Edit.load(tmp_path / "edit")
    again, back = text_edit.applied(sd, edit), text_edit.undone(after, edit)
    assert again.digest == after.digest != sd.digest
    for name, weight in weights(sd).items():
        assert float((weights(back)[name] - weight).norm() / weight.norm()) < 1e-5


def test_a_rank_deficient_system_says_what_was_added(sd, caplog):
    """lam 0 and two states in 32 directions."""
    ctx = Context()
    with caplog.at_level(logging.WARNING, "efface"):
        after = edited(sd, ctx=ctx, lam=0)
    assert 0 < ctx.notes["added_to_lam"] < 1e-6 and ctx.notes["condition"] == pytest.approx(closed_form.CONDITION, rel=1e-3)
    assert f"{ctx.notes['added_to_lam']:.3g} was added" in caplog.text
    assert all(torch.isfinite(weight).all() for weight in weights(after).values())


def test_words_in_letters_are_noted(sd, caplog):
    ctx = Context()
    with caplog.at_level(logging.WARNING, "efface"):
        edited(sd, Request(kind="concept", names=("a zebra",)), ctx)
    assert ctx.notes["in_pieces"] == "zebra (5 pieces)" and "zebra (5 pieces)" in caplog.text
    assert torch.equal(concept_states.pairs(sd, ["a zebra"], [""], "last")[0], sd.embed_text(["a zebra"]).states[0, 6:7])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"names": ("",)}, "empty"), ({"names": ("a cat", "  ")}, "empty"), ({"names": ()}, "no concept"), ({"near": ("A  cat",)}, "to be kept"),
        ({"keep": Data.inline([{"prompt": "a cat"}])}, "to be kept"), ({"instead": "a cat"}, "own place"),
    ],
)
def test_bad_requests_are_refused_in_one_line(sd, changes, says):
    with pytest.raises(Unfit, match=says) as error:
        edited(sd, CAT.model_copy(update=changes))
    assert "\n" not in str(error.value)


def test_a_pipeline_without_text_is_refused():
    """A U-Net without cross-attention has nothing that reads a prompt."""
    from diffusers import UNet2DConditionModel

    pipe = small_pipelines.pipeline(("a", "cat"), shape=small_pipelines.Shape(16, 8, 4, 32, 1, 16, (16, 32), (8, 16)))
    pipe.register_modules(unet=UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, cross_attention_dim=32,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"), mid_block_type=None,
    ))
    with pytest.raises(Unfit, match="no text cross-attention") as error:
        edited(Diffusion(pipe))
    assert "\n" not in str(error.value)


def test_an_expansion_needs_a_place():
    with pytest.raises(BadConfig, match="image of cats"):
        build(UCEConfig, {"expansions": ("image of cats",)})
