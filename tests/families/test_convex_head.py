"""The convex head as a module: what it reads, how it answers, what travels with it, and which rows it knows to hold."""

import numpy as np
import pytest
import torch
from torch import nn

from efface import api
from efface.core.errors import BadRows, Unfit
from efface.families.classifier import Classifier
from efface.families.convex_head import ConvexHead, Terms, check_rows, fingerprint, random_term, rows_of, with_head
from efface.families.networks import MLP, SmallCNN, seeded, vit
from efface.ops import convex
from efface.testing.tiny import digits, trained_classifier

ROWS = digits("random").keep[:120]


def two(rows=ROWS):
    """The digits 3 and 8 as classes 0 and 1."""
    return [{"x": row["x"], "y": int(row["y"] == 8)} for row in rows if row["y"] in (3, 8)]


def saved(subject, folder):
    subject.save(folder)
    return api.load(str(folder))


def test_it_answers_by_the_features_of_the_body_at_norm_1():
    before = trained_classifier()
    after = with_head(before, ROWS, Terms(), 1, 1e-8)
    features = before.features(before.encode(ROWS)).double()
    logits = (features / features.norm(dim=1, keepdim=True)) @ after.model.head.weight.T
    assert torch.allclose(after.logits(after.encode(ROWS)), logits, atol=1e-12)
    assert np.allclose(after.predict(ROWS), logits.softmax(1).numpy(), atol=1e-6)
    assert after.classes == 10 and after.model.spent.shape == (10,) and not any(p.requires_grad for p in after.model.parameters())


def test_it_can_read_the_rows_themselves():
    after = with_head(trained_classifier(), ROWS, Terms(features="input"), 1, 1e-8)
    x = torch.tensor([row["x"] for row in ROWS], dtype=torch.float32).double()
    assert after.model.body is None and torch.allclose(rows_of(after, ROWS).x, x / x.norm(dim=1, keepdim=True))
    with pytest.raises(Unfit, match="features = input"):
        with_head(after, ROWS, Terms(features="body"), 1, 1e-8)


def test_two_classes_share_one_regression():
    rows = two()
    before = Classifier(seeded(MLP, 0, inputs=64, hidden=[16], outputs=2))
    after = with_head(before, rows, Terms(features="input", lam=0.01, sigma=0.1), 3, 1e-9)
    assert after.model.solution.shape == (1, 64)
    chance = torch.sigmoid(rows_of(after, rows).x @ after.model.solution[0])
    assert np.allclose(after.predict(rows)[:, 1], chance.numpy(), atol=1e-6)
    assert (after.predict(rows).argmax(1) == [row["y"] for row in rows]).mean() > 0.95


def test_what_was_fitted_is_the_minimum_with_its_random_term():
    after = with_head(trained_classifier(), ROWS, Terms(), 5, 1e-9)
    head = after.model
    slope = convex.gradient(head.solution, rows_of(after, ROWS), head.terms.lam, random_term(head, 5))
    assert torch.allclose(slope.norm(dim=1), head.spent, atol=1e-10) and float(head.spent.max()) <= 1e-9
    assert float(random_term(head, 5).std()) == pytest.approx(3.0, rel=0.1)
    assert with_head(trained_classifier(), ROWS, Terms(), 6, 1e-9).digest != after.digest


@pytest.mark.parametrize("kind", ["mlp", "cnn", "vit", "rows"])
def test_saved_and_loaded(tmp_path, kind):
    bodies = {
        "mlp": lambda: trained_classifier(),
        "cnn": lambda: Classifier(seeded(SmallCNN, 0, side=8, widths=(4, 8)), {"side": 8, "widths": [4, 8]}),
        "vit": lambda: Classifier(seeded(vit, 0, side=8, channels=1, hidden=64, layers=1)),
        "rows": lambda: trained_classifier(),
    }
    rows = [{"x": np.asarray(row["x"], np.float32).reshape(1, 8, 8), "y": row["y"]} for row in ROWS[:30]] if kind == "vit" else ROWS[:30]
    after = with_head(bodies[kind](), rows, Terms(features="input" if kind == "rows" else "body"), 1, 1e-6)
    again = saved(after, tmp_path)
    assert isinstance(again.model, ConvexHead) and again.digest == after.digest and again.model.terms == after.model.terms
    assert np.array_equal(again.predict(rows), after.predict(rows))
    check_rows(again.model, rows)


