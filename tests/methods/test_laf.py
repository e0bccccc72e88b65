"""LAF: its terms by hand, that no label is read, what repair reads, and what it does to a digit and to blobs."""

import math

import pytest
import torch

from efface.core import registry
from efface.core.errors import BadRows, Diverged, Unfit
from efface.core.types import Data, Request
from efface.families.classifier import Classifier
from efface.families.networks import MLP, SmallCNN, seeded
from efface.methods.laf import LAF, Autoencoder, alignment, phi, turn, unlearning, vae_loss
from efface.testing.tiny import context, digits, trained_classifier

STRONG = {"unlearn_lr": 1e-3, "align_lr": 2e-3, "temperature": 5.0}
QUICK = {**STRONG, "vae_epochs": 1, "epochs": 3}


def right(subject, rows):
    return float((subject.predict(rows).argmax(1) == [row["y"] for row in rows]).mean())


def first(forget=40, keep=80, change=lambda row, at: row):
    """A request with the first rows of each set, changed."""
    return Request(**{
        name: Data.inline([change(row, at) for at, row in enumerate(getattr(digits(), name)[:count])]) for name, count in (("forget", forget), ("keep", keep))
    })


def parts_of(subject):
    """Weights of head and extractor, as bytes."""
    head = {f"stack.4.{name}" for name in ("weight", "bias")}
    held = {name: tensor.numpy().tobytes() for name, tensor in subject.model.state_dict().items()}
    return {name: held[name] for name in head}, {name: value for name, value in held.items() if name not in head}


def test_formula():
    """phi(0) = 1, phi(1) = e^.5, phi(3) = e^.75: keep rows (0, 1) and forget rows (1, 3) give 1 - e^.75 = -1.1170000."""
    assert phi(torch.tensor([0.0, 1.0, 3.0])).tolist() == pytest.approx([1, math.exp(0.5), math.exp(0.75)], rel=1e-6)
    assert float(unlearning(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 3.0]))) == pytest.approx(1 - math.exp(0.75), abs=1e-6)


@pytest.mark.parametrize("d", [0.0, 1e6])
def test_phi_is_bounded_and_has_a_finite_gradient(d):
    at = torch.tensor([d], requires_grad=True)
    value = phi(at)
    value.sum().backward()
    assert 1 <= float(value.detach()) < math.e and math.isfinite(float(at.grad))


def test_autoencoder_loss():
    """(1, 2) made (0, 0) is 5; mean 1 and variance 1 is a KL of .5; mean 0 and log-variance log 4 is .5 (4 - 1 - log 4) = .8068528."""
    x, made = torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2)
    assert float(vae_loss(x, made, torch.ones(1, 1), torch.zeros(1, 1), 0.025)) == pytest.approx(5 + 0.025 * 0.5, abs=1e-6)
    assert float(vae_loss(x, x, torch.zeros(1, 1), torch.full((1, 1), math.log(4)), 1.0)) == pytest.approx(0.8068528, abs=1e-6)


def test_alignment():
    """c_k = (.1, .2), c_f = (0, 1), T = 2: .3 - 2 log(1 + e^.5) = -1.6481540; where nothing has turned, -|keep| log |forget|."""
    assert float(alignment(torch.tensor([0.1, 0.2]), torch.tensor([0.0, 1.0]), 2.0)) == pytest.approx(-1.6481540, abs=1e-6)
    assert float(alignment(torch.zeros(3), torch.zeros(7), 5.0)) == pytest.approx(-3 * math.log(7), abs=1e-6)
    e = torch.randn(10, 16, generator=torch.Generator().manual_seed(0))
    assert float(alignment(turn(e[:3], e[:3]), turn(e[3:], e[3:]), 5.0)) == pytest.approx(-3 * math.log(7), abs=1e-5)


def test_alignment_does_not_feel_the_size_of_embeddings():
    source = torch.Generator().manual_seed(0)
    then = torch.randn(9, 16, generator=source)
    size = torch.ones(9, 1, requires_grad=True)
    for now in (then, torch.randn(9, 16, generator=source)):
        turned = turn(size * now, then)
        (slope,) = torch.autograd.grad(alignment(turned[:4], turned[4:], 5.0), size)
        assert slope.abs().max() < 1e-5


def test_decoders():
    """The sigmoid cannot leave 0..1, which the embeddings do, so its autoencoder fits them worse."""
    made = Autoencoder(4, 2, "sigmoid")(100 * torch.ones(1, 4), torch.zeros(1, 2))[0].detach()
    assert 0 <= float(made.min()) and float(made.max()) <= 1
    losses = {}
    for decoder in ("linear", "sigmoid"):
        ctx = context()
        LAF.set({"decoder": decoder, "epochs": 0}).run(trained_classifier(), first(), ctx)
        losses[decoder] = ctx.notes["autoencoder_loss_all_rows"]
    assert losses["linear"] < 0.8 * losses["sigmoid"]


def test_no_op():
    assert LAF.set({"epochs": 0, "vae_epochs": 1}).run(trained_classifier(), first(), context()).digest == trained_classifier().digest


