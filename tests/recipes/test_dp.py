"""Private training: what one row can do, the noise, the accounting, what is refused, and that the whole of it is what it says."""

import math

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("opacus")

from opacus.optimizers import DPOptimizer

from efface import api
from efface.core.errors import BadConfig, Diverged, Unfit
from efface.core.types import Data, Request
from efface.families.classifier import Classifier
from efface.families.group_norm import batch_norms
from efface.families.networks import MLP, SmallCNN, seeded
from efface.ops.private import count_epsilon
from efface.recipes.dp import DP
from efface.testing import tiny

ROWS = tiny.digits("random").keep[:60]
SHAPE = {"inputs": 64, "hidden": [8], "outputs": 10}
QUICK = {"noise": 1.0, "fit.optimizer": "sgd", "fit.lr": 0.5, "fit.steps": 4, "fit.batch": 20}


def network(seed=0):
    return Classifier(seeded(MLP, seed, **SHAPE), SHAPE)


def train(settings=None, rows=ROWS, subject=None, ctx=None):
    return DP.set({**QUICK, **(settings or {})}).run(subject or network(), Request(keep=Data.inline(rows)), ctx or tiny.context())


@pytest.fixture
def pieces(monkeypatch):
    """For each piece of a step: gradients of its rows by opacus, and what was added to the sum, each (numbers,) or (rows, numbers)."""
    seen, clip = [], DPOptimizer.clip_and_accumulate

    def flat(tensors, rows=None):
        return torch.cat([t.detach().reshape(*([rows] if rows is not None else []), -1) for t in tensors], -1)

    def watched(self):
        before = flat([p.summed_grad if p.summed_grad is not None else torch.zeros_like(p) for p in self.params])
        each = flat(self.grad_samples, len(self.grad_samples[0]))
        clip(self)
        seen.append((each, flat([p.summed_grad for p in self.params]) - before))

    monkeypatch.setattr(DPOptimizer, "clip_and_accumulate", watched)
    return seen


def test_what_one_row_adds(pieces):
    """In pieces of one row each: the row's own gradient, taken by itself, cut to the norm. No row adds more, so another in its place
    moves the sum by at most twice the norm."""
    ctx = tiny.context()
    train({"fit.steps": 1, "fit.accumulate": 20, "fit.clip": 0.7}, ctx=ctx)
    assert len(pieces) == ctx.curve[0]["rows"] > 5
    own = network()
    own.model.requires_grad_(True)
    known = []
    for row in ROWS:
        own.model.zero_grad()
        own.losses(own.encode([row]))[0].backward()
        known.append(torch.cat([p.grad.reshape(-1) for p in own.model.parameters()]))
    norms = torch.stack(known).norm(dim=1)
    assert float(norms.max()) > 0.7 > 0, "some rows are cut"
    for each, added in pieces:
        at = int((torch.stack(known) - each[0]).norm(dim=1).argmin())
        assert torch.allclose(each[0], known[at], atol=1e-6)
        assert torch.allclose(added, known[at] * min(1.0, 0.7 / (float(norms[at]) + 1e-6)), atol=1e-6)
        assert float(added.norm()) <= 0.7
    most = max(float((a - b).norm()) for _, a in pieces for _, b in pieces)
    assert most <= 2 * 0.7


