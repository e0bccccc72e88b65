"""A closed-form edit on real diffusers classes: kept in a file, put on, taken off, and found again from the weights."""

import json

import pytest
import torch

from efface.core.errors import EffaceError, Unfit
from efface.families import text_edit
from efface.families.text_edit import Edit
from efface.testing import tiny_pipelines

LAYERS = {"sd": 4 * 2, "sdxl": 4 * 2, "video-unet": 4 * 2, "sd3": 1, "flux": 1, "cogvideox": 1}
"""Projections that read text: keys and values of four blocks, or the one way in."""


def some_map(width, seed=0):
    return torch.eye(width, dtype=torch.float64) + 0.05 * torch.randn(width, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def edit_of(subject, seed=0):
    layers = text_edit.text_layers(subject)
    return Edit(some_map(next(iter(layers.values())).weight.shape[1], seed), tuple(layers))


@pytest.fixture(scope="module")
def sd():
    return tiny_pipelines.subject("sd")


@pytest.mark.parametrize("kind", LAYERS)
def test_layers_that_read_text(kind):
    """Each reads states as wide as embed_text() gives; keys and values in U-Nets, one module elsewhere."""
    subject = tiny_pipelines.subject(kind)
    layers = text_edit.text_layers(subject)
    width = subject.embed_text(["a cat"]).states.shape[-1]
    assert len(layers) == LAYERS[kind] and {layer.weight.shape[1] for layer in layers.values()} == {width}
    assert all(subject.model.get_submodule(name) is layer for name, layer in layers.items())


def test_saved_loaded_and_undone(sd, tmp_path):
    """The map comes back bit for bit from its file, and its inverse brings the weights back."""
    edit = edit_of(sd)
    edit.save(tmp_path)
    loaded = Edit.load(tmp_path)
    assert torch.equal(loaded.map, edit.map) and loaded.map.dtype == torch.float64 and loaded.modules == edit.modules
    after = text_edit.applied(sd, loaded)
    back = text_edit.undone(after, Edit.load(tmp_path))
    for name in edit.modules:
        original, changed, again = (model.model.get_submodule(name).weight for model in (sd, after, back))
        assert float((changed - original).norm() / original.norm()) > 0.1
        assert float((again - original).norm() / original.norm()) < 1e-6


def test_only_these_weights_are_new(sd):
    """Everything outside of the edit is the very same tensor, nothing asks for gradients, and the original stays as it was."""
    before, edit = sd.digest, edit_of(sd)
    after = text_edit.applied(sd, edit)
    old, new = dict(sd.model.named_parameters()), dict(after.model.named_parameters())
    changed = {f"{name}.weight" for name in edit.modules}
    assert {name for name in old if old[name] is not new[name]} == changed
    assert not any(p.requires_grad for p in new.values()) and sd.digest == before


@pytest.mark.parametrize("kind", ["sd", "sd3", "flux"])
def test_the_edited_model_is_the_old_one_that_reads_other_states(kind):
    """noise(x, t, h) after the edit equals noise(x, t, h M^T) before it, biases included."""
    subject = tiny_pipelines.subject(kind)
    edit = edit_of(subject)
    after, text = text_edit.applied(subject, edit), subject.embed_text(["a cat", "a dog"])
    x = torch.randn(2, *subject.latent_shape, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([500, 20])
    moved = type(text)((text.states.double() @ edit.map.T).float(), text.pooled)
    with torch.no_grad():
        said, plain, other = after.noise(x, t, text), subject.noise(x, t, text), subject.noise(x, t, moved)
    assert torch.allclose(said, other, atol=2e-4 * float(plain.abs().max()))
    assert float((said - plain).abs().max()) > 10 * float((said - other).abs().max())


def test_the_map_is_found_again_from_two_models(sd):
    edit = edit_of(sd, 3)
    found = text_edit.between(sd, text_edit.applied(sd, edit), edit.modules)
    assert float((found - edit.map).norm() / edit.map.norm()) < 1e-6


def test_what_does_not_fit_is_named(sd, tmp_path):
    with pytest.raises(Unfit, match="unet.nowhere.weight, which this pipeline lacks"):
        text_edit.applied(sd, Edit(some_map(32), ("unet.nowhere",)))
    with pytest.raises(Unfit, match="states of width 7; .* reads 32"):
        text_edit.applied(sd, Edit(some_map(7), edit_of(sd).modules[:1]))
    (tmp_path / "edit.json").write_text(json.dumps({"modules": []}))
    with pytest.raises(EffaceError, match="holds no edit"):
        Edit.load(tmp_path)
