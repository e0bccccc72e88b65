"""Regression: a small network that must forget all training rows whose target lies in a band (as in arXiv:2210.08196).

    digits     scikit-learn's digits, the digit itself as target; forget 0, 1 and 2
    diabetes   scikit-learn's 442 patients, disease progression after a year (25 to 346); forget up to 100, about the lowest third
    housing    house values from a file of yours, say scikit-learn's California housing; forget up to 1.2 (in 100,000 dollars)
    ages       face crops with ages from a .safetensors file of yours; forget ages up to 30

A file is read as efface reads all rows: CSV, JSON or JSON Lines with columns of numbers and a target, or .safetensors with
tensors x (rows, ...) and y (rows,). Where rows name an `identity`, nobody stands on both sides of the split into training
and test rows. Rows with one number after another go to a network with two hidden layers, pictures to a small CNN. Both
scale inputs and target by the kept rows' means and spreads, so nothing of a forget row enters by the scaling.

The references never saw the band. They do not guess there: they answer with what they know of the kept rows, so their error
on the forget rows is large, and the aim is to come near it, not to go beyond it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from efface.core import rows as row_files
from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import BadRows, Missing
from efface.core.types import Benchmark, Case, Data, Request, Row
from efface.families import checkpoint, tables
from efface.families.networks import MLP, SmallCNN, seeded
from efface.families.references import trained
from efface.families.regressor import Regressor

Name = Literal["digits", "diabetes", "housing", "ages"]
BANDS: Mapping[str, float] = {"digits": 2, "diabetes": 100, "housing": 1.2, "ages": 30}
"""Highest target that is forgotten, unless the settings say otherwise."""


class RegressionConfig(Config):
    """Settings of the regression benchmark."""

    data: Name = "digits"
    """Which rows; housing and ages need a file."""
    file: str = ""
    """File of rows, for housing and ages."""
    target: str = "y"
    """Column of the target, in a file of named columns."""
    low: float | None = None
    """Lowest target that is forgotten; no limit if not given."""
    high: float | None = None
    """Highest target that is forgotten; that of the data's own band if neither limit is given."""
    test: float = Field(0.28, gt=0, lt=1)
    """Share of the rows (or identities) that nobody trains on."""
    rows: int = Field(5000, ge=10)
    """Most rows to take, in an order that is the same on every machine."""
    measure: Literal["l1", "mse"] = "l1"
    """The task's loss: absolute or squared error."""
    fit: Fit = Fit(optimizer="adam", lr=1e-3, steps=1200, batch=64, clip=0, precision="no")
    """Optimizer settings of original and references."""


class Split(NamedTuple):
    """The rows. `unseen` is the band among the test rows, `test` the rest of them."""

    forget: list[Row]
    keep: list[Row]
    unseen: list[Row]
    test: list[Row]