def test_labels_are_not_read():
    """Other labels, and none at all, give the same weights; the head is the original's, bit for bit."""
    wrong = first(change=lambda row, at: {**row, "y": at % 10})
    none = first(change=lambda row, at: {name: value for name, value in row.items() if name != "y"})
    found = [LAF.set(QUICK).run(trained_classifier(), request, context()) for request in (first(), wrong, none)]
    assert len({after.digest for after in found}) == 1 and found[0].digest != trained_classifier().digest
    assert parts_of(found[0])[0] == parts_of(trained_classifier())[0]


def test_forgets_and_keeps():
    """Calibration: all forget rows wrong, 98.4 % of the keep rows right."""
    parts = digits()
    after = LAF.set(STRONG).run(trained_classifier(), parts.request, context())
    assert 1 - right(after, parts.forget) >= 0.95 and right(after, parts.keep) >= 0.95


def test_repair_changes_the_head_alone():
    runs = {repair: LAF.set({**QUICK, "repair": repair, "repair_rows": 20}).run(trained_classifier(), first(), context()) for repair in ("none", "supervised", "semi")}
    heads, bodies = zip(*(parts_of(after) for after in runs.values()), strict=True)
    assert bodies[0] == bodies[1] == bodies[2]
    assert heads[0] != heads[1] and heads[0] != heads[2] and heads[1] != heads[2]


def test_repair_mends_keep_rows_and_says_how_many_labels_it_read():
    harsh, ctx = {**STRONG, "unlearn_lr": 3e-3, "epochs": 6, "vae_epochs": 3}, context()
    bare = LAF.set(harsh).run(trained_classifier(), digits().request, context())
    mended = LAF.set({**harsh, "repair": "semi", "repair_rows": 300, "fit.epochs": 20}).run(trained_classifier(), digits().request, ctx)
    assert right(mended, digits().keep) > right(bare, digits().keep) and ctx.notes["repair_rows"] == 300


def test_semi_takes_the_labeled_rows_and_supervised_wants_all():
    few = first(change=lambda row, at: row if at < 7 else {name: value for name, value in row.items() if name != "y"})
    ctx = context()
    LAF.set({**QUICK, "repair": "semi"}).run(trained_classifier(), few, ctx)
    assert ctx.notes["repair_rows"] == 7
    with pytest.raises(BadRows, match="row 8"):
        LAF.set({**QUICK, "repair": "supervised"}).run(trained_classifier(), few, context())
    none = first(change=lambda row, at: {name: value for name, value in row.items() if name != "y"})
    with pytest.raises(BadRows, match="no keep row has a label"):
        LAF.set({**QUICK, "repair": "semi"}).run(trained_classifier(), none, context())


def test_statistics_of_batches_do_not_move():
    subject = Classifier(seeded(SmallCNN, 0, side=8, widths=(4, 8), embedding=16))
    after = LAF.set(QUICK).run(subject, first(), context())
    moved = {name for name, tensor in after.model.state_dict().items() if not torch.equal(tensor, subject.model.state_dict()[name])}
    assert moved and not any("running" in name or name.startswith("head") for name in moved)


def test_what_cannot_be():
    with pytest.raises(Unfit, match="a head alone"):
        LAF.set().run(Classifier(seeded(MLP, 0, inputs=64, hidden=())), first(), context())
    with pytest.raises(Diverged, match="step 0; lower"):
        LAF.set({**QUICK, "vae_lr": 1e30}).run(trained_classifier(), first(), context())
    with pytest.raises(BadRows, match="no forget rows"):
        LAF.set(QUICK).run(trained_classifier(), Request(forget=Data.inline([]), keep=first().keep), context())


def blobs():
    """Ten clouds in ten dimensions, 60 rows each; the fourth must go."""
    source = torch.Generator().manual_seed(0)
    centers = 4 * torch.randn(10, 10, generator=source)
    rows = [{"x": (centers[y] + torch.randn(10, generator=source)).tolist(), "y": y} for y in range(10) for _ in range(60)]
    return Request(kind="class", **{name: Data.inline([row for row in rows if (row["y"] == 3) == (name == "forget")]) for name in ("forget", "keep")})


def test_one_cloud_of_ten():
    """A retrained model gets no row of the forgotten cloud right; at most a tenth may be, and keep rows lose less than 3 points."""
    shape = {"inputs": 10, "hidden": [64, 32], "outputs": 10}
    start = Classifier(seeded(MLP, 0, **shape), shape)
    subject = registry.load("recipe", "finetune").set({"fit.lr": 1e-2, "fit.steps": 120, "fit.batch": 64}).run(start, blobs(), context())
    after = LAF.set({**STRONG, "epochs": 40}).run(subject, blobs(), context())
    assert right(subject, blobs().rows("forget")) > 0.95
    assert right(after, blobs().rows("forget")) <= 0.1
    assert right(after, blobs().rows("keep")) > right(subject, blobs().rows("keep")) - 0.03
