"""Classifiers: any torch module that maps a batch to logits, and scikit-learn's estimators.

A row is {"x": numbers in any fixed shape, "y": class number}. The torch side trains and unlearns with gradients; the
scikit-learn side predicts and is refitted from nothing.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from efface.core import files
from efface.core.errors import BadRows, EffaceError, Missing, Unfit, UnknownName
from efface.core.types import Row, Subject
from efface.families import estimators
from efface.families.checkpoint import PICKLES, pick_device

ROLES = ("head", "layer")
"""The last linear module, and all linear and convolutional modules in order."""
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
CHUNK = 1024
"""Rows of one pass without gradients."""


@dataclass(frozen=True)
class Batch:
    """Encoded rows."""

    x: Tensor  # (B, ...)
    labels: Tensor  # (B,)
    index: Tensor  # (B,) position of each row in its pool


class MLP(nn.Module):
    """A plain network of linear layers with ReLU between them; gives logits."""

    def __init__(self, inputs: int = 64, hidden: Sequence[int] = (128, 64), outputs: int = 10) -> None:
        super().__init__()
        sizes = [inputs, *hidden, outputs]
        parts: list[nn.Module] = []
        for a, b in zip(sizes, sizes[1:], strict=False):
            parts += [nn.Linear(a, b), nn.ReLU()]
        self.stack = nn.Sequential(*parts[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.stack(x.flatten(1))  # type: ignore[no-any-return]


class Classifier(Subject):
    """A torch module (B, ...) -> logits (B, classes). `arguments` rebuild the module when it is loaded from a folder."""

    family: ClassVar[str] = "classifier"

    def __init__(self, model: nn.Module, arguments: Mapping[str, object] | None = None) -> None:
        self.model, self.arguments = model, None if arguments is None else dict(arguments)
        self.model.eval()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def classes(self) -> int | None:
        """Number of classes as the last linear module tells it; None when there is none."""
        stack = self._layers()
        return int(_bare(stack[-1]).out_features) if stack and hasattr(_bare(stack[-1]), "out_features") else None

    def encode(self, rows: Sequence[Row], index: Sequence[int] | None = None) -> Batch:
        """The rows as one batch; BadRows names a row that does not fit."""
        x, y = arrays(rows, self.classes)
        place = torch.tensor(list(index) if index is not None else list(range(len(rows))))
        return Batch(torch.from_numpy(x).to(self.device), torch.from_numpy(y).to(self.device), place)

    def logits(self, batch: Batch) -> Tensor:
        """Logits (B, classes), differentiable."""
        return self.model(batch.x)  # type: ignore[no-any-return]

    def losses(self, batch: Batch) -> Tensor:
        """Cross-entropy of each row (B,), in nats, differentiable."""
        return nn.functional.cross_entropy(self.logits(batch), batch.labels, reduction="none")

    @torch.no_grad()
    def predict(self, rows: Sequence[Row]) -> np.ndarray:
        """Class probabilities (rows, classes)."""
        pieces = [self.logits(self.encode(rows[at : at + CHUNK])).float().softmax(-1).cpu().numpy() for at in range(0, len(rows), CHUNK)]
        return np.concatenate(pieces) if pieces else np.zeros((0, self.classes or 0))

    @property
    def adapted(self) -> bool:
        """Whether the module carries a peft adapter."""
        return hasattr(self.model, "peft_config")

    def _layers(self) -> list[nn.Module]:
        """Linear and convolutional modules in order; one under an adapter counts once, with its adapter."""
        inner: set[int] = {id(part) for module in self.model.modules() if hasattr(module, "base_layer") for part in module.modules() if part is not module}
        return [module for module in self.model.modules() if id(module) not in inner and isinstance(_bare(module), LAYERS)]

    def modules_of(self, role: str) -> list[nn.Module]:
        """The modules that play `role`, in order; Unfit when the module has none."""
        if role not in ROLES:
            raise UnknownName.among("role", role, ROLES)
        found = [module for module in self._layers() if role == "layer" or isinstance(_bare(module), nn.Linear)]
        if not found:
            raise Unfit(f"{type(self.model).__name__} has no module for the role {role!r}")
        return found if role == "layer" else found[-1:]

    def weights(self, role: str) -> dict[str, nn.Parameter]:
        """{name: weight} of the modules that play `role`."""
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        return {names[id(weight)]: weight for weight in (_bare(module).weight for module in self.modules_of(role))}

    @contextmanager
    def tap(self, role: str, layer: int = -1) -> Iterator[list[Tensor]]:
        """A list that receives the output of one module of `role` at each forward pass."""
        stack = self.modules_of(role)
        if not -len(stack) <= layer < len(stack):
            raise UnknownName(f"layer {layer} asked, and {len(stack)} modules play the role {role!r}")
        caught: list[Tensor] = []
        handle = stack[layer].register_forward_hook(lambda module, given, out: caught.append(out))
        try:
            yield caught
        finally:
            handle.remove()

    def fork(self, roles: tuple[str, ...] = ()) -> Self:
        """Own copy of all weights, or of those of `roles` alone; the rest is shared."""
        memo: dict[int, Any] = {}
        if roles:
            own = {id(parameter) for role in roles for parameter in self.weights(role).values()}
            memo = {id(tensor): tensor for tensor in (*self.model.parameters(), *self.model.buffers()) if id(tensor) not in own}
        other = copy.copy(self)
        other.model = copy.deepcopy(self.model, memo)
        return other

    def trainable(self, rank: int, seed: int) -> Self:
        """A fork ready to train: all weights (rank 0), or a LoRA adapter on every layer over shared weights."""
        if rank == 0:
            other = self.merged()
            other.model.requires_grad_(True)
            return other
        if self.adapted:
            raise Unfit("this classifier has an adapter already; merge it, or train all weights (fit.rank = 0)")
        names = [name for name, module in self.model.named_modules() if isinstance(module, LAYERS)]
        if not names:
            raise Unfit(f"{type(self.model).__name__} has no linear or convolutional layer for an adapter; train all weights (fit.rank = 0)")
        from peft import LoraConfig, get_peft_model

        other = copy.copy(self)
        skeleton: Any = copy.deepcopy(self.model, {id(t): t for t in (*self.model.parameters(), *self.model.buffers())})
        # The adapter's first matrix is drawn from global random state; it is set for the draw and put back.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            other.model = get_peft_model(skeleton, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names))
        return other

    def merged(self) -> Self:
        """The same function with the adapter folded into own weights; a fork where there is no adapter."""
        other = self.fork()
        if self.adapted:
            other.model = other.model.merge_and_unload()  # type: ignore[operator]
            other.model.requires_grad_(False)
        return other

    @property
    def digest(self) -> str:
        """SHA-256 over names, types, shapes and bytes of all parameters and buffers."""
        total = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return total.hexdigest()

    def save(self, folder: Path) -> None:
        """model.safetensors and config.json, with the adapter folded in; Unfit when the module could not be built again."""
        from safetensors.torch import save_model

        whole = self.merged() if self.adapted else self
        arch = f"{type(whole.model).__module__}:{type(whole.model).__qualname__}"
        if self.arguments is None:
            raise Unfit(f"to save this classifier, efface must know how to build {arch}: give Classifier(model, arguments={{...}})")
        if _class(arch) is not type(whole.model):
            raise Unfit(f"{arch} cannot be imported, so the saved model could not be loaded; move the class into a module")
        if not estimators.is_plain(self.arguments):
            raise Unfit(f"the arguments of {arch} must be numbers, texts, lists or mappings to be saved; found {self.arguments!r}")
        save_model(whole.model, str(folder / "model.safetensors"))
        files.write_json(folder / "config.json", {"family": "classifier", "arch": arch, "arguments": self.arguments})


class SklearnClassifier(Subject):
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
        x, _ = arrays(rows, self.classes)
        found = np.zeros((len(x), self.classes))
        found[:, np.asarray(self.estimator.classes_, int)] = self.estimator.predict_proba(x.reshape(len(x), -1))
        return found

    def refit(self, rows: Sequence[Row], seed: int) -> SklearnClassifier:
        """A new subject: the same estimator and settings, fitted from nothing on these rows."""
        from sklearn.base import clone

        fresh = clone(self.estimator)
        seeds = {name: seed % 2**32 for name in fresh.get_params() if name.split("__")[-1] == "random_state"}
        x, y = arrays(rows, self.classes)
        return SklearnClassifier(fresh.set_params(**seeds).fit(x.reshape(len(x), -1), y), self.classes)

    def fork(self, roles: tuple[str, ...] = ()) -> Self:
        """A copy of the estimator; it has no roles."""
        if roles:
            raise UnknownName.among("role", roles[0], ())
        other = copy.copy(self)
        other.estimator = copy.deepcopy(self.estimator)
        return other

    @property
    def digest(self) -> str:
        """SHA-256 over the fitted state: names, types, shapes and bytes."""
        return estimators.digest(self.estimator)

    def save(self, folder: Path) -> None:
        """model.safetensors and config.json; Unfit for estimators whose fitted state is more than arrays and numbers."""
        from safetensors.numpy import save_file

        tensors: dict[str, np.ndarray] = {}
        tree = estimators.pack(self.estimator, tensors)
        save_file(tensors, folder / "model.safetensors")
        kind = type(self.estimator)
        files.write_json(
            folder / "config.json",
            {"family": "classifier", "arch": f"{kind.__module__}:{kind.__qualname__}", "estimator": tree, "classes": self.classes},
        )


def load(name: str | Path, device: str = "auto") -> Classifier | SklearnClassifier:
    """The classifier in a folder that `save` wrote. Pickles are refused: reading one runs its code."""
    folder = Path(name)
    if folder.suffix in (*PICKLES, ".joblib", ".pickle"):
        raise EffaceError(f"{name} is a pickle, which can run code when read; save the model with efface's Classifier.save (safetensors)")
    if not folder.is_dir():
        raise Missing(f"no folder {name}; give the folder that holds config.json and model.safetensors")
    config, weights = files.read_json(folder / "config.json"), folder / "model.safetensors"
    if not isinstance(config, dict) or config.get("family") != "classifier":
        raise Unfit(f"{folder / 'config.json'} does not describe a classifier")
    if not weights.exists():
        raise Missing(f"{folder} holds no model.safetensors")
    try:
        if "estimator" in config:
            from safetensors.numpy import load_file

            return SklearnClassifier(estimators.unpack(config["estimator"], load_file(weights)), config.get("classes"))
        from safetensors.torch import load_model

        kind, arguments = _class(str(config.get("arch"))), config.get("arguments")
        if kind is None:
            raise Missing(f"{folder}: no torch module {config.get('arch')!r} can be imported; install the package that defines it")
        model = kind(**arguments) if isinstance(arguments, dict) else kind()
        load_model(model, weights)
    except EffaceError:
        raise
    except Exception as error:  # noqa: BLE001  a damaged file or a foreign class may raise anything
        raise EffaceError(f"{folder} does not load: {str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}") from None
    model.requires_grad_(False)
    return Classifier(model.to(pick_device(device)), arguments)


def arrays(rows: Sequence[Row], classes: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (rows, ...) as float32 and class numbers (rows,); BadRows names the first row that does not fit."""
    inputs: list[np.ndarray] = []
    for number, row in enumerate(rows, start=1):
        if "x" not in row or "y" not in row:
            raise BadRows(f"row {number}: found columns {', '.join(map(str, row)) or 'none'}; a classifier's row needs x (numbers) and y (class number)")
        y = row["y"]
        if isinstance(y, bool) or not isinstance(y, int | np.integer) or y < 0 or (classes is not None and y >= classes):
            raise BadRows(f"row {number}: y = {y!r}; it must be a class number {f'below {classes}' if classes else 'from 0 on'}")
        try:
            x = np.asarray(row["x"], dtype=np.float32)
        except (TypeError, ValueError):
            raise BadRows(f"row {number}: x is not an array of numbers") from None
        if not x.size or not np.isfinite(x).all():
            raise BadRows(f"row {number}: x is empty or holds a number that is not finite")
        if inputs and x.shape != inputs[0].shape:
            raise BadRows(f"row {number}: x has the shape {x.shape}, and row 1 has {inputs[0].shape}")
        inputs.append(x)
    if not inputs:
        raise BadRows("no rows")
    return np.stack(inputs), np.array([int(row["y"]) for row in rows])  # type: ignore[call-overload]


def _bare(module: nn.Module) -> Any:
    """The module itself, or the one under an adapter."""
    return getattr(module, "base_layer", module)


def _class(arch: str) -> type[nn.Module] | None:
    """The torch module class named "module:Class"; None when there is none. Nothing else is ever called."""
    place, _, name = arch.partition(":")
    try:
        found: Any = importlib.import_module(place)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError):
        return None
    return found if isinstance(found, type) and issubclass(found, nn.Module) else None