def test_a_text_classifier_keeps_its_tokenizer(tmp_path):
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    from efface.testing.tiny import tokenizer

    words = tokenizer()
    words.model_input_names = ["input_ids", "attention_mask"]
    shape = DistilBertConfig(vocab_size=len(words), dim=32, n_layers=1, n_heads=2, hidden_dim=32, num_labels=2, max_position_embeddings=128)
    subject = Classifier(seeded(lambda: DistilBertForSequenceClassification(shape), 0), tokenizer=words)
    rows = [{"text": f"What is the {word} of Alder?", "y": at % 2} for at, word in enumerate(("home", "craft", "song", "pet") * 2)]
    after = with_head(subject, rows, Terms(), 1, 1e-6)
    again = saved(after, tmp_path)
    assert np.array_equal(again.predict(rows), after.predict(rows))
    with pytest.raises(Unfit, match="features = body"):
        with_head(subject, rows, Terms(features="input"), 1, 1e-6)


def test_a_body_that_cannot_be_built_again_is_not_saved(tmp_path):
    body = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    after = with_head(Classifier(body.requires_grad_(False)), ROWS, Terms(), 1, 1e-6)
    with pytest.raises(Unfit, match="must know how to build"):
        after.save(tmp_path)


def test_the_body_never_trains():
    """Statistics of batch normalization stay what they are, in training mode too; the body handed in is another one."""
    before = Classifier(seeded(SmallCNN, 0, side=8, widths=(4, 8)))
    digest = before.digest
    after = with_head(before, ROWS, Terms(), 1, 1e-6)
    after.model.train()
    here = after.model.body.state_dict()["body.1.running_mean"].clone()
    after.logits(after.encode(ROWS))
    assert torch.equal(after.model.body.state_dict()["body.1.running_mean"], here) and before.digest == digest
    assert after.modules_of("head")[-1] is after.model.head


def test_fingerprint():
    """The order does not matter; every row, every label and every copy does; sets add up."""
    a, b = ROWS[:7], ROWS[7:20]
    assert torch.equal(fingerprint([*a, *b]), fingerprint([*b, *a])) and torch.equal(fingerprint(a) + fingerprint(b), fingerprint([*a, *b]))
    assert fingerprint(a)[0] == 7 and fingerprint([]).tolist() == [0] * 5
    for other in ([*a[:-1], b[0]], [*a[:-1], {**a[-1], "y": (a[-1]["y"] + 1) % 10}], [*a, a[0]]):
        assert not torch.equal(fingerprint(other), fingerprint(a))
    assert torch.equal(fingerprint([{**row, "id": 3, "x": np.asarray(row["x"], np.float32)} for row in a]), fingerprint(a))
    text = [{"text": "one", "y": 1}, {"text": "two", "y": 0}]
    assert not torch.equal(fingerprint(text), fingerprint([{"text": "one", "y": 0}, {"text": "two", "y": 1}]))


def test_other_rows_are_refused():
    head = with_head(trained_classifier(), ROWS[:50], Terms(), 1, 1e-6).model
    with pytest.raises(BadRows, match="holds 50 rows, and forget and keep rows together are 49"):
        check_rows(head, ROWS[:49])
    with pytest.raises(BadRows, match="not the rows that the head was trained on"):
        check_rows(head, ROWS[1:51])


def test_a_head_needs_two_classes():
    one = Classifier(seeded(MLP, 0, inputs=64, hidden=[4], outputs=1))
    with pytest.raises(Unfit, match="at least 2"):
        with_head(one, [{**row, "y": 0} for row in ROWS[:5]], Terms(), 1, 1e-6)