class Estimator(nn.Module):
    """A network between two fixed scalings: inputs to mean 0 and spread 1, and its one output to the target's unit."""

    def __init__(
        self, shape: Sequence[int], hidden: Sequence[int] = (128, 64), center: Sequence[float] = (0.0,), spread: Sequence[float] = (1.0,),
        mean: float = 0.0, scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.register_buffer("center", torch.tensor(list(center)))
        self.register_buffer("spread", torch.tensor(list(spread)))
        self.register_buffer("output", torch.tensor([mean, scale]))
        self.body: nn.Module = MLP(shape[0], hidden, 1) if len(shape) == 1 else SmallCNN(shape[0] if len(shape) == 3 else 1, shape[-1], 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.body((x - self.center) / self.spread).squeeze(-1)  # type: ignore[operator]
        return out * self.output[1] + self.output[0]  # type: ignore[index, no-any-return]


class Regression(Benchmark[RegressionConfig]):
    """A network that estimates a number and must forget a band of it, with references that never saw the band."""

    card = Card(
        name="regression", title="Regression, a band of targets forgotten", paper="after arXiv:2210.08196", families=("regressor",),
        departs="small data that need no download; the paper's are AgeDB, IMDB-Wiki, STS-B and electricity",
    )

    def case(self, ctx: Context) -> Case:
        """Original, request and three references, each trained once on a machine. Raises Missing or BadRows for files that do not fit."""
        config = self.config
        parts = split(config)
        ask = request(parts, config)
        shape = _scaled(parts.keep)
        device = checkpoint.pick_device(ctx.device)

        def start(seed: int) -> Regressor:
            return Regressor(seeded(Estimator, seed, **shape).to(device), shape, config.measure)

        baselines = trained(start, ask, config.fit, ctx, f"regression/{config.measure}")
        return Case(
            name=f"regression/{config.data}", original=baselines["original"], request=ask, baselines=baselines,
            reference=f"the same network from the same start, trained on the {len(parts.keep)} rows whose target is not in the band",
            utility={"test rows": Data.inline(parts.test)},
        )


def split(config: RegressionConfig) -> Split:
    """The rows of the benchmark, parted by training and test, and by the band. BadRows when a part is empty."""
    found = _read(config)
    order = np.random.RandomState(0).permutation(len(found))[: config.rows]  # noqa: NPY002  its stream is frozen
    chosen = [found[place] for place in order]
    out = _held_out(chosen, config.test)
    low, high = band(config)
    parts = Split([], [], [], [])
    for row, test in zip(chosen, out, strict=True):
        parts[2 * test + (not low <= float(row["y"]) <= high)].append(row)  # type: ignore[arg-type]
    if empty := [name for name, rows in parts._asdict().items() if not rows]:
        targets = tables.values(chosen)
        raise BadRows(
            f"regression/{config.data}: no {' and no '.join(empty)} rows; the targets go from {targets.min():g} to {targets.max():g}, the band "
            f"from {low:g} to {high:g} (settings low, high, test)"
        )
    return parts


def band(config: RegressionConfig) -> tuple[float, float]:
    """Lowest and highest target that is forgotten."""
    if config.low is None and config.high is None:
        return float("-inf"), BANDS[config.data]
    return (float("-inf") if config.low is None else config.low), (float("inf") if config.high is None else config.high)


def request(parts: Split, config: RegressionConfig) -> Request:
    """The request: forget the band."""
    low, high = band(config)
    reason = f"targets from {low:g} to {high:g}" if np.isfinite(low) else f"targets up to {high:g}"
    return Request(forget=Data.inline(parts.forget), keep=Data.inline(parts.keep), unseen=Data.inline(parts.unseen), reason=reason)


def _read(config: RegressionConfig) -> list[Row]:
    if config.data in ("digits", "diabetes"):
        from sklearn.datasets import load_diabetes, load_digits

        x, y = (load_digits if config.data == "digits" else load_diabetes)(return_X_y=True)
        return [{"x": np.asarray(a, np.float32), "y": float(b)} for a, b in zip(x / 16 if config.data == "digits" else x, y, strict=True)]
    if not config.file:
        raise Missing(f"regression with data = {config.data} reads a file of yours: set file=PATH, a .csv or .safetensors file with x (or columns of numbers) and y")
    given = row_files.read(Path(config.file))
    if config.target != "y":
        if lacking := next((number for number, row in enumerate(given, start=1) if config.target not in row), 0):
            raise BadRows(f"{config.file}, row {lacking}: no column {config.target!r}; found {', '.join(map(str, given[lacking - 1]))} (setting target)")
        given = [{**{name: _cell(value) for name, value in row.items() if name not in (config.target, "y")}, "y": _cell(row[config.target])} for row in given]
    try:
        x, y = tables.inputs(given), tables.values(given)
    except BadRows as error:
        raise BadRows(f"{config.file}, {error}") from None
    if x.ndim > 2 and (x.ndim > 4 or x.shape[-1] != x.shape[-2]):
        raise BadRows(f"{config.file}: x has the shape {x.shape[1:]}; pictures must be (side, side) or (channels, side, side)")
    named = [{name: row[name] for name in row_files.NAMES if name in row} for row in given]
    return [{**names, "x": a, "y": float(b)} for names, a, b in zip(named, x, y, strict=True)]


def _cell(value: object) -> object:
    """A cell of a table without a column y, where all cells come as text: the number that it holds, if it holds one."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _held_out(rows: Sequence[Row], share: float) -> list[bool]:
    """Which rows are test rows: the last `share` of them, or, where all name an identity, all of the last identities."""
    if not all("identity" in row for row in rows):
        return [at >= round(len(rows) * (1 - share)) for at in range(len(rows))]
    people = list(dict.fromkeys(str(row["identity"]) for row in rows))
    held = set(people[round(len(people) * (1 - share)) :])
    return [str(row["identity"]) in held for row in rows]


def _scaled(keep: Sequence[Row]) -> dict[str, Any]:
    """Arguments of the network: the inputs' shape, and means and spreads over the kept rows (one of each for a whole picture)."""
    x, y = tables.inputs(keep).astype(float), tables.values(keep).astype(float)
    axes: Any = 0 if x.ndim == 2 else None
    center, spread = np.atleast_1d(x.mean(axes)), np.atleast_1d(x.std(axes))
    spread[spread < 1e-6] = 1.0  # a column that never changes says nothing
    return {
        "shape": [int(size) for size in x.shape[1:]], "center": center.round(6).tolist(), "spread": spread.round(6).tolist(),
        "mean": round(float(y.mean()), 6), "scale": round(max(float(y.std()), 1e-6), 6),
    }
