"""Per-row importance: golden sums, that every way gives what single backward passes give, and which way a model goes."""

import warnings

import pytest
import torch
from torch import nn

from efface.core.errors import Diverged, Unfit
from efface.families.networks import MLP, SmallCNN, resnet18, seeded, vit
from efface.ops import layer_gradients
from efface.ops.importance import batch_squares, mean_gradient, per_sample_gradients, per_sample_squares, pieces, size_of, weights_of


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def outputs(model):
    """Losses that any model has: the squared outputs of each row, weighted unevenly so that no symmetry hides a fault."""

    def losses(batch):
        given = model(**batch) if isinstance(batch, dict) else model(batch)
        flat = getattr(given, "logits", given).flatten(1)
        return (flat * torch.linspace(0.5, 1.5, flat.shape[1])).square().sum(1)

    return losses


class Words(nn.Module):
    """An embedding with padding, which is the output layer as well."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 5, padding_idx=0)
        self.out = nn.Linear(5, 7)
        self.out.weight = self.table.weight

    def forward(self, ids):
        return self.out(self.table(ids).mean(1))


class Twice(nn.Module):
    """One layer that is passed two times."""

    def __init__(self):
        super().__init__()
        self.inner, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(self.inner(self.inner(x).tanh()).tanh())


class Positions(nn.Module):
    """Words and places, the latter looked up once for all rows."""

    def __init__(self):
        super().__init__()
        self.words, self.places, self.out = nn.Embedding(7, 4), nn.Embedding(8, 4), nn.Linear(4, 3)

    def forward(self, ids):
        return self.out((self.words(ids) + self.places(torch.arange(ids.shape[1]).unsqueeze(0))).tanh())


class Overwritten(nn.Module):
    """What the first layer read is changed in place before the way back."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        x = x * 1
        h = self.first(x.clone() if any(p.requires_grad for p in self.parameters()) else x)
        x.zero_()
        return self.last(h.relu_())


class Scaled(nn.Module):
    """A parameter of its own that no layer holds."""

    def __init__(self):
        super().__init__()
        self.inner, self.scale = nn.Linear(4, 3), nn.Parameter(draw(3))

    def forward(self, x):
        return self.inner(x) * self.scale


class Functional(nn.Module):
    """A known layer whose weight is used behind its back."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x):
        return nn.functional.linear(x, self.inner.weight).tanh()


def evened(model):
    """The same model with statistics that are not those of a fresh one."""
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            module.running_mean.copy_(draw(*module.running_mean.shape))
            module.running_var.copy_(draw(*module.running_var.shape).abs() + 0.5)
    return model


def convolutions():
    return nn.Sequential(
        nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.GroupNorm(3, 6),
        nn.Conv2d(6, 6, (1, 3), groups=6, bias=False), nn.LayerNorm([6, 4, 2]), nn.Flatten(), nn.Linear(48, 3),
    )


def sounds():
    return nn.Sequential(nn.Conv1d(2, 4, 3, padding=2, stride=2, dilation=2), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(24, 8), nn.BatchNorm1d(8))


IDS = torch.tensor([[1, 2, 2, 0], [3, 3, 3, 1], [6, 0, 5, 5], [1, 2, 3, 4]])
KINDS = {
    "mlp": (lambda: MLP(6, (5, 4), 3), draw(5, 6), "layers"),
    "pictures": (lambda: SmallCNN(1, 8, 4, (3, 4), 6), draw(5, 1, 8, 8), "layers"),
    "convolutions": (convolutions, draw(5, 4, 9, 9), "layers"),
    "sounds": (sounds, draw(5, 2, 11), "layers"),
    "tokens": (lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 2)), draw(5, 7, 3), "layers"),
    "tied": (Words, IDS, "layers"),
    "twice": (Twice, draw(5, 4), "layers"),
    "positions": (Positions, IDS, "layers"),
    "transformer": (lambda: vit(side=8, channels=1, hidden=64, layers=1), draw(3, 1, 8, 8), "layers"),
    "scaled": (Scaled, draw(5, 4), "vmap"),
    "functional": (Functional, draw(5, 4), "vmap"),
    "overwritten": (Overwritten, draw(5, 4), "vmap"),
    "recurrent": (lambda: nn.Sequential(nn.GRU(3, 4, batch_first=True), Last(), nn.Linear(4, 2)), draw(4, 5, 3), "rows"),
}


class Last(nn.Module):
    def forward(self, given):
        return given[0][:, -1]


def built(name):
    build, x, way = KINDS[name]
    return evened(seeded(build, 0).eval()), x, way


def close(one, other, tolerance=1e-5):
    """Equal, relative to each tensor's largest number (and, where that is only rounding, to the largest of all)."""
    largest = max(float(value.max()) for value in other.values())
    assert one.keys() == other.keys()
    for name, value in other.items():
        assert one[name].shape == value.shape, name
        assert float((one[name] - value).abs().max()) <= tolerance * (float(value.abs().max()) + 1e-4 * largest), name


