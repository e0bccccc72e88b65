"""What classifiers and regressors share: features, fresh weights, all taps at once, bare weights with their class, pickles refused."""

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from efface.core.errors import EffaceError, Missing, Unfit
from efface.families import module_files
from efface.families.classifier import Classifier
from efface.families.networks import MLP, SmallCNN, resnet18, seeded, vit
from efface.testing import tiny


def test_features_are_what_the_head_reads():
    subject = tiny.trained_classifier()
    batch = subject.encode(tiny.digits().forget[:5])
    features, logits = subject.features_and_raw(batch)
    head = subject.modules_of("head")[-1]
    assert torch.allclose(head(features), logits) and torch.equal(subject.features(batch), features)
    with subject.taps("layer") as caught:
        subject.logits(batch)
    assert [part[0].shape[1] for part in caught] == [128, 64, 10] and torch.equal(caught[-1][0], logits)


@pytest.mark.parametrize("build", [lambda: tiny.tiny_classifier(), lambda: Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 10))), lambda: Classifier(seeded(vit, 0, side=8, channels=1, hidden=64, layers=1))])
def test_fresh_weights_depend_on_the_seed_alone(build):
    subject = build()
    one, same, other = subject.fresh(1), build().fresh(1), subject.fresh(2)
    assert one.digest == same.digest != other.digest != subject.digest
    assert all(p.requires_grad for p in one.model.parameters()) and one.lineage == ()


def test_a_module_that_cannot_be_drawn_anew_says_so():
    class Odd(nn.Module):
        def __init__(self, size):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(size))

        def forward(self, x):
            return x * self.scale

    with pytest.raises(Unfit, match="Odd cannot draw its weights anew; give Classifier"):
        Classifier(Odd(3)).fresh(0)


@pytest.mark.parametrize("build", [lambda: seeded(SmallCNN, 0, channels=1, side=8, widths=(4, 8), embedding=16), lambda: seeded(resnet18, 0, channels=1)])
def test_networks_give_logits_for_pictures(build, tmp_path):
    x = torch.rand(2, 1, 32, 32) if "ResNet" in type(build()).__name__ else torch.rand(2, 1, 8, 8)
    subject = Classifier(build(), {"channels": 1, "side": 8, "widths": [4, 8], "embedding": 16})
    rows = [{"x": one.numpy(), "y": 0} for one in x]
    assert subject.predict(rows).shape == (2, 10)
    subject.save(tmp_path)
    again = module_files.load(tmp_path)
    assert again.predict(rows) == pytest.approx(subject.predict(rows), abs=1e-6)


def test_bare_weights_with_their_class(tmp_path):
    model = seeded(MLP, 0, inputs=4, hidden=[3], outputs=2)
    place = tmp_path / "net.safetensors"
    save_model(model, str(place))
    arch, arguments = "efface.families.networks:MLP", {"inputs": 4, "hidden": [3], "outputs": 2}
    found = module_files.load_arch(place, arch, arguments)
    assert found.family == "classifier" and found.digest == Classifier(model).digest
    assert module_files.load_arch(place, arch, {**arguments}, "regressor").family == "regressor"
    with pytest.raises(EffaceError, match="net.safetensors does not load into MLP: .*size mismatch"):
        module_files.load_arch(place, arch, {**arguments, "outputs": 5})
    with pytest.raises(Missing, match="no such torch module"):
        module_files.load_arch(place, "os:system", {})
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(EffaceError, match="does not load into MLP"):
        module_files.load_arch(tmp_path / "other.safetensors", arch, arguments)
    for name in ("net.pt", "net.pkl", "net.joblib"):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(EffaceError, match="is a pickle, which can run code when read; load it where you trust it"):
            module_files.load_arch(tmp_path / name, arch, arguments)


def test_a_text_classifier_reads_text_and_saves_its_tokenizer(tmp_path):
    import transformers

    words = tiny.tokenizer()
    shape = {"vocab_size": len(words), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "num_labels": 2, "pad_token_id": words.pad_token_id}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.BertForSequenceClassification(transformers.BertConfig(**shape))
    subject = Classifier(model, tokenizer=words)
    rows = [{"text": "What is the home of Alder ?", "y": 0}, {"text": "Tell me", "y": 1}]
    alone, together = subject.predict(rows[1:]), subject.predict(rows)
    assert together[1] == pytest.approx(alone[0], abs=1e-5), "padding changes nothing"
    subject.save(tmp_path)
    assert module_files.load(tmp_path).predict(rows) == pytest.approx(together, abs=1e-6)
    with pytest.raises(EffaceError, match="row 2: found columns x, y; a text classifier's row needs text and y"):
        subject.encode([rows[0], {"x": [1.0], "y": 0}])
