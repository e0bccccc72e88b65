"""Classifiers: any torch module that maps a batch to logits, transformers' picture and text classifiers, scikit-learn's estimators.

A row is {"x": numbers in any fixed shape, "y": class number}; for a text model {"text": ..., "y": class number}. The torch
side trains and unlearns with gradients; the scikit-learn side predicts and is refitted from nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from efface.core.errors import BadRows, Unfit
from efface.core.types import Row
from efface.families import estimators, module_files, tables
from efface.families.estimators import EstimatorSubject
from efface.families.module import Batch, ModuleSubject, chunks


class Classifier(ModuleSubject):
    """A torch module (B, ...) -> logits (B, classes), or a transformers classifier with its tokenizer.

    `arguments` rebuild the module when it is loaded from a folder; a transformers model needs none.
    """

    family: ClassVar[str] = "classifier"

    def __init__(self, model: nn.Module, arguments: Mapping[str, object] | None = None, tokenizer: Any = None) -> None:
        super().__init__(model, arguments)
        self.tokenizer = tokenizer

    @property
    def classes(self) -> int | None:
        """Number of classes: of a transformers configuration, or outputs of the last linear module; None when neither tells."""
        named = getattr(getattr(self.model, "config", None), "num_labels", None)
        return int(named) if named else self.outputs

    def encode(self, rows: Sequence[Row], index: Sequence[int] | None = None) -> Batch:
        """The rows as one batch; BadRows names a row that does not fit."""
        place = torch.tensor(list(index) if index is not None else list(range(len(rows))))
        x: Any = self._tokens(rows) if self.tokenizer is not None else torch.from_numpy(tables.inputs(rows)).to(self.device)
        y = torch.from_numpy(tables.labels(rows, self.classes)).to(self.device)
        return Batch(x, y, place)

    def _tokens(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        for number, row in enumerate(rows, start=1):
            if not isinstance(row.get("text"), str) or not str(row["text"]).strip():
                raise BadRows(f"row {number}: found columns {', '.join(map(str, row)) or 'none'}; a text classifier's row needs text and y")
        if not rows:
            raise BadRows("no rows")
        found = self.tokenizer([str(row["text"]) for row in rows], padding=True, truncation=True, return_tensors="pt")
        return {name: tensor.to(self.device) for name, tensor in found.items()}

    def logits(self, batch: Batch) -> Tensor:
        """Logits (B, classes), differentiable."""
        return self.raw(batch)

    def losses(self, batch: Batch) -> Tensor:
        """Cross-entropy of each row (B,), in nats, differentiable."""
        return nn.functional.cross_entropy(self.logits(batch), batch.labels, reduction="none")

    @torch.no_grad()
    def predict(self, rows: Sequence[Row]) -> np.ndarray:
        """Class probabilities (rows, classes). Raises Unfit when the model gives a number that is not finite."""
        pieces = [self.logits(self.encode(piece)).float().softmax(-1).cpu().numpy() for piece in chunks(rows)]
        found = np.concatenate(pieces) if pieces else np.zeros((0, self.classes or 0))
        if not np.isfinite(found).all():
            bad = int(np.argwhere(~np.isfinite(found))[0][0]) + 1
            raise Unfit(f"the classifier gives a logit that is not finite (row {bad}); its weights are damaged or the inputs too large")
        return found

    def save(self, folder: Path) -> None:
        """A transformers folder, or model.safetensors and config.json, with the adapter folded in; Unfit when it could not be built again."""
        module_files.save(self, folder)


class SklearnClassifier(EstimatorSubject):
    """A fitted scikit-learn classifier (or a pipeline that ends in one). It has no gradients: it predicts and is refitted."""

    family: ClassVar[str] = "classifier"

    def __init__(self, estimator: Any, classes: int | None = None) -> None:
        self.estimator = estimator
        self.classes = classes or (int(max(estimator.classes_)) + 1 if hasattr(estimator, "classes_") else None)

    def predict(self, rows: Sequence[Row]) -> np.ndarray:
        """Class probabilities (rows, classes); a class that the estimator was never shown has 0."""
        if not hasattr(self.estimator, "predict_proba"):
            raise Unfit(f"{type(self.estimator).__name__} gives no probabilities; wrap it in CalibratedClassifierCV")
        if self.classes is None or not hasattr(self.estimator, "classes_"):
            raise Unfit(f"{type(self.estimator).__name__} is not fitted; fit it on class numbers first")
        tables.labels(rows, self.classes)
        x = tables.inputs(rows)
        found = np.zeros((len(x), self.classes))
        found[:, np.asarray(self.estimator.classes_, int)] = self.estimator.predict_proba(x.reshape(len(x), -1))
        return found

    def refit(self, rows: Sequence[Row], seed: int) -> SklearnClassifier:
        """A new subject: the same estimator and settings, fitted from nothing on these rows."""
        x, y = tables.inputs(rows), tables.labels(rows, self.classes)
        return SklearnClassifier(estimators.fresh(self.estimator, seed).fit(x.reshape(len(x), -1), y), self.classes)

    def save(self, folder: Path) -> None:
        """model.safetensors and config.json; Unfit for estimators whose fitted state is more than arrays and numbers."""
        module_files.save_estimator(self, folder, {"classes": self.classes})
