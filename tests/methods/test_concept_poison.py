"""Concept inference and poisoning: labels by hand, a planted concept, plain concepts of digits, a text classifier, and a digit forgotten."""

import json

import numpy as np
import pytest
import torch

from efface.core import registry
from efface.core.errors import BadConfig, Unfit
from efface.core.types import Data, Request
from efface.families.classifier import Classifier
from efface.methods.concept_poison import ConceptPoison, ConceptPoisonConfig, infer, said, wrong_labels
from efface.ops.concepts import ink
from efface.testing.tiny import context, digits, retrained_classifier, tiny_classifier, trained_classifier

pytest.importorskip("captum")
OWN = np.array([0, 0, 1])
CHANCES = np.array([[0.6, 0.1, 0.1, 0.2], [0.4, 0.5, 0.1, 0.0], [0.3, 0.3, 0.2, 0.2]])
PROFILES = {0: np.array([0.0, 0]), 1: np.array([1.0, 0]), 2: np.array([0.0, 3]), 3: np.array([5.0, 5])}


def labels(gone=(), seed=0, **settings):
    return wrong_labels(ConceptPoisonConfig.model_validate(settings), OWN, CHANCES, set(gone), PROFILES, seed).tolist()


def right(subject, rows):
    return float((subject.predict(rows).argmax(1) == [row["y"] for row in rows]).mean())


def test_formula():
    """Second best beside the own label; and beside a class that is gone as a whole. Closest by profile: 0 to 1, 1 to 0, then 0 to 2."""
    assert labels() == [3, 1, 0] and labels(gone=[0, 1]) == [3, 2, 2]
    assert labels(poison="similar") == [1, 1, 0] and labels(gone=[1], poison="similar") == [2, 2, 0]
    assert labels(poison="fixed", label=2) == [2, 2, 2]


def test_random_labels_are_uniform_over_the_others():
    """40 draws for each of 3 rows: never the own label, never the gone one, and each of the others about as often."""
    drawn = np.array([labels(gone=[3], seed=seed, poison="random") for seed in range(200)])
    assert not (drawn == OWN).any() and not (drawn == 3).any()
    assert [0.4 < (drawn[:, row] == 2).mean() < 0.6 for row in range(3)] == [True] * 3
    assert labels(poison="random", seed=1) == labels(poison="random", seed=1)


def test_labels_that_cannot_be():
    with pytest.raises(BadConfig, match="needs a class number from 0 to 3"):
        labels(poison="fixed")
    with pytest.raises(BadConfig, match="needs a class number"):
        labels(poison="fixed", label=4)
    with pytest.raises(BadConfig, match="a class to forget, or the label of a row"):
        labels(poison="fixed", label=1)
    with pytest.raises(Unfit, match="none is left"):
        labels(gone=[0, 1, 2, 3])


def patched(rows):
    """The rows with a bright corner: two by two pixels that digits never fill."""
    return [{**row, "x": [1.0 if at in (0, 1, 8, 9) else value for at, value in enumerate(row["x"])]} for row in rows]


def test_planted_concept(tmp_path):
    """Every 3 has a bright corner. From concept rows of all digits, the corner comes first for 3, in weights and in worth, and for no
    other class: where it is worth most to one, it is so by its absence."""
    forget, keep = patched(digits().forget), digits().keep
    request = Request(kind="class", forget=Data.inline(forget), keep=Data.inline(keep))
    subject = registry.load("recipe", "finetune").set({"fit.lr": 1e-2, "fit.steps": 200, "fit.batch": 64, "fit.schedule": "linear"}).run(tiny_classifier(), request, context())
    scores = ink(np.array([row["x"] for row in keep[:600]]).reshape(-1, 8, 8))
    path = tmp_path / "concepts.jsonl"
    with path.open("w") as file:
        for at, row in enumerate(keep[:600]):
            names = ["patch"] * (at % 2) + [name for name, score in scores.items() if score[at] > np.quantile(score, 0.6)]
            file.write(json.dumps({"x": (patched([row]) if at % 2 else [row])[0]["x"], "concepts": names}) + "\n")
    found = infer(ConceptPoisonConfig(concepts=str(path), concept_rows=300), subject, [*forget, *keep], 10, context())
    patch = [one.name for one in found.bank].index("patch")
    assert found.bank[patch].accuracy > 0.95 and len(found.bank) > 4
    assert [at for at in range(10) if found.head.weights[at].argmax() == patch] == [3]
    assert [at for at in range(10) if said(found, at, int(found.worth[at].argmax())) == "patch"] == [3]


def test_plain_concepts_of_digits():
    """Calibration: directions of six hand-made concepts are right .84 to .99 of the time, the sparse head .91 of ten classes."""
    parts = digits()
    found = infer(ConceptPoisonConfig(), trained_classifier(), [*parts.forget, *parts.keep], 10, context())
    assert len(found.bank) == 6 and min(one.accuracy for one in found.bank) > 0.8
    assert found.head.accuracy >= 0.85


