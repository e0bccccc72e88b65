"""Group in the place of batch normalization: the swap that opacus proposes, kept on disk, and refused where it could not be."""

import numpy as np
import pytest
import torch
from torch import nn

from efface import api
from efface.core.errors import Missing, Unfit
from efface.families.classifier import Classifier
from efface.families.group_norm import GroupNormed, batch_norms, group_normed, swapped
from efface.families.networks import SmallCNN, seeded
from efface.testing import tiny

SHAPE = {"channels": 1, "side": 8, "outputs": 10, "widths": [8, 16], "embedding": 12}
ROWS = tiny.digits("random").keep[:8]


def network():
    return Classifier(seeded(SmallCNN, 0, **SHAPE), SHAPE)


def test_the_swap():
    """gcd(32, channels) groups as opacus' fix makes them; every other weight stays, and the subject is not touched."""
    before = network()
    digest, names = before.digest, batch_norms(before.model)
    after = group_normed(before)
    assert names == ["body.1", "body.5"] and not batch_norms(after.model) and before.digest == digest and batch_norms(before.model) == names
    groups = [(m.num_groups, m.num_channels) for m in after.model.modules() if isinstance(m, nn.GroupNorm)]
    assert groups == [(8, 8), (16, 16)]
    held = {name.removeprefix("body."): tensor for name, tensor in after.model.state_dict().items()}
    for name, tensor in before.model.state_dict().items():
        if not name.startswith(("body.1.", "body.5.")):
            assert torch.equal(held[name], tensor), name


def test_as_opacus_does():
    validators = pytest.importorskip("opacus.validators")
    theirs = validators.ModuleValidator.fix(network().fork().model.requires_grad_(True))
    mine = group_normed(network()).model.body
    for one, other in zip(theirs.modules(), mine.modules(), strict=True):
        assert type(one) is type(other)
        if isinstance(one, nn.GroupNorm):
            assert (one.num_groups, one.num_channels, one.affine) == (other.num_groups, other.num_channels, other.affine)


def test_single_numbers():
    """8 features make 8 groups of one number by the rule, and each would be zero for every row; they make one group here."""
    norm = swapped(nn.BatchNorm1d(8))
    assert norm.num_groups == 1 and float(norm(torch.arange(16.0).reshape(2, 8)).std()) > 0.5
    assert swapped(nn.BatchNorm1d(48)).num_groups == 16 and swapped(nn.BatchNorm2d(8)).num_groups == 8


def test_on_disk(tmp_path):
    after = group_normed(network())
    after.save(tmp_path)
    again = api.load(str(tmp_path))
    assert again.digest == after.digest and np.array_equal(again.predict(ROWS), after.predict(ROWS))
    assert not batch_norms(after.fresh(1).model)


def test_limits():
    from transformers import ResNetConfig, ResNetForImageClassification

    shape = ResNetConfig(num_channels=1, embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic", num_labels=4)
    with pytest.raises(Unfit, match="a saved ResNetForImageClassification is always read with batch normalization; train adapters"):
        group_normed(Classifier(ResNetForImageClassification(shape)))
    with pytest.raises(Missing, match="no torch module 'nowhere:Net' can be imported"):
        GroupNormed("nowhere:Net", {})
    bare = group_normed(Classifier(seeded(SmallCNN, 0, **SHAPE)))
    assert bare.arguments is None and not batch_norms(bare.model)
