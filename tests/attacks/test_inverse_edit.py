"""Undoing by the inverse: linear edits come back whole, other changes are told apart, and the residual says which is which."""

import numpy as np
import pytest
import torch

from efface.attacks.inverse_edit import InverseEdit
from efface.core.context import Context
from efface.core.errors import Missing
from efface.families import embedded, text_edit
from efface.methods.rece import RECE
from efface.methods.trce import TRCE
from efface.methods.uce import UCE
from efface.testing import tiny_images, tiny_pipelines

REQUEST = tiny_images.request()


@pytest.fixture(scope="module")
def original():
    return tiny_images.pipeline()


def context(original, **more):
    return Context(baselines={"original": original, **tiny_images.judges()}, **more)


@pytest.fixture
def seeing(monkeypatch, original):
    """A judge who sees the concept in the original's own pictures of the prompts to forget, and in no others."""
    wanted = original.generate([row["prompt"] for row in REQUEST.rows("forget")], [188, 188])

    def shown(self, pictures):
        return np.array([any(np.abs(p.astype(int) - w.astype(int)).mean() < 1 for w in wanted) for p in pictures])

    monkeypatch.setattr(embedded.Question, "shown", shown)


def moved(subject, role, by=0.3):
    """The subject with noise on the weights of a role."""
    after = subject.trainable(subject.names_of(role))
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in subject.names_of(role):
            weight = dict(after.model.named_parameters())[name]
            weight += by * weight.std() * torch.randn(weight.shape, generator=source)
    after.model.requires_grad_(False)
    return after


@pytest.mark.parametrize("edit", [UCE.set({"tokens": "all"}), RECE.set({"epochs": 1}), TRCE.set({"fit.steps": 0, "prior": 1e-6})], ids=["uce", "rece", "trce"])
def test_closed_forms_are_undone_from_the_weights_alone(original, seeing, edit):
    """The edited model never draws what the original draws; fed the inverse it draws nothing else."""
    found = InverseEdit.set({"pictures": 2}).run(edit.run(original, REQUEST, Context()), REQUEST, context(original))
    assert found.parts["unattacked"] == 0 and found.value == 1 and found.n == 2
    assert found.parts["residual"] < 1e-4 and found.why == "" and found.status == "ok"


def test_the_map_found_is_the_map_that_was_saved(original, tmp_path):
    after = UCE().run(original, REQUEST, Context(folder=tmp_path))
    saved = text_edit.Edit.load(tmp_path / "edit")
    found = text_edit.between(original, after, saved.modules)
    assert float((found - saved.map).norm() / saved.map.norm()) < 1e-5
    assert embedded.relative(*embedded.projections(original, after), found) < 1e-4


@pytest.mark.parametrize(("role", "technique"), [("cross.key", ""), ("", "tensor")])
def test_other_changes_are_skipped_with_their_residual(original, role, technique):
    """Noise on the keys, or the older technique: no one map explains them, and the residual is of the size of the change."""
    after = moved(original, role) if role else UCE.set({"technique": technique}).run(original, REQUEST, Context())
    found = InverseEdit.set({"pictures": 2}).run(after, REQUEST, context(original))
    assert found.status == "skipped" and found.value is None
    assert found.parts["residual"] > 0.05 and "no linear edit" in found.why and f"{found.parts['residual']:.3g}" in found.why


def test_untouched_projections_leave_nothing_to_take_back(original, seeing):
    """The original itself, and a model that was changed elsewhere: the attack is plain prompts, and says so."""
    ctx = context(original)
    same = InverseEdit.set({"pictures": 2}).run(original, REQUEST, ctx)
    assert same.value == 1 == same.parts["unattacked"] and same.parts["residual"] == 0 and "nothing to take back" in same.why
    other = InverseEdit.set({"pictures": 2}).run(moved(original, "self", 1.0), REQUEST, ctx)
    assert other.value == 0 == other.parts["unattacked"] and "nothing to take back" in other.why


def test_a_reference_is_asked_in_words_where_it_is_no_edit(original):
    ctx = context(original)
    ctx.baselines = {**ctx.baselines, "reference": tiny_images.pipeline(1)}
    found = InverseEdit.set({"pictures": 2}).run(UCE().run(original, REQUEST, Context()), REQUEST, ctx)
    assert found.parts["reference"] == found.parts["reference_unattacked"] and found.parts["reference_residual"] > 0.1


def test_budget_and_missing_models(original):
    edited = UCE().run(original, REQUEST, Context())
    found = InverseEdit.set({"pictures": 2}).run(edited, REQUEST, context(original, budget={"steps": 0}))
    assert "budget" in found.why and found.value == found.parts["unattacked"]
    with pytest.raises(Missing, match="original"):
        InverseEdit().run(edited, REQUEST, Context(baselines=tiny_images.judges()))


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_pooled_states_are_taken_back_too(kind):
    """Where the pooled text is projected, it has a map of its own; fed both inverses, the denoiser says what it said before."""
    subject = tiny_pipelines.subject(kind)
    edited = UCE.set({"tokens": "all"}).run(subject, REQUEST, Context())
    undoing = InverseEdit()._undoing(subject, edited)
    assert undoing.pooled is not None and undoing.residual < 1e-3
    text = subject.embed_text(["a cat"])
    x, t = torch.randn(1, *subject.latent_shape, generator=torch.Generator().manual_seed(0)), torch.tensor([400])
    with torch.no_grad():
        said, hidden, back = subject.noise(x, t, text), edited.noise(x, t, text), edited.noise(x, t, embedded.through(text, undoing.back, undoing.pooled))
    assert float((back - said).norm()) < 0.05 * float((hidden - said).norm())


def test_a_model_that_draws_gives_the_cat_back_after_rece():
    """Emoji, three rounds of RECE: hardly a cat in words, cats in nearly all of twelve pictures with the edit taken back."""
    from efface.benchmarks import emoji

    base, request = emoji.original("cpu"), emoji.request("cat")
    after = RECE().run(base, request, Context())
    found = InverseEdit.set({"pictures": 12}).run(after, request, Context(baselines={"original": base, **emoji.judges("cpu")}))
    assert found.parts["unattacked"] <= 0.25 and found.value >= 0.9 and found.parts["residual"] < 1e-3
