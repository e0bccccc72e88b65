"""The training loop: what a step is, when it ends, and that neither a kill nor a second process changes the result."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.optimizer import register_optimizer_step_pre_hook

from efface.core.config import Fit
from efface.core.context import Context
from efface.core.errors import BadConfig, BadRows, BudgetSpent, Diverged, EffaceError
from efface.ops.loop import descend, draw, mean_loss
from efface.testing.tiny import context, digits, facts, tiny_classifier, tiny_lm

FACTS = facts()
FIT = Fit(lr=1e-3, steps=6, batch=8, precision="no")


def loss_of(after: Any, sign: float = 1.0) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Half of the mean loss on forget rows, with a sign, and the mean loss on keep rows."""
    return lambda batch: {"forget": sign * 0.5 * after.losses(batch["forget"]).mean(), "keep": after.losses(batch["keep"]).mean()}


def lm_run(fit: Fit = FIT, ctx: Context | None = None, rank: int = 0) -> tuple[dict[str, torch.Tensor], Context]:
    """Weights after a run on the tiny language model, and its context."""
    ctx = ctx or context()
    after = tiny_lm().trainable(rank, 1)
    descend(after, {"forget": FACTS.forget, "keep": FACTS.keep}, loss_of(after), fit, ctx)
    return {name: p.detach().clone() for name, p in after.model.named_parameters()}, ctx


def digit_run(fit: Fit) -> dict[str, torch.Tensor]:
    """Weights after a run on the tiny classifier."""
    rows, after = digits(), tiny_classifier().trainable(0, 1)
    descend(after, {"forget": rows.forget, "keep": rows.keep}, loss_of(after), fit, context())
    return dict(after.model.named_parameters())


def furthest(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> float:
    """Largest difference between two sets of weights."""
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


@contextmanager
def at_each_step(see: Callable[[torch.optim.Optimizer], None]) -> Iterator[None]:
    """Calls `see` just before any optimizer takes a step."""
    handle = register_optimizer_step_pre_hook(lambda optimizer, *rest: see(optimizer))
    try:
        yield
    finally:
        handle.remove()


# -- what a step is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["causal-lm", "classifier"])
def test_accumulation_changes_nothing(family: str) -> None:
    """The same 8 rows in 1, 2 or 4 pieces: rows of unequal length weigh the same, so the weights agree to 1e-5."""
    run = digit_run if family == "classifier" else lambda fit: lm_run(fit)[0]
    whole = run(FIT)
    for pieces in (2, 4):
        assert furthest(whole, run(FIT.model_copy(update={"accumulate": pieces}))) < 1e-5
    assert furthest(whole, run(FIT.model_copy(update={"batch": 4}))) > 1e-4, "another batch is another run"


def test_clipping_by_hand() -> None:
    """The log tells the norm before clipping; what reaches the optimizer has norm min(that, clip), and with clip 0 the whole."""
    seen: list[float] = []
    with at_each_step(lambda o: seen.append(math.sqrt(sum(float(p.grad.square().sum()) for g in o.param_groups for p in g["params"])))):
        _, free = lm_run(FIT.model_copy(update={"clip": 0.0, "steps": 3}))
        _, bound = lm_run(FIT.model_copy(update={"clip": 0.25, "steps": 3}))
    logged = [line["gradient_norm"] for line in (*free.curve, *bound.curve)]
    assert min(logged) > 0.25
    assert seen[:3] == pytest.approx(logged[:3], rel=1e-4)
    assert seen[3:] == pytest.approx([0.25] * 3, rel=1e-4)
    assert logged[0] == pytest.approx(logged[3], rel=1e-4), "the first gradient is the same in both"


def test_warmup_and_schedule_by_hand() -> None:
    """Peak 1e-3, 5 steps, warm-up 2: rise 1/2, 1, 1, 1, 1; linear fall 1, 4/5, 3/5, 2/5, 1/5; the rate is their product."""
    rates: list[float] = []
    with at_each_step(lambda o: rates.append(o.param_groups[0]["lr"])):
        lm_run(FIT.model_copy(update={"steps": 5, "warmup": 2, "schedule": "linear"}))
        lm_run(FIT.model_copy(update={"steps": 5, "warmup": 2}))
    assert rates[:5] == pytest.approx([0.5e-3, 0.8e-3, 0.6e-3, 0.4e-3, 0.2e-3])
    assert rates[5:] == pytest.approx([0.5e-3, 1e-3, 1e-3, 1e-3, 1e-3])


def test_first_step_of_adamw_by_hand() -> None:
    """Adam's first step is lr * g / (|g| + 1e-8), so each weight with a gradient moves by the rate, here 1e-3, against it."""
    before = dict(tiny_lm().model.named_parameters())
    weights, ctx = lm_run(FIT.model_copy(update={"steps": 1}))
    moved = {name: weights[name] - before[name] for name in weights}
    assert furthest(weights, before) == pytest.approx(1e-3, rel=1e-2)
    assert moved["lm_head.weight"].abs().median().item() == pytest.approx(1e-3, rel=1e-2)
    assert list(ctx.curve[0]) == ["step", "forget", "keep", "gradient_norm"]


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 23), size=st.integers(1, 40), seed=st.integers(0, 5), steps=st.integers(1, 6))
def test_draw_covers_each_row_once_per_epoch(count: int, size: int, seed: int, steps: int) -> None:
    picked = [draw(count, size, step, seed) for step in range(steps)]
    assert all(len(rows) == size for rows in picked)
    stream = [row for rows in picked for row in rows]
    for start in range(0, len(stream) - count + 1, count):
        assert sorted(stream[start : start + count]) == list(range(count))
    assert draw(count, size, steps - 1, seed) == picked[-1], "it depends on the step alone, not on the steps before"