def by_hand(model, x, losses, power):
    """One backward pass a row, with nothing of the product's."""
    weights = {name: p.requires_grad_() for name, p in model.named_parameters()}
    total = {name: torch.zeros_like(p) for name, p in weights.items()}
    for at in range(len(x)):
        grads = torch.autograd.grad(losses(x[at : at + 1]).sum(), list(weights.values()), allow_unused=True)
        for name, grad in zip(weights, grads, strict=True):
            total[name] += 0 if grad is None else grad.abs() ** power
    model.requires_grad_(False)
    return total


def test_golden():
    """f(x) = 2 x_1 - x_2 + 1/2 and the loss f^2: at (1, 2) f = .5 and the gradient is 2 f (x, 1) = (1, 2, 1); at (3, 0) f = 6.5 and it is
    (39, 0, 13). Sums of squares: 1 + 1521, 4 + 0, 1 + 169; of absolute values: 40, 2, 14. The gradient of the mean loss is (20, 1, 7)."""
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0, -1.0]]))
        model.bias.fill_(0.5)
    model.eval()
    x = torch.tensor([[1.0, 2.0], [3.0, 0.0]])

    def losses(batch):
        return model(batch).square().sum(1)

    found = per_sample_squares(model, [x], losses)
    assert found.rows == 2 and found.total["weight"].tolist() == [[1522, 4]] and found.total["bias"].tolist() == [170]
    assert found.mean()["weight"].tolist() == [[761, 2]]
    assert per_sample_squares(model, [x], losses, power=1).total["weight"].tolist() == [[40, 2]]
    both = batch_squares(model, [x], losses).mean()
    assert both["weight"].tolist() == [[400, 1]] and both["bias"].tolist() == [49]
    assert mean_gradient(model, [x[:1], x[1:]], losses)["weight"].tolist() == [[20, 1]]
    assert per_sample_gradients(model, x, losses)["weight"].tolist() == [[[1, 2]], [[39, 0]]]


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("name", KINDS)
def test_every_way_gives_the_same(name, power):
    model, x, way = built(name)
    losses = outputs(model)
    expected = by_hand(model, x, losses, power)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = per_sample_squares(model, [x[:3], x[3:]] if len(x) > 3 else [x], losses, power)
    assert found.way == way and found.rows == len(x)
    close(found.total, expected)
    close(per_sample_squares(model, [x], losses, power, way="rows").total, expected)


@pytest.mark.parametrize("name", ["mlp", "convolutions", "sounds", "tokens", "tied", "twice"])
def test_memory_is_bounded_without_a_change(name, monkeypatch):
    """With room for one row at a time the numbers are the same."""
    model, x, _ = built(name)
    whole = per_sample_squares(model, [x], outputs(model), way="layers")
    monkeypatch.setattr(layer_gradients, "PIECE", 1)
    close(per_sample_squares(model, [x], outputs(model), way="layers").total, whole.total)


def test_few_patches_in_pairs(monkeypatch):
    """Up to FEW vectors a row go in pairs; without them the same comes out."""
    model = seeded(lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Flatten()), 0).eval()
    x = draw(6, 2, 2, 2)
    paired = per_sample_squares(model, [x], outputs(model), way="layers").total
    monkeypatch.setattr(layer_gradients, "FEW", 0)
    close(paired, per_sample_squares(model, [x], outputs(model), way="layers").total)


