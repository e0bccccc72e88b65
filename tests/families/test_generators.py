"""The small generator, its critic and the DCGAN generator with the published weights."""


import pytest
import torch
from safetensors.torch import save_file

from efface.core.errors import EffaceError, Missing
from efface.data import fetch
from efface.data.sources import find
from efface.data.torch_weights import convert
from efface.families.gan import Gan
from efface.families.generators import Critic, DCGenerator, StyleGenerator, faces
from efface.families.networks import seeded


@pytest.mark.parametrize("side", [8, 16, 32])
def test_sizes(side):
    drawn = seeded(StyleGenerator, 0, side=side, channels=16)(torch.randn(4, 8))
    assert drawn.shape == (4, 3, side, side) and drawn.abs().max() <= 1
    assert seeded(Critic, 0, side=side, channels=8)(drawn).shape == (4,)
    assert seeded(Critic, 0, side=side, channels=8, pack=2)(drawn).shape == (2,)


def test_a_critic_sees_a_pack_at_once():
    """Two packs with the same second picture and other first ones are told apart; a pack's answer is not a mean over its pictures."""
    critic = seeded(Critic, 0, channels=8, pack=2)
    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    ab, cb = critic(torch.stack([x[0], x[1], x[2], x[1]]))
    assert ab != cb


def test_published_size():
    """3.58 million parameters: 100 x 512 x 16 + 512 x 256 x 16 + 256 x 128 x 16 + 128 x 64 x 16 + 64 x 3 x 16 and 2 x 960 of normalization."""
    network = seeded(DCGenerator, 0)
    assert sum(p.numel() for p in network.parameters()) == 819200 + 2097152 + 524288 + 131072 + 3072 + 1920 == 3_576_704


def test_faces(tmp_path):
    network = seeded(DCGenerator, 3)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    found = faces(tmp_path / "model.safetensors")
    z = torch.randn(1, 100, 1, 1)
    assert torch.equal(found(z), network.eval()(z)) and not any(p.requires_grad for p in found.parameters())
    with pytest.raises(Missing, match="efface fetch gan-faces"):
        faces(tmp_path / "nowhere.safetensors")
    save_file({name: tensor for name, tensor in network.state_dict().items() if name != "main.0.weight"}, tmp_path / "less.safetensors")
    with pytest.raises(EffaceError, match=r"main\.0\.weight for one"):
        faces(tmp_path / "less.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"none")
    with pytest.raises(EffaceError, match="does not load"):
        faces(tmp_path / "bad.safetensors")


def test_the_published_checkpoint_has_one_entry(tmp_path):
    """{"netG_state_dict": tensors} is taken apart; two entries, or something else than tensors inside, are refused."""
    state = {"a": torch.ones(2), "b": torch.zeros(1)}
    torch.save({"netG_state_dict": state}, tmp_path / "one.tar")
    convert(tmp_path / "one.tar", tmp_path / "model.safetensors")
    from safetensors.torch import load_file

    assert {name: tensor.tolist() for name, tensor in load_file(tmp_path / "model.safetensors").items()} == {"a": [1.0, 1.0], "b": [0.0]}
    for bad in ({"x": state, "y": state}, {"x": {"epoch": 3}}, {"x": {}}):
        torch.save(bad, tmp_path / "bad.tar")
        with pytest.raises(EffaceError, match="more than tensors"):
            convert(tmp_path / "bad.tar", tmp_path / "bad.safetensors")


def test_published_weights_draw_faces():
    """Where they were fetched: 16 pictures that differ, and are neither black nor white."""
    if not fetch.is_there(find("gan-faces")):
        pytest.skip("gan-faces was not fetched")
    subject = Gan(faces(fetch.folder("gan-faces") / "model.safetensors"), (100, 1, 1), {})
    drawn = subject.generate(16).astype(float)
    assert drawn.shape == (16, 64, 64, 3) and 40 < drawn.mean() < 200 and drawn.std(0).mean() > 20