def test_pieces_do_not_change_the_result():
    assert train({"fit.accumulate": 1}).digest != network().digest
    whole, cut = train({"fit.accumulate": 1}), train({"fit.accumulate": 4})
    for a, b in zip(whole.model.parameters(), cut.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


class Flat(Classifier):
    """Its loss is 1, whatever the row."""

    def losses(self, batch):
        return 0 * self.logits(batch).sum(-1) + 1


@pytest.mark.parametrize("accumulate", [1, 3])
def test_noise(accumulate):
    """With a constant loss T steps of SGD move each of N weights by a Gaussian of std lr noise clip sqrt(T) / (n q); here N T = 156,000,
    so its estimate over N weights is off by 1 / sqrt(2 N) = 0.6 % (one std). Pieces of a step do not bring noise of their own."""
    shape = {"inputs": 64, "hidden": [150], "outputs": 20}
    subject = Flat(seeded(MLP, 0, **shape), shape)
    after = train({"noise": 1.5, "fit.clip": 0.4, "fit.lr": 0.3, "fit.steps": 12, "fit.accumulate": accumulate}, subject=subject)
    moved = torch.cat([(a - b).reshape(-1) for a, b in zip(after.model.parameters(), subject.model.parameters(), strict=True)])
    assert len(moved) > 12_000
    assert float(moved.std()) == pytest.approx(0.3 * 1.5 * 0.4 * math.sqrt(12) / 20, rel=0.03)
    assert abs(float(moved.mean())) < 4 * float(moved.std()) / math.sqrt(len(moved))


def test_an_empty_batch_moves_the_weights():
    """Six rows, one expected in a step: now and then none is drawn, and the step adds noise alone, of std lr noise clip / (n q) = 0.5."""
    ctx = tiny.context()
    train({"fit.steps": 8, "fit.batch": 1}, ROWS[:6], ctx=ctx)
    sizes = [int(line["rows"]) for line in ctx.curve]
    empty = sizes.index(0)
    assert "loss" not in ctx.curve[empty] and ctx.notes["dp_steps"] == 8
    start = train({"fit.steps": empty, "fit.batch": 1}, ROWS[:6]) if empty else network()
    after = train({"fit.steps": empty + 1, "fit.batch": 1}, ROWS[:6])
    moved = torch.cat([(a - b).reshape(-1) for a, b in zip(after.model.parameters(), start.model.parameters(), strict=True)])
    assert float(moved.std()) == pytest.approx(0.5, rel=0.1) and len(moved) > 600


def test_what_is_noted():
    """All that a certificate counts again; epsilon is at most the one asked for, and half of the noise gives more."""
    ctx = tiny.context()
    train({"noise": 0, "epsilon": 3.0, "delta": 1e-4, "fit.clip": 0.5, "fit.batch": 60}, ctx=ctx)
    notes = ctx.notes
    assert 2.9 < notes["epsilon"] <= 3.0 and notes["delta"] == 1e-4 and notes["clip"] == 0.5 and notes["rows"] == 60
    assert notes["sample_rate"] == 1.0 and notes["dp_steps"] == 4 and notes["accountant"] == "rdp" and notes["sampling"] == "poisson"
    assert notes["epsilon"] == count_epsilon(notes["noise_multiplier"], 1.0, 4, 1e-4)
    half = tiny.context()
    train({"noise": notes["noise_multiplier"] / 2, "delta": 1e-4, "fit.batch": 60}, ctx=half)
    assert half.notes["epsilon"] > notes["epsilon"]
    tight = tiny.context()
    train({"noise": notes["noise_multiplier"], "delta": 1e-4, "fit.batch": 60, "accountant": "prv"}, ctx=tight)
    assert tight.notes["epsilon"] < notes["epsilon"] and tight.notes["accountant"] == "prv"


def test_rows_are_drawn_by_chance():
    """Batch sizes vary as those of independent draws do: mean n q = 20, variance n q (1 - q) = 13.3."""
    ctx = tiny.context()
    train({"fit.steps": 60, "fit.optimizer": "adam", "fit.schedule": "linear", "fit.warmup": 3}, ctx=ctx)
    sizes = np.array([line["rows"] for line in ctx.curve])
    assert abs(sizes.mean() - 20) < 4 * math.sqrt(13.3 / 60) and 6 < sizes.var() < 27


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"delta": 0.02}, "delta = 0.02: it must be below 1 / 60 rows"), ({"fit.clip": 0}, "fit.clip = 0"), ({"fit.steps": 0}, "fit.steps = 0"),
        ({"fit.precision": "bf16"}, "float32"), ({"noise": 0, "epsilon": 1e-9}, "no noise for 4 steps"),
    ],
)  # fmt: skip
def test_settings_that_make_no_private_training(settings, says):
    with pytest.raises(BadConfig, match=says):
        train(settings)


def test_no_rows_and_no_end():
    with pytest.raises(Unfit, match="dp reads forget and keep rows and the request has neither"):
        DP.set(QUICK).run(network(), Request(), tiny.context())
    with pytest.raises(Diverged, match="lower fit.lr"):
        train({"fit.lr": 1e38, "fit.steps": 20})


# -- layers -----------------------------------------------------------------------------------------------------------------


class Layers(nn.Module):
    """A layer of some kind between two linear ones."""

    def __init__(self, kind: str = "none"):
        super().__init__()
        self.first = nn.Linear(64, 8)
        self.extra = {"unused": nn.Linear(8, 8), "mixes": nn.Linear(8, 8), "norm": nn.BatchNorm1d(8), "counts": Counts()}.get(kind, nn.Identity())
        self.last, self.kind = nn.Linear(8, 10), kind

    def forward(self, x):
        h = self.first(x).relu()
        if self.kind == "mixes":
            h = self.extra(h - h.mean(0, keepdim=True))
        elif self.kind != "unused":
            h = self.extra(h)
        return self.last(h)