def test_resnet():
    """A residual network of transformers goes layer by layer."""
    model = evened(seeded(resnet18, 0, channels=1).eval())
    x = draw(3, 1, 16, 16)
    found = per_sample_squares(model, [x], outputs(model))
    assert found.way == "layers"
    close(found.total, by_hand(model, x, outputs(model), 2))


def test_text_classifier():
    """A padded batch by name, with the token types and the pooler of BERT."""
    from transformers import BertConfig, BertForSequenceClassification

    shape = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = seeded(lambda: BertForSequenceClassification(BertConfig(**shape)), 0).eval()
    ids = torch.tensor([[2, 5, 6, 0, 0], [2, 9, 9, 4, 3], [2, 7, 0, 0, 0]])
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    losses = outputs(model)
    found = per_sample_squares(model, [batch], losses)
    assert found.way == "layers" and size_of(batch) == 3
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for row in pieces(batch, 1):
        for name, grad in mean_gradient(model, [row], losses).items():
            total[name] += grad.square()
    close(found.total, total)


def test_sums_add_up():
    """Over parts and over the whole, in any batches; each row's share of the sum is at least its own."""
    model, x, _ = built("mlp")
    losses = outputs(model)
    whole = per_sample_squares(model, [x], losses)
    parts = per_sample_squares(model, [x[:2]], losses) + per_sample_squares(model, [x[2:4], x[4:]], losses)
    assert parts.rows == whole.rows
    close(parts.total, whole.total, 1e-6)
    few = per_sample_squares(model, [x[:2]], losses)
    both = few + per_sample_squares(model, [x[2:]], losses)
    assert all(bool((few.mean()[name] <= both.mean()[name] * 2.5 * (1 + 1e-4)).all()) for name in few.total)


def test_gradients_of_rows_sum_to_the_gradient():
    for name in ("convolutions", "recurrent"):
        model, x, _ = built(name)
        rows = per_sample_gradients(model, x, outputs(model))
        whole = mean_gradient(model, [x[:2], x[2:]], outputs(model))
        for key, value in whole.items():
            assert rows[key].shape == (len(x), *value.shape)
            assert torch.allclose(rows[key].mean(0), value, rtol=1e-4, atol=1e-5)


def test_batch_form_depends_on_the_batch():
    model, x, _ = built("mlp")
    one = batch_squares(model, list(x.split(1)), outputs(model)).total
    close(one, per_sample_squares(model, [x], outputs(model)).total)
    assert float(batch_squares(model, [x], outputs(model)).total["stack.0.weight"].sum()) < float(one["stack.0.weight"].sum())


def test_refuses():
    model, x, _ = built("convolutions")
    with pytest.raises(Unfit, match="training mode"):
        per_sample_squares(model.train(), [x], outputs(model))
    model.eval()
    with pytest.raises(Unfit, match="no rows"):
        per_sample_squares(model, [], outputs(model))
    with pytest.raises(Unfit, match="no rows"):
        batch_squares(model, [], outputs(model))
    with pytest.raises(Diverged, match="not finite"):
        per_sample_squares(model, [x * float("nan")], outputs(model), way="layers")
    with pytest.raises(Unfit, match="scale stands in no layer"):
        odd, x, _ = built("scaled")
        per_sample_squares(odd, [x], outputs(odd), way="layers")


def test_leaves_no_trace():
    """Neither hooks nor gradients nor requires_grad stay behind, even when the losses fail."""
    model, x, _ = built("convolutions")
    next(model.parameters()).requires_grad_(True)
    before = [p.requires_grad for p in model.parameters()]

    def fails(batch):
        model(batch)
        raise ValueError("no loss")

    per_sample_squares(model, [x], outputs(model))
    with pytest.raises(ValueError, match="no loss"):
        per_sample_squares(model, [x], fails, way="layers")
    assert [p.requires_grad for p in model.parameters()] == before
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_where_the_loss_does_not_reach():
    """A layer that takes no part has importance zero, in every way."""
    model = seeded(lambda: nn.ModuleDict({"used": nn.Linear(3, 2), "idle": nn.Linear(3, 2)}), 0).eval()
    for way in ("layers", "vmap", "rows"):
        found = per_sample_squares(model, [draw(4, 3)], lambda x: model["used"](x).square().sum(1), way=way).total
        assert float(found["idle.weight"].sum()) == 0 < float(found["used.weight"].sum())
    assert set(found) == set(weights_of(model))
