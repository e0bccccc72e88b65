"""The derived embedding: what it feeds, how it counts, and that it brings back what a closed form hid."""

import numpy as np
import pytest
import torch

from efface.attacks import derived_embedding
from efface.attacks.derived_embedding import DerivedEmbedding
from efface.core.context import Context
from efface.core.errors import BadRows, Missing, Unfit
from efface.families import embedded
from efface.families.denoisers import Text
from efface.methods.rece import RECE
from efface.methods.uce import UCE
from efface.testing import tiny_images, tiny_pipelines

QUICK = {"lam_regs": (1e-6, 1.0), "pictures": 4}


@pytest.fixture(scope="module")
def original():
    return tiny_images.pipeline()


def context(original, **more):
    return Context(baselines={"original": original, **tiny_images.judges()}, **more)


@pytest.fixture
def seeing(monkeypatch):
    """A judge who sees the concept in a picture when it is that of `wanted`, pixel for pixel but for rounding."""
    wanted: list[np.ndarray] = []

    def shown(self, pictures):
        return np.array([any(np.abs(p.astype(int) - w.astype(int)).mean() < 1 for w in wanted) for p in pictures])

    monkeypatch.setattr(embedded.Question, "shown", shown)
    return wanted


def test_the_states_make_what_the_original_made(original):
    """At lam_reg 1e-8 every projection of the edited model gives the original's outputs, from longer states, at every position."""
    edited = UCE().run(original, tiny_images.request(), Context())
    text = original.embed_text(["a cat in plain style", "a cat"])
    found, length, residual = derived_embedding.derived(original, edited, text, 1e-8)
    assert found.states.shape == text.states.shape and residual < 1e-8 and length > 1
    for old, new in zip(*embedded.projections(original, edited), strict=True):
        wanted = text.states @ old.T
        assert float((found.states @ new.T - wanted).norm() / wanted.norm()) < 1e-3


def test_it_brings_back_the_originals_pictures(original, seeing):
    """Success = the original's own picture: none in words, all from derived states with a small lam_reg, none with a large one."""
    request, ctx = tiny_images.request(), context(original)
    seeing += list(original.generate([row["prompt"] for row in request.rows("forget")] * 1, [188, 188]))
    edited = UCE.set({"lam": 1e-3, "tokens": "all"}).run(original, request, Context())
    found = DerivedEmbedding.set({"lam_regs": (1e3, 1e-8), "pictures": 2}).run(edited, request, ctx)
    assert found.parts["unattacked"] == 0 and found.parts["lam_reg 1000"] == 0 and found.parts["lam_reg 1e-08"] == 1
    assert found.value == 1 and found.parts["worst lam_reg"] == 1e-8 and found.n == 2
    assert found.low < 1 == found.high
    assert [row["lam_reg 1e-08"] for row in found.table] == [True, True]
    assert found.parts["length 1e-08"] > found.parts["length 1000"] and found.parts["residual 1e-08"] < found.parts["residual 1000"]


def test_rece_makes_the_states_longer_or_the_residual_larger(original):
    """At the same lam_reg, RECE's rounds leave a residual ten times that of its own start."""
    request = tiny_images.request()
    text = original.embed_text(["a cat"])
    rests = [derived_embedding.derived(original, RECE.set({"epochs": epochs}).run(original, request, Context()), text, 1e-3)[2] for epochs in (0, 3)]
    assert rests[1] > 10 * rests[0]


def test_what_succeeds_in_words_stays_a_success(original, seeing):
    """The original itself: all prompts succeed unattacked, so no lam_reg is below that."""
    request = tiny_images.request()
    seeing += list(original.generate([row["prompt"] for row in request.rows("forget")], [188, 188]))
    found = DerivedEmbedding.set({"lam_regs": (1e6,), "pictures": 2}).run(original, request, context(original))
    assert found.parts["unattacked"] == 1 and found.value == 1


