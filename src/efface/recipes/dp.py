"""Private training: DP-SGD (Abadi et al., arXiv:1607.00133) on opacus, with the epsilon that its accountant gives.

Each row joins a step by chance q = 1 / ceil(n / batch), independently of all others (Poisson). With g_i the gradient of row i's loss,

    g = (sum_i g_i min(1, clip / (|g_i| + 1e-6)) + N(0, (noise clip)^2 I)) / (n q),        then a step of the optimizer along g

|g_i| is taken over all parameters together, n q is the expected number of rows and never the one drawn, and an empty batch makes
a step of pure noise. After T steps the weights are (epsilon, delta)-private for each row: whatever is done with them, its chance
differs from what it were without the row by a factor of at most e^epsilon, up to delta. k rows of one person have k epsilon.

A loss is one row's own: a mean over the tokens of that row, never over those of a batch. The noise needed is found for `epsilon`,
or given as `noise`. Forget and keep rows are trained on together: what comes out is the base that `dp2unlearn` begins with.

Batch normalization mixes rows and is refused; `group_norm` swaps it, and adapters (fit.rank) leave it frozen. Layers whose gradients
opacus cannot tell apart by rows are found before training, by comparing with rows on their own, and named.

What is private is the model folder. The noise follows from the seed, and the seed stands in run.json; log.jsonl holds losses and
batch sizes as they were. Give --seed a large random number, and hand out the model folder alone.

Paper's second use (arXiv:2504.13774): plain SGD, lr 5e-5, clip 1, batch 16, 10 epochs, delta 1e-12 to 1e-9, which left a language
model where it was before training; the defaults here train.
"""

from __future__ import annotations

import itertools
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import BadConfig, Diverged, EffaceError, Unfit, Unsound
from efface.core.types import Recipe, Request, Row
from efface.families.group_norm import batch_norms, group_normed
from efface.ops.loop import in_steps, optimizer_for, peak_mb
from efface.ops.private import Accountant, count_epsilon, noise_for

ADAPTERS = "train adapters instead (fit.rank = 8)"
CLOSE = 1e-2
"""How far a row's gradient may be from that of the row on its own, relative to the largest number of it: convolutions round on a GPU."""


class DPConfig(Config):
    """Settings of private training."""

    epsilon: float = Field(8.0, gt=0)
    """Most that one row may change: the factor is e^epsilon. The least noise that keeps to it is added."""
    noise: float = Field(0.0, ge=0)
    """Noise multiplier; above 0 it takes the place of epsilon, which is then counted."""
    delta: float = Field(1e-5, gt=0, lt=1)
    """Chance with which epsilon may fail; it must be below one in the number of rows."""
    accountant: Accountant = "rdp"
    """How epsilon is counted: by Renyi divergences, or by privacy loss distributions (tighter, slower, fails for a tiny delta)."""
    group_norm: bool = False
    """Swap batch normalization, which mixes rows, for group normalization."""
    fit: Fit = Fit(optimizer="adam", lr=5e-3, epochs=20, batch=256, clip=1.0)
    """Optimizer settings: batch is the expected number of rows of a step, accumulate the pieces in which so many are computed, and clip the
    norm that each row's gradient is cut to. No checkpoints, and float32 alone."""


class Plan(NamedTuple):
    """What is going to be done, and what it costs."""

    rate: float
    steps: int
    noise: float
    epsilon: float


