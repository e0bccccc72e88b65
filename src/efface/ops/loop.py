"""The one training loop, on accelerate: precision, accumulation, clipping, checkpoints, resume, stop rule, NaN stop.

What a step sees depends on the seed and the number of the step alone, so a run that was killed and resumed, and a run
on two processes, end at the numbers of an undisturbed run on one.
"""

from __future__ import annotations

import json
import math
import resource
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from efface.core import digest, files
from efface.core.config import Fit, Stop
from efface.core.context import Context
from efface.core.errors import BadConfig, BadRows, Diverged, EffaceError
from efface.core.types import Request, Row, Subject

S = TypeVar("S", bound=Subject)
Loss = Callable[[Mapping[str, Any]], Mapping[str, Tensor]]
"""Batches by pool name -> terms whose sum is minimized; each term is a mean over rows."""


HALVINGS = 4
"""How often the last stretch before the target is halved."""


@dataclass
class Watch:
    """Stops a run when `measure()` has reached `target`, and lands it there."""

    measure: Callable[[], float]
    target: float
    every: int
    says: str


def descend(
    after: S, pools: Mapping[str, Sequence[Row]], loss: Loss, fit: Fit, ctx: Context, watch: Watch | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> S:
    """Train `after` in place on `loss` and return it.

    `pools` names the row sets ("forget", "keep"); every step draws `fit.batch` rows of each, without replacement within
    an epoch. `optimizer` brings the moments of an earlier run of the same weights along; without it they begin at zero.
    Raises Diverged, naming the step and the term, at the first number that is not finite.
    """
    fit = in_steps(fit, pools)
    accelerator = _accelerator(after, fit)
    model: torch.nn.Module = after.model  # type: ignore[attr-defined]
    trained = _trained(model, pools, fit, accelerator.num_processes)
    optimizer = optimizer or optimizer_for(list(trained.values()), fit)
    place = ctx.folder / "checkpoint" if ctx.folder is not None and fit.checkpoint else None
    identity = _identity(pools, fit, ctx) if place else ""
    first, held = _resume(place, model, trained, optimizer, identity, ctx) if place else (0, {})
    model.train()
    done, why = fit.steps, "all steps done"
    began = time.monotonic()
    for step in ctx.progress(range(first, fit.steps + 1), "training", fit.steps + 1 - first):
        if watch and (step % watch.every == 0 or step == fit.steps):
            if (level := _measured(model, watch, accelerator)) >= watch.target:
                optimizer.state.clear()
                level = _land(model, trained, held, watch, accelerator, level)
                done, why = step, f"{watch.says}: {level:.3f} >= {watch.target:.3f}"
                break
            held = {name: p.detach().clone() for name, p in trained.items()} if math.isfinite(watch.target) else {}
        if step == fit.steps:
            break
        _set_rate(optimizer, fit, step)
        numbers = _step(after, pools, loss, fit, ctx, step, accelerator)
        numbers["gradient_norm"] = _clipped(list(trained.values()), fit, accelerator)
        _finite(numbers, step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ctx.log(step=step, **numbers)
        ctx.spend(steps=1)
        if place and (step + 1) % fit.checkpoint == 0 and accelerator.is_main_process:
            _save(place, model, trained, optimizer, held, (step + 1, identity), ctx)
    after.origin = ""  # these are no longer the weights that the name stood for
    model.eval()
    model.requires_grad_(False)
    if place:
        for old in (place, *place.parent.glob(f".{place.name}.*")):  # a kill may have left an unfinished checkpoint behind
            shutil.rmtree(old, ignore_errors=True)
    ctx.note(steps=done, stopped=why, training_seconds=time.monotonic() - began, peak_mb=peak_mb(), precision=accelerator.mixed_precision)
    return after


def in_steps(fit: Fit, pools: Mapping[str, Sequence[Row]]) -> Fit:
    """The same settings with epochs turned into steps: an epoch is one pass over the largest row set."""
    if not fit.epochs:
        return fit
    most = max((len(rows) for rows in pools.values()), default=0)
    return fit.model_copy(update={"steps": math.ceil(fit.epochs * math.ceil(most / fit.batch)), "epochs": 0.0})


def optimizer_for(parameters: list[Tensor], fit: Fit) -> torch.optim.Optimizer:
    """The optimizer that the settings name, over these parameters."""
    # On a CPU the loop over parameters costs a tenth of a step with full weights, the fused kernel a fortieth.
    fused = parameters[0].device.type == "cpu"
    if fit.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=fit.lr, momentum=fit.momentum, weight_decay=fit.weight_decay, fused=fused)
    kind = torch.optim.AdamW if fit.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, lr=fit.lr, weight_decay=fit.weight_decay, fused=fused)


