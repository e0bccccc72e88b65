"""SSD: the closed form, the bound on the ratio of importances, that labels are not read by the loss-free form, and digits."""

import math
import time

import numpy as np
import pytest
import torch
from torch import nn

from efface.core.errors import Unfit
from efface.core.types import Data, Request
from efface.families.classifier import Classifier
from efface.families.networks import MLP, SmallCNN, seeded
from efface.methods.ssd import SSD, adaptive_alpha, damp
from efface.ops.importance import batch_squares, per_sample_squares
from efface.testing.tiny import (
    FIT_DIGITS,
    context,
    diabetes,
    digits,
    retrained_classifier,
    tiny_classifier,
    tokenizer,
    trained_classifier,
    trained_regressor,
)


def ask(forget, keep):
    return Request(forget=Data.inline(forget), keep=Data.inline(keep))


def right(subject, rows):
    return 100 * float(np.mean(subject.predict(rows).argmax(1) == np.array([row["y"] for row in rows])))


def weights(subject):
    return {name: p.detach().clone() for name, p in subject.model.named_parameters()}


def shuffled(rows):
    return [{**row, "y": (row["y"] + 1 + at % 9) % 10} for at, row in enumerate(rows)]


def test_formula():
    """Logits (w_1 x, w_2 x) with w = (1, -1); x = 1 with label 1 to forget, x = 1/2 with label 0 to keep.

    d loss / d w_c = (p_c - [c = y]) x. Forget: p_0 = 1 / (1 + e^-2) = .880797 and the gradient is +-.880797, squared s = .775803 for both.
    Keep: p_0 = 1 / (1 + e^-1) = .731059, the gradient -+.134471, squared k = .018082. I_forget = s, I_all = (s + k) / 2 = .396943.
    The ratio is 1.954446: at alpha 1 both are selected and multiplied by lam .511654, at alpha 1.96 none is.
    """
    model = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    subject, request = Classifier(model.requires_grad_(False), {}), ask([{"x": [1.0], "y": 1}], [{"x": [0.5], "y": 0}])
    s, k = 1 / (1 + math.exp(-2)) ** 2, ((1 - 1 / (1 + math.exp(-1))) / 2) ** 2
    beta = (s + k) / 2 / s
    assert beta == pytest.approx(0.511654, abs=1e-6)
    for lam, expected in ((1.0, beta), (0.25, beta / 4), (3.0, 1.0)):
        ctx = context()
        after = SSD.set({"alpha": 1.0, "lam": lam}).run(subject, request, ctx)
        assert after.model.weight.flatten().tolist() == pytest.approx([expected, -expected], abs=1e-7)
        assert ctx.notes["selected"] == 1 and ctx.notes["largest_ratio"] == pytest.approx(1 / beta, rel=1e-6) and ctx.notes["bound"] == 2
    with pytest.raises(Unfit, match="selects none"):
        SSD.set({"alpha": 1.96}).run(subject, request, context())
    assert subject.model.weight.flatten().tolist() == [1, -1]


def test_selected_entries_alone():
    """Ratios .5, 2, 4 and 0/0 at alpha 1 and lam 1: the second is halved, the third quartered; the others keep every bit."""
    weight = torch.tensor([0.3, -0.7, 1.1, -0.0])
    before = weight.clone()
    assert damp(weight, torch.tensor([1.0, 2.0, 4.0, 0.0]), torch.tensor([2.0, 1.0, 1.0, 0.0]), 1.0, 1.0) == 2
    assert weight.tolist() == pytest.approx([0.3, -0.35, 0.275, 0.0], abs=1e-7)
    same = torch.tensor([True, False, False, True])
    assert weight[same].view(torch.int32).tolist() == before[same].view(torch.int32).tolist()
    assert damp(before, torch.ones(4), torch.zeros(4), 1.0, 1.0) == 4 and before.abs().max() == 0