def test_the_reference_stands_beside(original):
    """With a reference both are attacked alike; without one its parts are empty. Steps are counted for the candidate alone."""
    request, ctx = tiny_images.request(), context(original)
    ctx.baselines = {**ctx.baselines, "reference": tiny_images.pipeline(1)}
    found = DerivedEmbedding.set(QUICK).run(original, request, ctx)
    assert found.parts["reference"] is not None and found.parts["reference_unattacked"] is not None and ctx.spent["steps"] == 2
    assert DerivedEmbedding.set(QUICK).run(original, request, context(original)).parts["reference"] is None
    assert found.n == 4 and len(found.table) == 4


def test_a_spent_budget_ends_the_sweep_and_says_so(original):
    found = DerivedEmbedding.set(QUICK).run(original, tiny_images.request(), context(original, budget={"steps": 1}))
    assert "budget" in found.why and "lam_reg 1e-06" in found.parts and "lam_reg 1" not in found.parts


def test_missing_models_and_other_builds_are_named(original):
    request = tiny_images.request()
    with pytest.raises(Missing, match="original"):
        DerivedEmbedding().run(original, request, Context(baselines=tiny_images.judges()))
    with pytest.raises(Missing, match="judge"):
        DerivedEmbedding().run(original, request, Context(baselines={"original": original}))
    with pytest.raises(Unfit, match="differ in the projections"):
        embedded.projections(original, tiny_pipelines.subject("sdxl"))


@pytest.mark.parametrize("kind", ["sdxl", "sd3", "flux"])
def test_states_of_other_kinds(kind):
    """Pooled states are derived too where the denoiser projects them, and the pipeline takes both."""
    subject = tiny_pipelines.subject(kind)
    edited = UCE().run(subject, tiny_images.request(), Context())
    text = subject.embed_text(["a cat"])
    found, _, residual = derived_embedding.derived(subject, edited, text, 1e-8)
    assert residual < 1e-6 and torch.equal(found.pooled, text.pooled) is (kind == "sdxl")
    back = edited.generate(["a cat"], [3], prompt_embeds=found.states, pooled_prompt_embeds=found.pooled)
    plain, hidden = subject.generate(["a cat"], [3]), edited.generate(["a cat"], [3])
    assert np.abs(back.astype(int) - plain.astype(int)).mean() <= np.abs(hidden.astype(int) - plain.astype(int)).mean()


def test_states_are_fed_row_by_row_through_chunks(original, monkeypatch):
    """Five rows in chunks of two, of two guidances: the pictures are those of the prompts, whose states they are."""
    from efface.families import diffusion

    rows = [{"prompt": text, "guidance": guidance} for text, guidance in (("a cat", 1.5), ("a dog", 4.0), ("a boat", 1.5), ("a cat", 4.0), ("a dog", 1.5))]
    plain = original.generate(rows, list(range(5)))
    monkeypatch.setattr(diffusion, "CHUNK", 2)
    text: Text = original.embed_text([row["prompt"] for row in rows])
    assert np.array_equal(original.generate([{**row, "prompt": "nothing"} for row in rows], list(range(5)), prompt_embeds=text.states), plain)
    with pytest.raises(BadRows, match="3 entries for 5 prompts"):
        original.generate(rows, list(range(5)), prompt_embeds=text.states[:3])


def test_a_model_that_draws_gives_the_cat_back():
    """Emoji, UCE from the last token on: a cat in one of twelve pictures in words, and in all of them from derived states."""
    from efface.benchmarks import emoji

    base, request = emoji.original("cpu"), emoji.request("cat")
    edited = UCE.set({"tokens": "last_to_end"}).run(base, request, Context())
    found = DerivedEmbedding.set({"lam_regs": (0.1,), "pictures": 12}).run(edited, request, Context(baselines={"original": base, **emoji.judges("cpu")}))
    assert found.parts["unattacked"] <= 0.25 and found.value >= 0.9 and found.n == 12