class Counts(nn.Module):
    """Keeps a running mean of what passes, which no row may."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, h):
        if self.training:
            self.mean += h.detach().mean(0)
        return h


@pytest.mark.parametrize(
    ("kind", "says"),
    [("unused", "the layer extra takes no part"), ("mixes", "mixes the rows of a batch"), ("norm", "extra is a batch normalization.*group_norm = true"),
     ("counts", "extra.mean is a statistic")],
)  # fmt: skip
def test_layers_that_would_leak_are_named(kind, says):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        subject = Classifier(Layers(kind).requires_grad_(False), {"kind": kind})
    with pytest.raises(Unfit, match=says):
        train(subject=subject)


def test_group_norm(tmp_path):
    """The swapped network trains, and comes back from disk as it was."""
    shape = {"channels": 1, "side": 8, "outputs": 10, "widths": [8, 16], "embedding": 12}
    before = Classifier(seeded(SmallCNN, 0, **shape), shape)
    assert len(batch_norms(before.model)) == 2
    with pytest.raises(Unfit, match="body.1 is a batch normalization \\(2 in all\\).*group_norm = true.*fit.rank"):
        train(subject=before)
    after = train({"group_norm": True, "fit.steps": 2}, subject=before)
    assert not batch_norms(after.model) and batch_norms(before.model)
    after.save(tmp_path)
    again = api.load(str(tmp_path))
    assert again.digest == after.digest and np.allclose(again.predict(ROWS[:4]), after.predict(ROWS[:4]))


def test_adapters_leave_batch_normalization_frozen():
    shape = {"channels": 1, "side": 8, "outputs": 10, "widths": [8], "embedding": 12}
    before = Classifier(seeded(SmallCNN, 0, **shape), shape)
    after = train({"fit.rank": 2, "fit.steps": 2}, subject=before)
    merged = after.merged()
    same = [torch.equal(a, b) for (name, a), b in zip(before.model.state_dict().items(), merged.model.state_dict().values(), strict=True) if "body.1." in name]
    assert same == [True] * 5 and merged.digest != before.digest


# -- families ---------------------------------------------------------------------------------------------------------------


def test_regressor():
    rows = tiny.diabetes().rows("keep")[:50]
    after = DP.set(QUICK | {"fit.lr": 0.05}).run(tiny.tiny_regressor(), Request(keep=Data.inline(rows)), tiny.context())
    assert after.family == "regressor" and np.isfinite(after.predict(rows)).all()


@pytest.mark.parametrize(("layout", "rank"), [("llama", 0), ("llama", 2), ("gpt2", 2)])
def test_language_model(layout, rank, pieces):
    """All weights or adapters: the gradients by opacus are those of each row on its own, whatever its length."""
    facts, subject = tiny.facts(), tiny.tiny_lm(layout=layout)
    ctx = tiny.context()
    after = DP.set({**QUICK, "fit.lr": 0.1, "fit.steps": 1, "fit.batch": 4, "fit.rank": rank}).run(subject, Request(keep=Data.inline(facts.keep[:8])), ctx)
    assert after.adapted == bool(rank) and after.digest != subject.digest
    own = subject.trainable(rank, ctx.seed_for("adapter"))
    each = pieces[0][0]
    assert len(each) == ctx.curve[0]["rows"] > 1
    found = []
    for row in facts.keep[:8]:
        own.model.zero_grad()
        own.losses(own.encode([row]))[0].backward()
        found.append(torch.cat([p.grad.reshape(-1) for p in own.model.parameters() if p.requires_grad]))
    gaps = [float((torch.stack(found) - one).abs().amax(dim=1).min()) for one in each]
    assert max(gaps) < 1e-5


def test_a_language_model_that_opacus_cannot_follow():
    """GPT-2 looks its positions up once for all rows, so their gradients cannot be told apart."""
    with pytest.raises(Unfit, match="the layer transformer.wpe apart by rows; train adapters instead \\(fit.rank = 8\\)"):
        DP.set({**QUICK, "fit.batch": 4}).run(tiny.tiny_lm(layout="gpt2"), Request(keep=Data.inline(tiny.facts().keep[:8])), tiny.context())
