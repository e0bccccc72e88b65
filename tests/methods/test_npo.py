"""NPO: the formula and its gradient facts, the traps of other implementations, one reading of the original, and resuming."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch.nn.functional import logsigmoid

from efface.methods.npo import NPO, npo
from efface.ops import logprobs
from efface.testing.tiny import context, facts, tiny_lm, trained_lm


def test_formula(forget, second_step, plain, the_facts):
    """log p fell from -1 to -3: (2 / 0.5) softplus(0.5 * -2) = 4 log(1 + e^-1) = 4 * 0.313262 = 1.253047.

    At the start the loss is (2 / beta) log 2. After a step, log p is the sum over an answer's tokens: their mean would give
    another number.
    """
    assert float(npo(torch.tensor([-3.0]), torch.tensor([-1.0]), 0.5)) == pytest.approx(1.253047, abs=1e-6)
    _, ctx = forget("npo", {"beta": 0.25, "forget_weight": 0.5, "fit.steps": 1, "stop.at": "steps"})
    assert ctx.curve[0]["forget"] == pytest.approx(0.5 * 8 * math.log(2), rel=1e-4)
    one, drawn, logged = second_step("npo", {"beta": 0.5, "forget_weight": 1.0, "keep_weight": 2.0}, {"forget": 16, "keep": 48})

    def loss(size):
        pairs = [[size(plain(subject, the_facts.forget[at])) for subject in (one, trained_lm())] for at in drawn["forget"]]
        return sum(4 * math.log1p(math.exp(0.5 * (now - then))) for now, then in pairs) / len(pairs)

    assert logged["forget"] == pytest.approx(loss(sum), rel=1e-3)
    assert abs(logged["forget"] - loss(lambda row: sum(row) / len(row))) > 0.1
    keep = [plain(one, the_facts.keep[at]) for at in drawn["keep"]]
    assert logged["keep"] == pytest.approx(-2 * sum(sum(row) / len(row) for row in keep) / len(keep), rel=1e-3)


def test_no_op(forget):
    after, _ = forget("npo", {"keep": "none", "forget_weight": 0.0, "fit.steps": 3, "stop.at": "steps"})
    assert after.digest == trained_lm().digest


@pytest.mark.parametrize("keep", ["loss", "kl"])
def test_forgets(forget, losses, keep):
    after, ctx = forget("npo", {"keep": keep})
    assert losses(after)["forget"] >= losses(trained_lm())["unseen"] and "unseen" in ctx.notes["stopped"]


def test_keeps(forget, losses):
    lost = losses(forget("npo", {"keep": "none"})[0])["keep"]
    assert losses(forget("npo")[0])["keep"] < 0.5 * lost
    assert losses(forget("npo", {"keep": "kl"})[0])["keep"] < 0.5 * lost


@pytest.mark.parametrize("beta", [1e-3, 0.1, 1.0, 10.0])
def test_limits(beta):
    """At the start: loss (2 / beta) log 2 and the gradient of ascent, whatever beta. Everywhere: 2 p^beta / (p^beta + p_before^beta).

    As beta goes to 0, the gradient is that of ascent wherever the model is.
    """
    before = torch.tensor([-4.0, -9.0, -15.0], dtype=torch.float64)
    start = before.clone().requires_grad_()
    loss = npo(start, before, beta)
    assert torch.allclose(loss, torch.full_like(loss, 2 / beta * math.log(2)), rtol=1e-12)
    assert torch.allclose(slope(start, before, beta), torch.ones(3, dtype=torch.float64), atol=1e-6)
    now = torch.tensor([-6.0, -2.0, -40.0], dtype=torch.float64)
    p, q = (now * beta).exp(), (before * beta).exp()
    assert torch.allclose(slope(now, before, beta), 2 * p / (p + q), atol=1e-6)
    assert torch.allclose(slope(now, before, 1e-8), torch.ones(3, dtype=torch.float64), atol=1e-6)


def slope(log_probs, before, beta):
    """d loss / d log p of each row."""
    log_probs = log_probs.detach().requires_grad_()
    return torch.autograd.grad(npo(log_probs, before, beta).sum(), log_probs)[0]


def test_force_fades_where_ascent_does_not():
    """50 nats up at beta 1, NPO's gradient on the weights is below 1 % of ascent's, which is as strong as ever."""
    subject = tiny_lm().trainable(0, 0)
    batch = subject.encode(facts().forget)
    weights = list(subject.model.parameters())

    def norm(loss):
        return math.sqrt(sum(float(g.square().sum()) for g in torch.autograd.grad(loss, weights) if g is not None))

    values = subject.sequence_log_probs(batch)
    ascent, faded = norm(values.mean()), norm(npo(subject.sequence_log_probs(batch), values.detach() + 50, 1.0).mean())
    assert ascent > 0.1 and faded < 0.01 * ascent
    start = norm(npo(subject.sequence_log_probs(batch), values.detach(), 1.0).mean())
    assert start == pytest.approx(ascent, rel=1e-5)


def test_padding_and_order_change_nothing(padded):
    """Neither more padding nor another order of rows changes a row's loss."""
    subject, rows = tiny_lm(), facts().forget[:6]
    batch, before = subject.encode(rows), torch.linspace(-60, -30, 6)
    plainly = npo(subject.sequence_log_probs(batch), before, 0.3)
    assert torch.allclose(npo(subject.sequence_log_probs(padded(batch, 11)), before, 0.3), plainly, rtol=1e-6)
    order = [3, 0, 5, 1, 4, 2]
    mixed = npo(subject.sequence_log_probs(subject.encode([rows[at] for at in order], order)), before[order], 0.3)
    assert torch.allclose(mixed, plainly[order], rtol=1e-6)