def test_draw_shuffles_each_epoch_and_each_seed_anew() -> None:
    epochs = [tuple(draw(50, 50, step, seed)) for step in range(3) for seed in range(3)]
    assert len(set(epochs)) == 9


def test_batches_say_where_their_rows_stand() -> None:
    """`Batch.index` leads from a drawn row back into its pool; anchors computed before the loop are read through it."""
    after, seen = tiny_lm().trainable(0, 1), []

    def loss(batch: Mapping[str, Any]) -> dict[str, Any]:
        again = after.encode([FACTS.keep[at] for at in batch["keep"].index.tolist()])
        seen.append(torch.equal(again.input_ids, batch["keep"].input_ids))
        return {"keep": after.losses(batch["keep"]).mean()}

    descend(after, {"keep": FACTS.keep}, loss, FIT.model_copy(update={"accumulate": 2, "steps": 2}), context())
    assert seen == [True] * 4


def test_it_leaves_the_original_and_global_randomness_alone() -> None:
    subject = tiny_lm()
    digest, state = subject.digest, torch.get_rng_state()
    after = subject.trainable(0, 1)
    descend(after, {"forget": FACTS.forget, "keep": FACTS.keep}, loss_of(after), FIT, context())
    assert subject.digest == digest != after.digest
    assert torch.equal(torch.get_rng_state(), state)
    assert not after.model.training
    assert not any(p.requires_grad for p in after.model.parameters())


def test_the_result_no_longer_bears_the_name_of_the_original() -> None:
    """Stored passes are found by `origin`: a trained copy that kept it would be served the scores of the original."""
    subject = tiny_lm()
    subject.origin = "files:abc"
    after = subject.trainable(0, 1)
    descend(after, {"keep": FACTS.keep}, lambda batch: {"keep": after.losses(batch["keep"]).mean()}, FIT, context())
    assert (subject.origin, after.origin) == ("files:abc", "")