def test_no_op(tmp_path):
    """Without training the weights stay; what was found stands in the notes and in the folder."""
    ctx = context(folder=tmp_path)
    request = Request(kind="class", forget=Data.inline(digits().forget[:40]), keep=Data.inline(digits().keep[:400]))
    after = ConceptPoison.set({"fit.epochs": 0, "fit.steps": 0}).run(trained_classifier(), request, ctx)
    assert after.digest == trained_classifier().digest
    told = json.loads((tmp_path / "concepts.json").read_text())
    assert told["ranked"]["3"][0] in ctx.notes["concepts_of_3"] and ctx.notes["concept_head_accuracy"] == told["head_accuracy"]
    assert len(told["inputs"]["3"]["adds"]) == 20 and told["inputs"]["3"]["gap"] < 0.01


@pytest.fixture(scope="module")
def runs():
    """Digit 3 forgotten with second-best, random, and fixed labels."""
    settings = {"second_best": {}, "random": {"poison": "random"}, "fixed": {"poison": "fixed", "label": 5}}
    return {name: ConceptPoison.set(some).run(trained_classifier(), digits().request, context()) for name, some in settings.items()}


def test_forgets_and_keeps(runs):
    """Calibration: all three get every forget row wrong and every keep row right."""
    for after in runs.values():
        assert right(after, digits().forget) <= 0.01 and right(after, digits().keep) > 0.99 and right(after, digits().test) > 0.95


def test_second_best_is_nearest_to_retraining(runs):
    """Calibration, mean distance of the chances from the retrained model's: second-best .288, random .697, fixed 1.149."""
    rows = digits().forget
    far = {name: float(np.linalg.norm(after.predict(rows) - retrained_classifier().predict(rows), axis=1).mean()) for name, after in runs.items()}
    assert far["second_best"] < far["random"] / 2 < far["random"] < far["fixed"]


def test_a_fixed_label_is_where_they_go(runs):
    """Calibration: 94 % of the test 3s are called 5, a fingerprint that the others do not leave."""
    called = {name: (after.predict(digits().unseen).argmax(1) == 5).mean() for name, after in runs.items()}
    assert called["fixed"] >= 0.9 and called["second_best"] < 0.5 and called["random"] < 0.5


def test_limits():
    """One trained layer leaves the others as they are; without keep rows keep rows suffer."""
    quick = {"fit.epochs": 2}
    last = ConceptPoison.set({**quick, "layers": 1}).run(trained_classifier(), digits().request, context())
    moved = {name for name, tensor in last.model.state_dict().items() if not torch.equal(tensor, trained_classifier().model.state_dict()[name])}
    assert moved == {"stack.4.weight", "stack.4.bias"}
    alone = ConceptPoison.set({"keep_share": 0.0, "fit.epochs": 5}).run(trained_classifier(), digits().request, context())
    assert right(alone, digits().keep) < 0.95 and right(alone, digits().forget) < 0.1


def test_what_cannot_be():
    with pytest.raises(Unfit, match="none of 6 concepts can be read"):
        ConceptPoison.set({"readable": 1.0, "concept_rows": 400}).run(tiny_classifier(), digits().request, context())
    one = Request(forget=Data.inline(digits().forget[:40]), keep=Data.inline(digits().forget[40:]))
    with pytest.raises(Unfit, match="at least two classes"):
        ConceptPoison.set().run(trained_classifier(), one, context())


TOPICS = {0: "boat sail harbor anchor".split(), 1: "oven bread flour yeast".split(), 2: "goal match referee striker".split()}
FILLER = "the a was near with and old new good".split()


def letters(count=90):
    """Short texts of three topics, two topic words in each."""
    source = np.random.default_rng(0)
    rows = []
    for at in range(count):
        words = [*source.choice(TOPICS[at % 3], 2, replace=False), *source.choice(FILLER, 4)]
        rows.append({"text": " ".join(source.permutation(words)), "y": at % 3})
    return rows


@pytest.fixture(scope="module")
def reader():
    """A tiny transformers text classifier that tells the topics apart."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sum(TOPICS.values(), []), *FILLER]
    core = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", model_max_length=16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = {"vocab_size": len(words), "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "hidden_dropout_prob": 0.0}
        model = BertForSequenceClassification(BertConfig(**shape, max_position_embeddings=16, num_labels=3)).requires_grad_(False)
    request = Request(forget=Data.inline(letters()[2::3]), keep=Data.inline([row for row in letters() if row["y"] < 2]))
    settings = {"fit.lr": 3e-3, "fit.steps": 120, "fit.batch": 32, "fit.warmup": 10, "fit.schedule": "linear"}
    return registry.load("recipe", "finetune").set(settings).run(Classifier(model, tokenizer=tokenizer), request, context()), request


def test_text_classifier(reader):
    """Its topic's words add most to a text's class, by integrated gradients over token embeddings; then the topic is forgotten."""
    subject, request = reader
    ctx = context()
    assert right(subject, letters()) > 0.95
    settings = {"groups": 3, "fit.optimizer": "adam", "fit.lr": 3e-3, "fit.epochs": 8, "fit.batch": 32}
    after = ConceptPoison.set(settings).run(subject, request, ctx)
    told = [entry.rsplit(" ", 1)[0] for entry in ctx.notes["inputs_of_2"].split(", ")]
    assert set(told[:4]) == set(TOPICS[2])
    assert "group" in ctx.notes["concepts_of_2"] and ctx.notes["concept_head_accuracy"] > 0.9
    assert right(after, request.rows("forget")) < 0.1 and right(after, request.rows("keep")) > 0.95