def test_closed_form_of_a_network():
    """Whatever is selected equals min(lam I_all / I_forget, 1) theta, recomputed from the sums; with lam = alpha = 1 nothing grows."""
    parts, before = digits(), trained_classifier()
    rows = {"forget": parts.forget[:20], "all": [*parts.forget[:20], *parts.keep[:100]]}
    found = {name: per_sample_squares(before.model, [before.encode(given)], before.losses).mean() for name, given in rows.items()}
    request = ask(rows["forget"], parts.keep[:100])
    for settings in ({"alpha": 2.0, "lam": 0.5}, {"alpha": 1.0, "lam": 1.0}):
        after = weights(SSD.set(settings).run(before, request, context()))
        for name, theta in weights(before).items():
            ratio = found["forget"][name] / found["all"][name]
            chosen = ratio > settings["alpha"]
            clear = (ratio - settings["alpha"]).abs() > 1e-4 * settings["alpha"]
            expected = torch.where(chosen, theta * (settings["lam"] / ratio).clamp(max=1), theta)
            assert torch.allclose(after[name][clear], expected[clear], rtol=1e-4, atol=1e-7)
            assert bool((after[name][~chosen & clear] == theta[~chosen & clear]).all())
            assert bool((after[name].abs() <= theta.abs()).all())


@pytest.mark.parametrize("signal", ["loss", "outputs"])
@pytest.mark.parametrize("build", [lambda: MLP(64, (16,), 10), lambda: SmallCNN(1, 8, 10, (4, 8), 16)])
def test_no_op(build, signal):
    """I_forget / I_all never exceeds n / n_forget on rows of any labels, so that alpha there selects nothing, and that is said aloud."""
    parts = digits()
    forget, keep = shuffled(parts.forget[:13]), parts.keep[:100]
    subject = Classifier(seeded(build, 0), {})
    ctx = context()
    bound = 113 / 13
    with pytest.raises(Unfit, match=r"selects none of the .* lower alpha"):
        SSD.set({"alpha": bound + 1e-3, "signal": signal}).run(subject, ask(forget, keep), ctx)
    assert 1 < ctx.notes["largest_ratio"] <= bound * (1 + 1e-4) and ctx.notes["selected"] == 0
    before = subject.digest
    assert SSD.set({"share": 0.3, "signal": signal}).run(subject, ask(forget, keep), ctx).digest != before
    assert ctx.notes["alpha"] == pytest.approx(0.3 * bound) and subject.digest == before


def test_forgets():
    """Alpha 3 (a share of .31) on a whole digit: all of it gone, the rest stays, in less time than training anew."""
    parts, ctx = digits("class"), context()
    subject, reference = trained_classifier(), retrained_classifier()
    began = time.process_time()
    after = SSD.set({"alpha": 3.0}).run(subject, parts.request, ctx)
    seconds = time.process_time() - began
    assert 100 - right(after, parts.forget) >= 99
    assert right(after, parts.keep) >= 99
    assert abs(right(after, parts.test) - right(reference, parts.test)) <= 1.5
    assert 0.01 <= ctx.notes["selected"] <= 0.1
    began = time.process_time()
    from efface.recipes.retrain import Retrain

    Retrain.set(FIT_DIGITS).run(tiny_classifier(), parts.request, context())
    assert seconds < time.process_time() - began


def test_keeps():
    """The default holds the rest, and the notes say what was lost of it."""
    parts, ctx = digits("class"), context()
    after = SSD().run(trained_classifier(), parts.request, ctx)
    assert right(after, parts.forget) <= 1 and right(after, parts.keep) >= 99
    assert 0 <= ctx.notes["keep_accuracy_before"] - ctx.notes["keep_accuracy_after"] < 0.05
    assert ctx.notes["keep_loss_after"] > ctx.notes["keep_loss_before"] and ctx.notes["importance"] == "layers"


def test_labels():
    """Shuffled labels change nothing for the loss-free form, and much for the other."""
    parts = digits()
    plain, mixed = (ask(change(parts.forget[:30]), change(parts.keep[:200])) for change in (list, shuffled))
    free, bound = ([SSD.set({"signal": signal}).run(trained_classifier(), request, context()).digest for request in (plain, mixed)] for signal in ("outputs", "loss"))
    assert free[0] == free[1] and bound[0] != bound[1] and free[0] != bound[0]


