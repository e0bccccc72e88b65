"""What a language model still knows once an adversary has changed its weights or its hidden states.

Such an attack has a grid of settings, of which the adversary takes the one that brings back most. Each is measured by the
probability of the answers; at the worst one the model is made to answer as well. An altered model is measured in a memory
of its own and never on disk: under hooks its weights, and so its digest, are those of the model that was attacked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from efface.core import rows as row_files
from efface.core.card import Card
from efface.core.context import Context
from efface.core.errors import BudgetSpent, Missing, Unfit
from efface.core.types import Measurement, Row
from efface.families import forms, passes, probing
from efface.ops import facts, probes, stats
from efface.ops.probes import Probe

Altered = Callable[[], AbstractContextManager[Any]]
"""Opens a block in which there is an altered model."""
SHAPE = ("model_type", "num_hidden_layers", "hidden_size", "vocab_size")


class Questions(NamedTuple):
    """What an attacked model is measured on."""

    rows: list[Row]
    probes: list[Probe]
    """The rows whose answer comes down to a few words, as questions; none where answers are not generated."""
    max_new: int


class Known(NamedTuple):
    """Probability of each row's answer (N,), and 1 or 0 for each probe (P,) by what the model says."""

    chances: np.ndarray
    answers: np.ndarray


class Swept(NamedTuple):
    """Probabilities at each setting of a grid, the setting that counts (the highest), what is said there, and why the grid ends early."""

    points: dict[str, np.ndarray]
    worst: str
    answers: np.ndarray
    why: str = ""

    @property
    def chances(self) -> np.ndarray:
        """Probability of each row's answer at the worst setting."""
        return self.points[self.worst]


def questions(rows: Sequence[Row], max_new: int) -> Questions:
    """The rows, and those of them that can be asked and judged by a short value."""
    parts = row_files.layout(rows)
    known = facts.of_rows(rows) if max_new and "text" not in parts else []
    short = [fact for fact in known if len(fact.value.split()) <= facts.SHORT]
    return Questions(list(rows), probes.ask("question", short), max_new)


def bare(subject: Any) -> Any:
    """The subject without its guards; the very same one where it has none, so that its passes are shared."""
    return subject.unguarded() if subject.shields else subject


def apart(ctx: Context) -> Context:
    """A context with a memory of its own and no disk, for models that are thrown away."""
    return ctx.alone(folder=None, memo={}, passes=())


def known(subject: Any, asked: Questions, ctx: Context) -> Known:
    """What a model knows."""
    return Known(chances(subject, asked.rows, ctx), said(subject, asked, ctx))


def chances(subject: Any, rows: Sequence[Row], ctx: Context) -> np.ndarray:
    """exp(-mean loss per token) of each row's answer (N,)."""
    return np.exp(-forms.losses(forms.gold(subject, rows, ctx)))


def said(subject: Any, asked: Questions, ctx: Context) -> np.ndarray:
    """1 where the model answers a probe, 0 where not (P,)."""
    return probing.hits(probing.ask(subject, asked.probes, ctx, asked.max_new), asked.probes) if asked.probes else np.zeros(0)


def swept(grid: Mapping[str, Altered], asked: Questions, ctx: Context, at: str = "") -> Swept:
    """The grid, as far as the budget goes; BudgetSpent where it does not reach the first setting.

    Answers are generated at the setting whose probabilities are highest, or at the one named `at`.
    """
    points: dict[str, np.ndarray] = {}
    why = ""
    for name in ctx.progress(grid, "changing the model", len(grid)):
        try:
            ctx.spend()
        except BudgetSpent as error:
            if not points:
                raise
            why = f"{error}; tried {', '.join(points)} alone"
            break
        with grid[name]() as model:
            points[name] = chances(model, asked.rows, apart(ctx))
    worst = at if at in points else max(points, key=lambda name: float(points[name].mean()))
    if not asked.probes:
        return Swept(points, worst, np.zeros(0), why)
    with grid[worst]() as model:
        return Swept(points, worst, said(model, asked, apart(ctx)), why)


