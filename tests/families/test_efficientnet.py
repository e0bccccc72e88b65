"""EfficientNet-lite0: its size, its padding, and the way from published names to ours."""

import pytest
import torch
from safetensors.torch import save_file

from efface.core.errors import EffaceError, Missing
from efface.families import efficientnet
from efface.families.classifier import Classifier
from efface.families.efficientnet import EfficientNetLite0, pretrained
from efface.families.networks import seeded

BACK = {"stem.0": "_conv_stem", "stem.1": "_bn0", "top.0": "_conv_head", "top.1": "_bn1", "head": "_fc"}
INSIDE = {"expand.0": "_expand_conv", "expand.1": "_bn0", "depthwise.0": "_depthwise_conv", "depthwise.1": "_bn1", "project.0": "_project_conv", "project.1": "_bn2"}


def published(network):
    """The network's tensors under the published names."""
    found = {}
    for name, tensor in network.state_dict().items():
        for ours, theirs in (INSIDE if name.startswith("blocks") else BACK).items():
            if f".{ours}." in f".{name}":
                name = f".{name}".replace(f".{ours}.", f".{theirs}.")[1:]
                break
        found[name.replace("blocks", "_blocks")] = tensor.clone()
    return found


@pytest.fixture(scope="module")
def network():
    return seeded(EfficientNetLite0, 3)


def test_size(network):
    """4.65 million parameters, as the published network has: 3.37 million in the body and 1.28 million in the head."""
    assert sum(p.numel() for p in network.parameters()) == 4_652_008 and network.head.weight.numel() == 1_280_000
    assert len(network.blocks) == 16 and sum(block.added for block in network.blocks) == 9
    assert len(published(network)) == 296 and "_blocks.15._bn2.running_var" in published(network) and "_fc.bias" in published(network)


def test_padding():
    """A 3 x 3 filter of ones at stride 2 over 4 ones in a row: TensorFlow pads one pixel, at the end, so the sums are 3 and 2.

    Over 5 ones it pads one on either side: 2, 3, 2.
    """
    filter_ = efficientnet._Same(1, 1, 3, 2, bias=False)
    torch.nn.init.zeros_(filter_.weight)
    with torch.no_grad():
        filter_.weight[0, 0, 1] = 1  # the middle row alone: what is above and below does not count
        four, five = (filter_(torch.ones(1, 1, side, side))[0, 0] for side in (4, 5))
    assert four.shape == (2, 2) and five.shape == (3, 3)
    assert five[1].tolist() == [2, 3, 2] and four[0].tolist() == [3, 2]


def test_pretrained(network, tmp_path):
    save_file(published(network), tmp_path / "model.safetensors")
    found = pretrained(tmp_path / "model.safetensors")
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    network.eval()
    assert torch.equal(found(x), network(x)) and not found.training and not any(p.requires_grad for p in found.parameters())
    mean = torch.tensor(efficientnet.MEAN).view(1, 3, 1, 1).expand(2, 3, 32, 32)
    assert torch.allclose((mean - network.mean) / network.spread, torch.zeros(1), atol=1e-6)


def test_other_weights_are_refused(network, tmp_path):
    with pytest.raises(Missing, match="efface fetch efficientnet-lite0"):
        pretrained(tmp_path / "nowhere.safetensors")
    tensors = published(network)
    tensors.pop("_fc.bias")
    save_file(tensors, tmp_path / "less.safetensors")
    with pytest.raises(EffaceError, match=r"head\.bias for one"):
        pretrained(tmp_path / "less.safetensors")
    save_file({**published(network), "_fc.bias": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(EffaceError, match=r"head\.bias for one"):
        pretrained(tmp_path / "other.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"none")
    with pytest.raises(EffaceError, match="does not load"):
        pretrained(tmp_path / "bad.safetensors")


def test_as_a_classifier(network, tmp_path):
    from efface.families import module_files

    subject = Classifier(network, {"outputs": 1000})
    assert subject.classes == 1000
    (tmp_path / "net").mkdir()
    subject.save(tmp_path / "net")
    assert module_files.load(tmp_path / "net", "cpu").digest == subject.digest
