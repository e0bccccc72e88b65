"""Generators: latents of seeds, pictures, two stages, forks that share, and a folder that loads again."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import efface
from efface.core.capabilities import has
from efface.core.errors import BadRows, EffaceError, Unfit, UnknownName
from efface.families.gan import Gan
from efface.families.generators import DCGenerator, StyleGenerator
from efface.families.networks import seeded


class Gray(nn.Module):
    """One gray value over the whole picture, in 0..1, from one number."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        return (self.scale * x).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)


@pytest.fixture
def small():
    return Gan(seeded(StyleGenerator, 0, channels=8), (8,), {"channels": 8})


def test_values_become_pixels():
    """Latents -1, 0, 1 of a generator whose black is -1 and white 1: 0, 127.5 (rounded to even) and 255; gray is shown in three channels."""
    subject = Gan(Gray(), (1,))
    latents = torch.tensor([[-1.0], [0.0], [1.0], [7.0]])
    drawn = subject.pictures(latents)
    assert drawn.shape == (4, 2, 2, 3) and drawn.dtype == np.uint8
    assert drawn[:, 0, 0].tolist() == [[0] * 3, [128] * 3, [255] * 3, [255] * 3]
    assert Gan(Gray(), (1,), values=(0.0, 1.0)).pictures(latents)[:, 0, 0, 0].tolist() == [0, 0, 255, 255]
    assert subject.sample(latents)[3].max().item() == 4, "a sample is not clipped, so that gradients do not vanish"


def test_sample_is_differentiable(small):
    latents = torch.randn(3, 8, requires_grad=True)
    small.sample(latents).sum().backward()
    assert latents.grad is not None and latents.grad.abs().sum() > 0


def test_two_stages_are_the_module_itself(small):
    z = small.latents([1, 2, 3])
    assert torch.equal(small.drawn(small.styles(z)), (small.model(z) + 1) / 2)
    plain = Gan(seeded(DCGenerator, 0, noise=5, channels=2), (5, 1, 1))
    z = plain.latents([1])
    assert plain.styles(z) is z and plain.sample(z).shape == (1, 3, 64, 64)


def test_a_seed_is_a_latent(small):
    alone, batch = small.generate([{"seed": 9}]), small.generate([{"seed": 4}, {"seed": 9}])
    assert np.array_equal(alone[0], batch[1]) and not np.array_equal(batch[0], batch[1])
    assert np.array_equal(small.generate(2), small.generate([{"seed": 0}, {"seed": 1}]))
    assert np.array_equal(small.generate(2, [4, 9]), batch)
    given = small.latents([9])[0].tolist()
    assert np.array_equal(small.generate([{"latent": given}]), alone)
    assert small.generate([]).shape[0] == 0 and small.generate(0).shape[0] == 0
    before = torch.get_rng_state()
    small.generate(3)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("row", "says"),
    [({"prompt": "red"}, "row 1: found columns prompt; a generator's row needs seed or latent"), ({"latent": [1.0]}, r"shape \(8,\); found \(1,\)"), ({"latent": "no"}, "numbers"), ({"seed": "x"}, "seed")],
)
def test_bad_rows(small, row, says):
    with pytest.raises(BadRows, match=says):
        small.generate([row])


def test_bad_input(small):
    with pytest.raises(BadRows, match="2 pictures and 1 seeds"):
        small.generate(2, [1])
    with pytest.raises(BadRows, match=r"shape \(8,\); found \(7,\)"):
        small.sample(torch.zeros(1, 7))
    with pytest.raises(Unfit, match=r"must give pictures \(N, 3, H, W\); found \(1, 4\)"):
        Gan(nn.Linear(8, 4), (8,)).sample(torch.zeros(1, 8))
    with pytest.raises(Unfit, match="black to white"):
        Gan(Gray(), (1,), values=(1.0, 0.0))
    with pytest.raises(UnknownName, match="role"):
        small.names_of("head")
    with pytest.raises(Unfit, match="no parameter for the role 'mapping'"):
        Gan(Gray(), (1,)).names_of("mapping")
    with pytest.raises(Unfit, match="no parameter to train"):
        small.trainable([])


def test_trainable_copies_what_it_names_and_shares_the_rest(small):
    names = small.names_of("mapping")
    after = small.trainable(names)
    mine, old = dict(after.model.named_parameters()), dict(small.model.named_parameters())
    assert {name for name, parameter in mine.items() if parameter.requires_grad} == set(names)
    for name in mine:
        assert (mine[name].data_ptr() == old[name].data_ptr()) == (name not in names)
    with torch.no_grad():
        for name in names:
            mine[name].add_(1)
    assert after.digest != small.digest and not any(p.requires_grad for p in old.values())
    assert set(small.weights("mapping")) | set(small.weights("synthesis")) == set(old)
    whole = small.fork()
    assert whole.digest == small.digest and all(a.data_ptr() != b.data_ptr() for a, b in zip(whole.model.parameters(), small.model.parameters(), strict=True))


def test_fresh(small):
    one, same, other = small.fresh(1), small.fresh(1), small.fresh(2)
    assert one.digest == same.digest != other.digest and one.latent == small.latent and has(small, "fresh") and has(small, "weights")


def test_saved_and_loaded(small, tmp_path):
    small.save(tmp_path)
    found = efface.load(str(tmp_path))
    assert found.family == "gan" and found.digest == small.digest and found.latent == (8,) and found.values == (-1.0, 1.0)
    assert np.array_equal(found.generate(2), small.generate(2))
    assert not any(path.suffix in (".pt", ".pkl", ".bin") for path in tmp_path.iterdir())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "family": "other"}))
    with pytest.raises(EffaceError, match="does not describe"):
        efface.load(str(tmp_path))


def test_what_cannot_be_built_again_is_not_saved(tmp_path):
    with pytest.raises(Unfit, match="must know how to build"):
        Gan(Gray(), (1,)).save(tmp_path)
