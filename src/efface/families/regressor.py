"""Regressors: any torch module with one output, and scikit-learn's estimators. A row is {"x": numbers, "y": target value}."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from efface.core.errors import Unfit
from efface.core.types import Row
from efface.families import estimators, module_files, tables
from efface.families.estimators import EstimatorSubject
from efface.families.module import Batch, ModuleSubject, chunks

Measure = Literal["l1", "mse"]


class Regressor(ModuleSubject):
    """A torch module (B, ...) -> (B,) or (B, 1). `measure` is the task's loss: absolute or squared error."""

    family: ClassVar[str] = "regressor"

    def __init__(self, model: nn.Module, arguments: Mapping[str, object] | None = None, measure: Measure = "mse") -> None:
        super().__init__(model, arguments)
        self.measure: Measure = measure

    def encode(self, rows: Sequence[Row], index: Sequence[int] | None = None) -> Batch:
        """The rows as one batch, targets as float32; BadRows names a row that does not fit."""
        place = torch.tensor(list(index) if index is not None else list(range(len(rows))))
        x, y = torch.from_numpy(tables.inputs(rows)), torch.from_numpy(tables.values(rows))
        return Batch(x.to(self.device), y.to(self.device), place)

    def estimates(self, batch: Batch) -> Tensor:
        """Estimated values (B,), differentiable."""
        out = self.raw(batch)
        if out.numel() != len(out):
            raise Unfit(f"a regressor gives one number a row; {type(self.model).__name__} gives the shape {tuple(out.shape)}")
        return out.reshape(len(out))

    def losses(self, batch: Batch) -> Tensor:
        """Absolute or squared error of each row (B,), differentiable."""
        return self.errors(self.estimates(batch), batch.labels)

    def errors(self, estimates: Tensor, targets: Tensor) -> Tensor:
        """The task's loss between estimates and any targets, row by row (B,)."""
        gap = estimates - targets
        return gap.abs() if self.measure == "l1" else gap**2

    @torch.no_grad()
    def predict(self, rows: Sequence[Row]) -> np.ndarray:
        """Estimated values (rows,). Raises Unfit when the model gives a number that is not finite."""
        pieces = [self.estimates(self.encode(piece)).float().cpu().numpy() for piece in chunks(rows)]
        found = np.concatenate(pieces) if pieces else np.zeros(0)
        if not np.isfinite(found).all():
            bad = int(np.argwhere(~np.isfinite(found))[0][0]) + 1
            raise Unfit(f"the regressor gives a value that is not finite (row {bad}); its weights are damaged or the inputs too large")
        return found

    def save(self, folder: Path) -> None:
        """model.safetensors and config.json; Unfit when the module could not be built again."""
        module_files.save(self, folder, {"measure": self.measure})


class SklearnRegressor(EstimatorSubject):
    """A fitted scikit-learn regressor (or a pipeline that ends in one). It predicts and is refitted."""

    family: ClassVar[str] = "regressor"

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def predict(self, rows: Sequence[Row]) -> np.ndarray:
        """Estimated values (rows,)."""
        tables.values(rows)
        x = tables.inputs(rows)
        return np.asarray(self.estimator.predict(x.reshape(len(x), -1)), dtype=float).reshape(len(x))

    def refit(self, rows: Sequence[Row], seed: int) -> SklearnRegressor:
        """A new subject: the same estimator and settings, fitted from nothing on these rows."""
        x, y = tables.inputs(rows), tables.values(rows)
        return SklearnRegressor(estimators.fresh(self.estimator, seed).fit(x.reshape(len(x), -1), y))

    def save(self, folder: Path) -> None:
        """model.safetensors and config.json; Unfit for estimators whose fitted state is more than arrays and numbers."""
        module_files.save_estimator(self, folder, {})