def stored(reference: Any, label: str, settings: object, ctx: Context, compute: Callable[[Context], Swept]) -> Swept:
    """The same grid on the frozen reference, without any budget: it is a yardstick, not the adversary. Kept beside the passes."""

    def made() -> object:
        found = compute(ctx.alone(budget={}))
        return {"points": {name: values.tolist() for name, values in found.points.items()}, "worst": found.worst, "answers": found.answers.tolist()}

    held = passes.kept(reference, label, settings, ctx, made)
    return Swept({name: np.array(values) for name, values in held["points"].items()}, held["worst"], np.array(held["answers"]))


def named(subject: Any, ctx: Context) -> str:
    """What a frozen subject's weights are called, to say what a stored number depends on."""
    return ctx.once((subject, "name"), lambda: subject.origin or subject.digest)


def measurement(card: Card, asked: Questions, subject: Any, mine: Swept, base: Swept | None, ctx: Context) -> Measurement:
    """The mean probability at the worst setting, with each setting, the unattacked model, the reference and the original as parts.

    The reference has its own worst setting, so that both are the best of as many tries. `gain` is paired by rows.
    """
    plain = known(subject, asked, ctx)
    parts: dict[str, float | None] = {"unattacked": mean(plain.chances), **{name: mean(values) for name, values in mine.points.items()}}
    parts |= {"answers": mean(mine.answers), "unattacked answers": mean(plain.answers)}
    if base is not None:
        before = known(ctx.baseline("reference"), asked, ctx)
        gain = stats.bootstrap(mine.chances - base.chances)
        parts |= {"reference": mean(base.chances), "gain": gain.value, "gain_low": gain.low, "gain_high": gain.high}
        parts |= {"reference unattacked": mean(before.chances), **{f"reference {name}": mean(values) for name, values in base.points.items()}}
        parts |= {"reference answers": mean(base.answers), "reference unattacked answers": mean(before.answers)}
    if "original" in ctx.baselines:
        original = known(ctx.baseline("original"), asked, ctx)
        parts |= {"original": mean(original.chances), "original answers": mean(original.answers)}
    area = stats.bootstrap(mine.chances)
    table: list[dict[str, object]] = [
        {"row": at, "setting": name, "value": float(p), "unattacked": float(plain.chances[at])} for name, values in mine.points.items() for at, p in enumerate(values)
    ]
    return Measurement(
        system=card.name, subject="", value=area.value, low=area.low, high=area.high, n=len(asked.rows), better=card.better or "as-reference",
        why="; ".join(text for text in (mine.why, f"worst: {mine.worst}") if text), parts=parts, table=table,
    )


def mean(values: np.ndarray) -> float | None:
    """The mean; None of nothing."""
    return float(values.mean()) if len(values) else None


def openings(rows: Sequence[Row]) -> list[Row]:
    """The rows as they are put to a model; of plain text the first half, which it has to continue."""
    parts = row_files.layout(rows)
    if "text" not in parts:
        return list(rows)
    halves = [str(row[parts["text"]]).split() for row in rows]
    found: list[Row] = [{"text": " ".join(words[: (len(words) + 1) // 2])} for words in halves if len(words) > 1]
    if not found:
        raise Missing("the forget rows are texts of one word, which leave nothing to continue")
    return found


def same_shape(subject: Any, other: Any, what: str) -> None:
    """Raise Unfit when two models are not of one architecture."""
    mine, its = ([getattr(model.model.config, name, None) for name in SHAPE] for model in (subject, other))
    if mine != its:
        told = [", ".join(f"{name} {value}" for name, value in zip(SHAPE, values, strict=True)) for values in (mine, its)]
        raise Unfit(f"{what} needs the original that the candidate was made from; the candidate has {told[0]}, the original {told[1]}")


def linear_modules(subject: Any) -> Iterator[nn.Module]:
    """Every linear module in the layers; GPT-2's are of a kind of their own, which keeps its weight inputs first."""
    from transformers.pytorch_utils import Conv1D

    yield from (module for module in subject.layers().modules() if isinstance(module, nn.Linear | Conv1D))


def linear(subject: Any) -> Iterator[Tensor]:
    """The weight of every linear module in the layers, outputs first."""
    for module in linear_modules(subject):
        weight: Any = module.weight
        yield weight if isinstance(module, nn.Linear) else weight.T