def _trained(model: torch.nn.Module, pools: Mapping[str, Sequence[Row]], fit: Fit, world: int) -> dict[str, Tensor]:
    """The parameters to train, by name; raises when rows, batch or parameters make no run."""
    if empty := [name for name, rows in pools.items() if not rows]:
        raise BadRows(f"there are no {' and no '.join(empty)} rows to train on")
    if fit.batch % (fit.accumulate * world):
        raise BadConfig(f"fit.batch = {fit.batch} must be a multiple of fit.accumulate x processes = {fit.accumulate * world}")
    trained: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trained:
        raise EffaceError("nothing to train: no parameter of the subject requires a gradient")
    return trained


def mean_loss(subject: Any, rows: Sequence[Row], size: int = 32) -> float:
    """Mean over rows of the subject's loss, without gradients, in batches of `size`."""
    with torch.no_grad():
        parts = [subject.losses(subject.encode(rows[at : at + size])).float().cpu() for at in range(0, len(rows), size)]
    return float(torch.cat(parts).mean())


def watch(before: Subject, after: Subject, request: Request, stop: Stop, ctx: Context) -> Watch | None:
    """The stop rule for a forgetting run, or None when there is nothing to compare with.

    The run ends when the loss on the forget rows has risen to the level that rows have on which nobody trained: measured
    with the model before forgetting on `request.unseen`, or with the retrained reference on the forget rows. A whole class
    is known by generalizing, its unseen rows included, so for a class "auto" asks the reference alone.
    """
    if stop.at == "steps" or request.forget is None:
        return None
    rows = ctx.random("watch").sample(request.forget.read(), min(stop.rows, len(request.forget)))
    if request.unseen is not None and (stop.at == "unseen" or (stop.at == "auto" and request.kind != "class")):
        unseen = ctx.random("watch unseen").sample(request.unseen.read(), min(stop.rows, len(request.unseen)))
        target, says = mean_loss(before, unseen), "forget rows reached the loss of unseen rows"
    elif stop.at in ("reference", "auto") and "reference" in ctx.baselines:
        target, says = mean_loss(ctx.baselines["reference"], rows), "forget rows reached the reference's loss"
    elif stop.at == "auto":
        return None
    else:
        raise EffaceError(f"stop.at = {stop.at!r}, and the run has no {stop.at} {'rows' if stop.at == 'unseen' else 'model'} to compare with")
    return Watch(lambda: mean_loss(after, rows), target, stop.every, says)


def draw(count: int, size: int, step: int, seed: int) -> list[int]:
    """Positions of the `size` rows that step number `step` sees: consecutive pieces of one shuffle after another."""
    picked: list[int] = []
    at = step * size
    while len(picked) < size:
        epoch, start = divmod(at, count)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(digest.seed_from(seed, epoch) % 2**62)).tolist()
        piece = order[start : start + size - len(picked)]
        picked += piece
        at += len(piece)
    return picked


def peak_mb() -> float:
    """Largest resident memory of this process so far, in MB (10^6 bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _step(
    after: Any, pools: Mapping[str, Sequence[Row]], loss: Loss, fit: Fit, ctx: Context, step: int, accelerator: Any
) -> dict[str, float]:
    """Gradients of one step, in pieces; the mean of each term over all pieces and processes."""
    world, rank = accelerator.num_processes, accelerator.process_index
    picked = {name: draw(len(rows), fit.batch, step, ctx.seed_for("rows", name)) for name, rows in pools.items()}
    share = fit.batch // (fit.accumulate * world)
    sums: dict[str, Tensor] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(ctx.seed_for("dropout", step, rank) % 2**62)
        for piece in range(fit.accumulate):
            start = (piece * world + rank) * share
            mine = {name: order[start : start + share] for name, order in picked.items()}
            batches = {name: after.encode([pools[name][i] for i in order], order) for name, order in mine.items()}
            with accelerator.autocast():
                terms = loss(batches)
            total = torch.stack([term.float() for term in terms.values()]).sum() / fit.accumulate
            accelerator.backward(total)
            for name, term in terms.items():
                sums[name] = sums.get(name, torch.zeros((), device=term.device)) + term.detach().float() / fit.accumulate
    return {name: float(accelerator.reduce(value, "mean")) for name, value in sums.items()}


def _clipped(parameters: Sequence[Tensor], fit: Fit, accelerator: Any) -> float:
    """Gather gradients from all processes, clip them together, and return the norm that they had."""
    if accelerator.num_processes > 1:
        _average(parameters, accelerator)
    return float(accelerator.clip_grad_norm_(parameters, fit.clip or math.inf))


def _average(parameters: Sequence[Tensor], accelerator: Any) -> None:
    """Replace each gradient by its mean over all processes, without a wrapper that would hide the model's attributes and hooks."""
    device = parameters[0].device
    holders = accelerator.reduce(torch.tensor([float(p.grad is not None) for p in parameters], device=device), "sum").tolist()
    for parameter, count in zip(parameters, holders, strict=True):
        if count:  # on other processes other parts of the model may have been used
            parameter.grad = accelerator.reduce(parameter.grad if parameter.grad is not None else torch.zeros_like(parameter), "mean")