class DP(Recipe[DPConfig]):
    """Trains on the forget rows and the keep rows together, each row's gradient clipped and noise added."""

    card = Card(
        name="dp", title="Private training (DP-SGD)", paper="arXiv:1607.00133", families=("causal-lm", "classifier", "regressor"), needs=("losses",), uses=(),
        extra="dp",
        technique="parameter optimization", intent="remove", touches=("weights", "adapter"), locality="all", data=("forget rows", "keep rows"), operator="weights",
        sequence="independent", reversible=False, guarantee="bounded",
        departs="noise is pseudo-random and follows from the seed (opacus' secure mode is off, which also guards against attacks on rounding); the paper's "
        "layers have clipping norms of their own, here it is one for all",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject trained with the privacy that the notes state. Raises Unfit naming a layer that mixes rows, BadConfig for delta."""
        config, fit = self.config, self.config.fit
        rows = [row for data in (request.forget, request.keep) if data is not None for row in data.read()]
        plan = _plan(config, rows)
        after = _ready(subject, config, ctx)
        began, buffers = time.monotonic(), {name: buffer.clone() for name, buffer in after.model.named_buffers()}
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Secure RNG turned off|Full backward hook is firing|Using a non-full backward hook")
            engine, wrapped, optimizer, loader = _make_private(after, len(rows), plan, fit, ctx)
            _probe(after, optimizer, rows)
            _train_mode(after.model)
            for step, picked in enumerate(ctx.progress(_draws(loader, plan.steps), "private training", plan.steps)):
                torch.manual_seed(ctx.seed_for("dropout", step) % 2**62)
                _set_rate(optimizer, fit, plan.steps, step)
                loss = _step(after, optimizer, rows, picked, math.ceil(fit.batch / fit.accumulate))
                ctx.log(step=step, rows=float(len(picked)), **({"loss": loss} if picked else {}))
                ctx.spend(steps=1)
            wrapped.to_standard_module()
        if engine.accountant.history != [(plan.noise, plan.rate, plan.steps)]:
            raise Unsound(f"the accountant saw {engine.accountant.history} and {plan} was meant; nothing can be claimed of this training")
        _unmoved(after.model, buffers)
        after.origin = ""
        after.model.eval()
        after.model.requires_grad_(False)
        ctx.note(
            epsilon=plan.epsilon, delta=config.delta, noise_multiplier=plan.noise, sample_rate=plan.rate, dp_steps=float(plan.steps), clip=fit.clip,
            accountant=config.accountant, sampling="poisson", rows=float(len(rows)), noise_from="the seed of this run", steps=float(plan.steps),
            training_seconds=time.monotonic() - began, peak_mb=peak_mb(), precision="no",
        )
        return after


def _plan(config: DPConfig, rows: Sequence[Row]) -> Plan:
    """Sampling rate, steps, noise and epsilon. Raises Unfit without rows and BadConfig for settings that make no private training."""
    fit = config.fit
    if not rows:
        raise Unfit("dp reads forget and keep rows and the request has neither")
    if config.delta >= 1 / len(rows):
        raise BadConfig(f"setting delta = {config.delta:g}: it must be below 1 / {len(rows)} rows = {1 / len(rows):.3g}, or giving away one whole row would be private")
    if not fit.clip:
        raise BadConfig("setting fit.clip = 0: private training cuts each row's gradient to a norm; give one, such as 1")
    if fit.precision == "bf16":
        raise BadConfig("setting fit.precision = bf16: private training computes in float32; use auto or no")
    rate, steps = 1 / math.ceil(len(rows) / fit.batch), in_steps(fit, {"all": rows}).steps
    if not steps:
        raise BadConfig("setting fit.steps = 0: private training has at least one step")
    noise = config.noise or noise_for(config.epsilon, config.delta, rate, steps, config.accountant)
    return Plan(rate, steps, noise, count_epsilon(noise, rate, steps, config.delta, config.accountant))


def _ready(subject: Any, config: DPConfig, ctx: Context) -> Any:
    """A fork ready to train. Raises Unfit where rows would mix."""
    norms = batch_norms(subject.model)
    if norms and config.group_norm:
        subject = group_normed(subject)
    elif norms and not config.fit.rank:
        raise Unfit(
            f"{norms[0]} is a batch normalization ({len(norms)} in all), which mixes the rows of a batch; swap them (group_norm = true), or {ADAPTERS}, which leaves them frozen"
        )
    return subject.trainable(config.fit.rank, ctx.seed_for("adapter"))


def _train_mode(model: nn.Module) -> None:
    """Train mode, but for batch normalizations: frozen ones go on with the statistics that they have."""
    model.train()
    for name in batch_norms(model):
        model.get_submodule(name).eval()


def _make_private(after: Any, count: int, plan: Plan, fit: Fit, ctx: Context) -> tuple[Any, Any, Any, Any]:
    """Opacus' engine, wrapped module, optimizer, and loader of row positions. Raises Unfit with what opacus says of the model."""
    from opacus import PrivacyEngine
    from torch.utils.data import DataLoader, TensorDataset

    sampler, noise = torch.Generator(), torch.Generator(device=after.device)
    sampler.manual_seed(ctx.seed_for("sampling") % 2**62)
    noise.manual_seed(ctx.seed_for("noise") % 2**62)
    _train_mode(after.model)
    trained: list[Tensor] = [parameter for parameter in after.model.parameters() if parameter.requires_grad]
    engine = PrivacyEngine(accountant="rdp")  # keeps the record of steps; epsilon is counted from it by the accountant asked for
    try:
        wrapped, optimizer, loader = engine.make_private(
            module=after.model, optimizer=optimizer_for(trained, fit), data_loader=DataLoader(TensorDataset(torch.arange(count)), fit.batch, generator=sampler),
            noise_multiplier=plan.noise, max_grad_norm=fit.clip, noise_generator=noise,
        )
    except (ValueError, NotImplementedError) as error:  # opacus' own errors are of these kinds
        raise Unfit(f"{type(after.model).__name__} cannot be trained privately as it is: {_line(error)}; {ADAPTERS}") from None
    return engine, wrapped, optimizer, loader


def _draws(loader: Any, steps: int) -> Iterator[list[int]]:
    """Row positions of each step, drawn by opacus; now and then none."""
    for (picked,) in itertools.islice(itertools.chain.from_iterable(itertools.repeat(loader)), steps):
        yield picked.tolist()


def _set_rate(optimizer: Any, fit: Fit, steps: int, step: int) -> None:
    rise = min(1.0, (step + 1) / fit.warmup) if fit.warmup else 1.0
    for group in optimizer.param_groups:
        group["lr"] = fit.lr * rise * (1.0 - step / steps if fit.schedule == "linear" else 1.0)


def _step(after: Any, optimizer: Any, rows: Sequence[Row], picked: list[int], size: int) -> float:
    """One step, in pieces of at most `size` rows: each is clipped and added up, and noise comes with the last. The mean loss before it."""
    pieces = [picked[at : at + size] for at in range(0, len(picked), size)] or [[]]
    total = 0.0
    for number, piece in enumerate(pieces, start=1):
        optimizer.signal_skip_step(number < len(pieces))
        if piece:
            total += len(piece) * _backward(after, rows, piece)
        else:
            for parameter in optimizer.params:
                parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if not math.isfinite(total):
        raise Diverged("the loss is not finite; lower fit.lr (or check the rows), then run again")
    return total / max(len(picked), 1)


def _backward(after: Any, rows: Sequence[Row], places: list[int]) -> float:
    """Leave each row's gradient on the parameters; the mean loss."""
    loss = after.losses(after.encode([rows[at] for at in places], places)).float().mean()
    loss.backward()
    return float(loss.detach())


def _probe(after: Any, optimizer: Any, rows: Sequence[Row]) -> None:
    """Raise Unfit, naming the layer, unless the gradients of two rows taken together are those of each on its own. Dropout is off."""
    places = list(range(min(2, len(rows))))
    after.model.eval()
    for part in after.model.modules():  # opacus looks at layers in train mode alone
        part.training = any(parameter.requires_grad for parameter in part.parameters(recurse=False))
    named = {name: parameter for name, parameter in after.model.named_parameters() if parameter.requires_grad}
    try:
        _backward(after, rows, places)
        together = {name: getattr(parameter, "grad_sample", None) for name, parameter in named.items()}
        optimizer.zero_grad(set_to_none=True)
        for place in places:
            _backward(after, rows, [place])
            for name, parameter in named.items():
                _compare(name, together[name], parameter.grad, place, len(places))
            optimizer.zero_grad(set_to_none=True)
    except EffaceError:
        raise
    except Exception as error:  # noqa: BLE001  a layer that opacus does not know may raise anything
        raise Unfit(f"opacus cannot take the gradients of {type(after.model).__name__} row by row: {_line(error)}; {ADAPTERS}") from None


def _compare(name: str, together: Any, alone: Tensor | None, place: int, count: int) -> None:
    layer = name.rpartition(".")[0] or name
    if together is None or alone is None:
        raise Unfit(f"the layer {layer} takes no part in the loss, so it has no gradient to clip; freeze it, or {ADAPTERS}")
    if isinstance(together, list) or together.shape != (count, *alone.shape):
        raise Unfit(f"opacus cannot tell the gradients of the layer {layer} apart by rows; {ADAPTERS}")
    if float((together[place] - alone).abs().max()) > CLOSE * float(alone.abs().max()) + 1e-6:
        raise Unfit(f"the layer {layer} mixes the rows of a batch, or opacus counts its gradients wrongly; {ADAPTERS}")


def _unmoved(model: nn.Module, buffers: dict[str, Tensor]) -> None:
    """Raise Unfit when training changed a buffer: it would carry the rows out without noise."""
    for name, buffer in model.named_buffers():
        if name not in buffers or not torch.equal(buffer, buffers[name]):
            raise Unfit(f"{name} is a statistic that training changes without noise; freeze it before private training")


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