def test_adaptive():
    """100 equal steps of ratio 0.01 .. 1 at a fifth to forget: percentile 100 - ln(21) = 96.955, so alpha = .01 + .99 * .96955 = .96986; 0/0 and
    1/0 have no part. On digits it finds an alpha of its own and forgets."""
    ratios = torch.linspace(0.01, 1, 100)
    found = adaptive_alpha({"a": torch.cat([ratios, torch.tensor([0.0, 1.0])])}, {"a": torch.cat([torch.ones(100), torch.zeros(2)])}, 0.2)
    assert found == pytest.approx(0.01 + 0.99 * (1 - math.log(21) / 100), rel=1e-6)
    with pytest.raises(Unfit, match="no weight that matters to keep rows"):
        adaptive_alpha({"a": torch.ones(3)}, {"a": torch.zeros(3)}, 0.2)
    parts, ctx = digits("class"), context()
    after = SSD.set({"adaptive": True, "alpha": 1e9}).run(trained_classifier(), parts.request, ctx)
    assert 0.01 < ctx.notes["selected"] < 0.04 and 1 < ctx.notes["alpha"] < 1e3 and ctx.notes["bound"] < ctx.notes["largest_ratio"]
    assert 100 - right(after, parts.forget) >= 99 and right(after, parts.keep) >= 99


def test_limits():
    """The batch form at batches of one row is the per-row form; at larger ones it goes beyond the bound, and alpha = 10 with it."""
    parts, subject = digits(), trained_classifier()
    request = ask(parts.forget[:12], parts.keep[:60])
    alone, rows = (weights(SSD.set({"alpha": 2.0, **more}).run(subject, request, context())) for more in ({"fisher": "batch", "batch": 1}, {}))
    assert all(torch.allclose(alone[name], rows[name], rtol=1e-4, atol=1e-6) for name in rows)
    ctx = context()
    SSD.set({"fisher": "batch", "batch": 128}).run(subject, parts.request, ctx)
    assert ctx.notes["alpha"] == 10 and ctx.notes["largest_ratio"] > ctx.notes["bound"] and ctx.notes["importance"] == "batch"
    first = batch_squares(subject.model, [subject.encode(parts.forget[:128]), subject.encode(parts.forget[128:])], subject.losses)
    assert first.rows == len(parts.forget)
    one, other = (SSD.set({"batch": size}).run(subject, request, context()) for size in (7, 64))
    assert all(torch.allclose(weights(one)[name], weights(other)[name], rtol=1e-3, atol=1e-5) for name in rows)


def test_measured_once_a_context(monkeypatch):
    """A search over alpha in one context reads the rows once."""
    subject, parts, ctx = trained_classifier(), digits(), context()
    request, seen = ask(parts.forget[:12], parts.keep[:60]), []
    monkeypatch.setattr("efface.methods.ssd.per_sample_squares", lambda *given: seen.append(1) or per_sample_squares(*given))
    found = {SSD.set({"alpha": alpha}).run(subject, request, ctx).digest for alpha in (2.0, 3.0, 4.0)}
    assert len(found) == 3 and len(seen) == 2
    assert SSD.set({"alpha": 2.0}).run(subject, request, context()).digest in found


def test_regressor_and_text():
    """A regressor's squared error, and a transformers text classifier whose batches are arguments by name."""
    ctx, request = context(), diabetes()
    SSD().run(trained_regressor(), request, ctx)
    assert 0 < ctx.notes["selected"] < 1 and "keep_accuracy_after" not in ctx.notes
    from transformers import BertConfig, BertForSequenceClassification

    words = tokenizer()
    shape = {"vocab_size": len(words), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "num_labels": 3}
    model = seeded(lambda: BertForSequenceClassification(BertConfig(pad_token_id=words.pad_token_id, **shape)), 0)
    subject = Classifier(model, tokenizer=words)
    texts = ["What is the home of Alder?", "amber bay", "The pet of Gorm is", "I do not know", "Tell me the craft of Orsa", "dusty fen golden heath"]
    rows = [{"text": text, "y": at % 3} for at, text in enumerate(texts)]
    ctx = context()
    after = SSD.set({"share": 0.6, "batch": 3}).run(subject, ask(rows[:1], rows[1:]), ctx)
    assert ctx.notes["selected"] > 0 and ctx.notes["importance"] == "layers" and ctx.notes["largest_ratio"] <= 6 * (1 + 1e-4)
    assert after.digest != subject.digest