def _accelerator(after: Any, fit: Fit) -> Any:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    device = next(after.model.parameters()).device
    precision = fit.precision
    if precision == "auto":
        precision = "bf16" if getattr(after, "mixed", False) and _computes_bf16(device) else "no"
    # accelerate keeps one precision for the life of a process; two runs in it, say of a small and a large model, may differ.
    AcceleratorState._reset_state()
    return Accelerator(cpu=device.type == "cpu", mixed_precision=precision)


def _computes_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in names)


def _measured(model: torch.nn.Module, watch: Watch, accelerator: Any) -> float:
    model.eval()
    with torch.no_grad(), accelerator.autocast():
        level = watch.measure()
    model.train()
    return level


def _set_rate(optimizer: torch.optim.Optimizer, fit: Fit, step: int) -> None:
    rise = min(1.0, (step + 1) / fit.warmup) if fit.warmup else 1.0
    fall = 1.0 - step / fit.steps if fit.schedule == "linear" else 1.0
    for group in optimizer.param_groups:
        group["lr"] = fit.lr * rise * fall


def _finite(numbers: Mapping[str, float], step: int) -> None:
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise Diverged(f"{name.replace('_', ' ')} is {value} at step {step}; lower fit.lr (or check the rows of that step), then run again")


def _identity(pools: Mapping[str, Sequence[Row]], fit: Fit, ctx: Context) -> str:
    """What must be equal for a checkpoint to belong to a run."""
    return digest.of_value([fit.model_dump(), ctx.seed, ctx.purpose, {name: digest.of_value([dict(r) for r in rows]) for name, rows in pools.items()}])


def _land(
    model: torch.nn.Module, trained: Mapping[str, Tensor], held: Mapping[str, Tensor], watch: Watch, accelerator: Any, level: float
) -> float:
    """Go back along the straight line to the last check, as far as the target still stands, and return the level there.

    Between two checks the loss may jump far beyond the target, and forgetting too much gives a row away as well.
    """
    if not held:
        return level
    reached = {name: p.detach().clone() for name, p in trained.items()}
    short, far = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (short + far) / 2
        _between(trained, held, reached, middle)
        if (here := _measured(model, watch, accelerator)) >= watch.target:
            far, level = middle, here
        else:
            short = middle
    _between(trained, held, reached, far)
    return level


@torch.no_grad()
def _between(trained: Mapping[str, Tensor], start: Mapping[str, Tensor], end: Mapping[str, Tensor], share: float) -> None:
    for name, parameter in trained.items():
        parameter.copy_(torch.lerp(start[name], end[name], share))


def _save(
    place: Path, model: torch.nn.Module, trained: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, held: Mapping[str, Tensor],
    at: tuple[int, str], ctx: Context,
) -> None:
    from safetensors.torch import save_file

    moments = {}
    for (name, parameter) in trained.items():
        for key, value in optimizer.state[parameter].items():
            if value is not None:  # sgd without momentum keeps an empty buffer
                moments[f"{name}|{key}"] = torch.as_tensor(value).contiguous()
    with files.whole_folder(place) as folder:
        save_file({name: p.detach().contiguous() for name, p in trained.items()}, folder / "weights.safetensors")
        # Running statistics of normalization are no parameters and move all the same.
        save_file({name: b.detach().clone().contiguous() for name, b in model.named_buffers()}, folder / "buffers.safetensors")
        save_file(moments, folder / "optimizer.safetensors")
        save_file(dict(held), folder / "held.safetensors")
        (folder / "state.json").write_text(json.dumps({"step": at[0], "identity": at[1], "curve": ctx.curve}))


def _resume(
    place: Path, model: torch.nn.Module, trained: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, identity: str, ctx: Context
) -> tuple[int, dict[str, Tensor]]:
    """Load a checkpoint of this very run; the step to go on with (0 when there is none) and the weights at the last check."""
    from safetensors.torch import load_file

    if not (place / "state.json").exists():
        return 0, {}
    state: Any = files.read_json(place / "state.json")
    if state["identity"] != identity:
        raise EffaceError(f"{place} belongs to a run of another system, model, rows, settings or seed; remove it or choose another --out")
    weights, moments = load_file(place / "weights.safetensors"), load_file(place / "optimizer.safetensors")
    buffers = load_file(place / "buffers.safetensors")
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
        for name, parameter in trained.items():
            parameter.copy_(weights[name])
            keys = [key for key in moments if key.startswith(f"{name}|")]
            optimizer.state[parameter] = {key.rpartition("|")[2]: moments[key].to(parameter.device) for key in keys}
            step = optimizer.state[parameter].get("step")
            if step is not None:
                optimizer.state[parameter]["step"] = step.cpu()
    ctx.curve[:] = state["curve"]
    ctx.note(resumed_at=float(state["step"]))
    device = next(iter(trained.values())).device
    return int(state["step"]), {name: tensor.to(device) for name, tensor in load_file(place / "held.safetensors").items()}