def test_two_precisions_in_one_process() -> None:
    """A run in bf16 after one in float32: accelerate itself would refuse to change; terms agree to bf16's three digits."""
    _, single = lm_run(FIT.model_copy(update={"steps": 1}))
    _, half = lm_run(FIT.model_copy(update={"steps": 1, "precision": "bf16"}))
    assert (single.notes["precision"], half.notes["precision"]) == ("no", "bf16")
    assert half.curve[0]["keep"] == pytest.approx(single.curve[0]["keep"], rel=2e-2)
    assert half.curve[0]["keep"] != single.curve[0]["keep"]


# -- what it refuses ----------------------------------------------------------------------------------------------


def test_a_batch_that_does_not_divide() -> None:
    with pytest.raises(BadConfig, match=r"fit.batch = 8 must be a multiple of .* = 3"):
        lm_run(FIT.model_copy(update={"accumulate": 3}))


def test_nothing_to_train() -> None:
    frozen = tiny_lm()
    with pytest.raises(EffaceError, match="nothing to train"):
        descend(frozen, {"keep": FACTS.keep}, loss_of(frozen), FIT, context())


def test_a_pool_without_rows() -> None:
    after = tiny_lm().trainable(0, 1)
    with pytest.raises(BadRows, match="there are no keep rows"):
        descend(after, {"forget": FACTS.forget, "keep": []}, loss_of(after), FIT, context())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_number_that_is_not_finite_names_step_and_term(bad: float) -> None:
    after, calls = tiny_lm().trainable(0, 1), []

    def loss(batch: Mapping[str, Any]) -> dict[str, Any]:
        calls.append(1)
        good = after.losses(batch["keep"]).mean()
        return {"forget": good, "keep": good * bad if len(calls) == 3 else good}

    ctx = context()
    with pytest.raises(Diverged, match=rf"keep is {bad} at step 2"):
        descend(after, {"keep": FACTS.keep}, loss, FIT, ctx)
    assert len(ctx.curve) == 2
    assert all(torch.isfinite(p).all() for p in after.model.parameters()), "the bad step must not reach the weights"


def test_a_gradient_that_is_not_finite_is_named() -> None:
    """sqrt(0) is finite and its slope is not."""
    after = tiny_lm().trainable(0, 1)
    with pytest.raises(Diverged, match=r"gradient norm is (nan|inf) at step 0"):
        descend(after, {"keep": FACTS.keep}, lambda batch: {"keep": (after.losses(batch["keep"]).mean() * 0).sqrt()}, FIT, context())


def test_the_budget_ends_a_run() -> None:
    ctx = context(budget={"steps": 2})
    with pytest.raises(BudgetSpent, match="2 steps"):
        lm_run(FIT, ctx)
    assert len(ctx.curve) == 3


def test_mean_loss_is_over_rows_whatever_the_batches() -> None:
    subject = tiny_lm()
    alone = [float(subject.losses(subject.encode([row])).item()) for row in FACTS.forget]
    for size in (1, 5, 16):
        assert mean_loss(subject, FACTS.forget, size) == pytest.approx(sum(alone) / len(alone), rel=1e-5)


def test_epochs_are_passes_over_the_largest_set():
    """10 keep rows in batches of 4 are 3 steps a pass: 2.5 passes are ceil(7.5) = 8 steps, whatever the smaller set has."""
    from efface.ops.loop import in_steps

    pools = {"forget": [{}] * 2, "keep": [{}] * 10}
    assert in_steps(Fit(epochs=2.5, batch=4), pools).steps == 8
    assert in_steps(Fit(steps=7, batch=4), pools).steps == 7


def test_sgd_with_momentum_by_hand():
    """w = 0, loss (w - 1)^2, lr .1, momentum .5: g = -2, w = .2; v = .5 * -2 + -1.6 = -2.6, w = .46."""
    import torch

    from efface.ops.loop import optimizer_for

    w = torch.nn.Parameter(torch.zeros(1))
    optimizer = optimizer_for([w], Fit(optimizer="sgd", lr=0.1, momentum=0.5))
    for wanted in (0.2, 0.46):
        optimizer.zero_grad()
        ((w - 1) ** 2).sum().backward()
        optimizer.step()
        assert float(w.detach()) == pytest.approx(wanted)