def test_raw_logits_would_be_another_loss():
    """MUSE's code takes log-sigmoid of raw logit differences, element by element: not this loss, and not blind to a shift of all logits."""
    now, then = tiny_lm(), tiny_lm(1)
    batch = now.encode(facts().forget[:4])
    (logits, labels), (frozen, _) = now.logits(batch), then.logits(batch)

    def ours(logits):
        return npo(-logprobs.nll_sum(logits, labels), -logprobs.nll_sum(frozen, labels), 0.1).mean()

    def muse(logits):
        return -logsigmoid(0.1 * (frozen - logits)).mean() * 2 / 0.1

    assert abs(float(ours(logits) - muse(logits))) > 0.05
    assert float(ours(logits + 5)) == pytest.approx(float(ours(logits)), rel=1e-5)
    assert abs(float(muse(logits + 5) - muse(logits))) > 0.1


def test_means_would_be_weaker():
    """WAGLE's code compares mean log-probabilities: with T tokens and the same beta the force is that of beta / T, and 1 / T as strong."""
    now, then, length = torch.tensor([-24.0]), torch.tensor([-8.0]), 8
    summed, meant = npo(now, then, 0.5), npo(now / length, then / length, 0.5)
    assert float(npo(now / length, then / length, 0.5 * length)) == pytest.approx(float(summed) / length, rel=1e-6)
    assert abs(float(summed - meant)) > 1


def test_original_is_read_once(forget, reads, tmp_path):
    """16 forget rows before the loop, however many steps; none at all when the run's folder remembers them."""
    for steps in (1, 6):
        with reads(trained_lm()) as seen:
            forget("npo", {"fit.steps": steps, "stop.at": "steps"}, folder=tmp_path if steps == 6 else None)
        assert sum(seen) == 16
    with reads(trained_lm()) as seen:
        forget("npo", {"fit.steps": 2, "stop.at": "steps"}, folder=tmp_path)
    assert sum(seen) == 0


def test_a_killed_run_ends_at_the_same_weights(tmp_path):
    """With a keep term that reads the original on the way, too."""
    settings = {"keep": "kl", "fit.lr": 1e-3, "fit.batch": 8, "fit.steps": 9, "fit.precision": "no", "stop.at": "steps"}
    whole = NPO.set(settings).run(trained_lm(), facts().request, context())

    def killed(items, label, total) -> Iterator[int]:
        for at, item in enumerate(items):
            if label == "training" and at == 7:
                raise KeyboardInterrupt
            yield item

    saving = NPO.set({**settings, "fit.checkpoint": 3})
    with pytest.raises(KeyboardInterrupt):
        saving.run(trained_lm(), facts().request, context(folder=tmp_path, progress=killed))
    ctx = context(folder=tmp_path)
    assert saving.run(trained_lm(), facts().request, ctx).digest == whole.digest
    assert ctx.notes["resumed_at"] == 6
