"""Groups of layers from the top, adapters matched by whole names, heads, and files that belong to another model."""

import pytest
import torch
import transformers
from torch import nn

from efface.core.errors import EffaceError, Unfit
from efface.families import stages
from efface.families.classifier import Classifier
from efface.families.networks import MLP, resnet18, seeded, vit
from efface.testing import tiny

SHAPE = {"rank": 2, "alpha": 1.0, "dropout": 0.0}


def mlp(layers: int) -> Classifier:
    arguments = {"inputs": 64, "hidden": [8] * layers, "outputs": 10}
    return Classifier(seeded(MLP, 0, **arguments), arguments)


def roberta() -> Classifier:
    shape = {"hidden_size": 8, "num_hidden_layers": 12, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 20, "num_labels": 3}
    return Classifier(transformers.RobertaForSequenceClassification(transformers.RobertaConfig(**shape)))


def test_groups_by_hand():
    """Five layers in two groups: floor(5 / 2) = 2 each from the top; the lowest is left over."""
    assert stages.groups(mlp(5), 2, "all") == [("stack.8", "stack.6"), ("stack.4", "stack.2")]
    assert stages.head(mlp(5)) == ("stack.10.weight", "stack.10.bias")
    with pytest.raises(Unfit, match="6 slices need as many layers, and MLP has 5"):
        stages.groups(mlp(5), 6, "all")


def test_groups_of_a_text_classifier():
    """Queries and values of two layers each; the head is all that stands outside of the body, its hidden layer too."""
    subject = roberta()
    names = [f"roberta.encoder.layer.{at}.attention.self.{kind}" for at in (11, 10) for kind in ("query", "value")]
    assert stages.groups(subject, 6, "query-value")[0] == tuple(names)
    assert len(stages.groups(subject, 6, "all")[0]) == 2 * 6
    assert stages.head(subject) == ("classifier.dense.weight", "classifier.dense.bias", "classifier.out_proj.weight", "classifier.out_proj.bias")


def test_groups_of_pictures_and_language():
    assert stages.groups(Classifier(seeded(vit, 0, hidden=16, layers=3)), 3, "query-value")[2] == ("vit.layers.0.attention.q_proj", "vit.layers.0.attention.v_proj")
    net = Classifier(seeded(resnet18, 0))
    assert len(stages.groups(net, 4, "query-value")) == 4 and all("stages.3." in name for name in stages.groups(net, 4, "all")[0])
    assert stages.head(net) == ("classifier.1.weight", "classifier.1.bias")
    for layout in ("llama", "gpt2"):
        subject = tiny.tiny_lm(layout=layout)
        found = stages.groups(subject, 2, "query-value")
        assert stages.head(subject) == () and len(found[0]) == (2 if layout == "llama" else 1)
        assert stages.carriers(stages.attach(subject, found[0], SHAPE, 0)) == set(found[0])


def test_names_are_matched_whole():
    """layer.1 is neither layer.10 nor layer.11, and a name is no pattern."""
    subject = roberta()
    name = "roberta.encoder.layer.1.attention.self.query"
    after = stages.attach(subject, [name], SHAPE, 0)
    assert stages.carriers(after) == {name} and not stages.carriers(subject)
    with pytest.raises(EffaceError, match="the adapter does not go onto RobertaForSequenceClassification"):
        stages.attach(subject, ["layer.1.attention.self.query"], SHAPE, 0)


def test_the_base_is_shared_and_left_alone():
    """Its memory is the adapted model's memory, but neither its weights nor its readiness to train change."""
    subject = Classifier(MLP(inputs=64, hidden=[8, 8], outputs=10))  # every parameter wants a gradient
    before, state = subject.digest, torch.get_rng_state()
    after = stages.attach(subject, ["stack.2"], SHAPE, 5)
    assert torch.equal(state, torch.get_rng_state()) and all(p.requires_grad for p in subject.model.parameters())
    assert after.model.get_parameter("base_model.model.stack.0.weight").data_ptr() == subject.model.stack[0].weight.data_ptr()
    head = stages.head_of(after, stages.head(subject))
    stages.put(after, {}, {name: tensor + 1 for name, tensor in head.items()})
    assert subject.digest == before
    same, other = (stages.adapter_of(stages.attach(subject, ["stack.2"], SHAPE, seed), ["stack.2"]) for seed in (5, 6))
    mine = stages.adapter_of(after, ["stack.2"])
    assert all(torch.equal(mine[name], same[name]) for name in mine) and not torch.equal(mine["base_model.model.stack.2.lora_A.weight"], other["base_model.model.stack.2.lora_A.weight"])


def test_to_files_and_back(tmp_path):
    """One folder a stage; joined, they are the adapter that all stages together make, with the last head."""
    subject, modules = mlp(3), ["stack.4", "stack.2"]
    whole = stages.attach(subject, modules, SHAPE, 1)
    for at, name in enumerate(modules):
        (tmp_path / str(at)).mkdir()
        top = {key: tensor + at for key, tensor in stages.head_of(whole, stages.head(subject)).items()}
        stages.write(tmp_path / str(at), stages.adapter_of(whole, [name]), top, SHAPE)
    (tmp_path / "both").mkdir()
    stages.join(tmp_path / "both", [tmp_path / "0", tmp_path / "1"])
    found = stages.restore(subject, tmp_path / "both")
    expected = stages.put(whole, {}, top)
    assert found.digest == expected.digest
    (tmp_path / "written").mkdir()
    stages.write(tmp_path / "written", stages.adapter_of(whole, modules), top, SHAPE)
    for name in (stages.ADAPTER, stages.HEAD, stages.CONFIG):
        assert (tmp_path / "both" / name).read_bytes() == (tmp_path / "written" / name).read_bytes()
    wider = Classifier(MLP(inputs=64, hidden=[9, 9, 9], outputs=10))
    with pytest.raises(EffaceError, match="a piece does not fit the model"):
        stages.restore(wider, tmp_path / "both")
    with pytest.raises(EffaceError, match="does not go onto Sequential"):
        stages.restore(Classifier(nn.Sequential(nn.Linear(64, 8), nn.Linear(8, 10))), tmp_path / "both")


def test_no_layers():
    with pytest.raises(Unfit, match="1 slices need as many layers, and Linear has 0"):
        stages.groups(Classifier(nn.Linear(2, 2)), 1, "all")
