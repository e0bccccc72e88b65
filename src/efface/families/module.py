"""What classifiers and regressors share: a torch module with roles, taps, copies, adapters and a digest."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from efface.core.errors import Unfit, UnknownName
from efface.core.types import Row, Subject
from efface.ops import fingerprint

ROLES = ("head", "layer")
"""The last linear module, and all linear and convolutional modules in order."""
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
CHUNK = 1024
"""Rows of one pass without gradients."""


@dataclass(frozen=True)
class Batch:
    """Encoded rows. `x` is a tensor (B, ...), or a text model's arguments by name."""

    x: Any
    labels: Tensor  # (B,) class numbers, or target values
    index: Tensor  # (B,) position of each row in its pool


class ModuleSubject(Subject):
    """A torch module under study. `arguments` rebuild it when it is loaded from a folder."""

    def __init__(self, model: nn.Module, arguments: Mapping[str, object] | None = None) -> None:
        self.model, self.arguments = model, None if arguments is None else dict(arguments)
        self.model.eval()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def outputs(self) -> int | None:
        """Number of outputs as the last linear module tells it; None when there is none."""
        stack = self._layers()
        return int(bare(stack[-1]).out_features) if stack and hasattr(bare(stack[-1]), "out_features") else None

    def raw(self, batch: Batch) -> Tensor:
        """What the module gives for a batch (B, outputs), differentiable."""
        given = self.model(**batch.x) if isinstance(batch.x, Mapping) else self.model(batch.x)
        return getattr(given, "logits", given)  # type: ignore[no-any-return]

    def features(self, batch: Batch) -> Tensor:
        """What the head reads (B, d), differentiable; Unfit when there is no head."""
        return self.features_and_raw(batch)[0]

    def features_and_raw(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the head reads (B, d) and what the module gives (B, outputs), in one pass."""
        caught: list[Tensor] = []
        handle = self.modules_of("head")[-1].register_forward_pre_hook(lambda module, given: caught.append(given[0]))
        try:
            out = self.raw(batch)
        finally:
            handle.remove()
        return caught[-1].flatten(1), out

    @property
    def adapted(self) -> bool:
        """Whether the module carries a peft adapter."""
        return hasattr(self.model, "peft_config")

    def _layers(self) -> list[nn.Module]:
        """Linear and convolutional modules in order; one under an adapter counts once, with its adapter."""
        inner: set[int] = {id(part) for module in self.model.modules() if hasattr(module, "base_layer") for part in module.modules() if part is not module}
        return [module for module in self.model.modules() if id(module) not in inner and isinstance(bare(module), LAYERS)]

    def modules_of(self, role: str) -> list[nn.Module]:
        """The modules that play `role`, in order; Unfit when the module has none."""
        if role not in ROLES:
            raise UnknownName.among("role", role, ROLES)
        found = [module for module in self._layers() if role == "layer" or isinstance(bare(module), nn.Linear)]
        if not found:
            raise Unfit(f"{type(self.model).__name__} has no module for the role {role!r}")
        return found if role == "layer" else found[-1:]

    def weights(self, role: str) -> dict[str, nn.Parameter]:
        """{name: weight} of the modules that play `role`."""
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        return {names[id(weight)]: weight for weight in (bare(module).weight for module in self.modules_of(role))}

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

    @contextmanager
    def taps(self, role: str) -> Iterator[list[list[Tensor]]]:
        """One list for each module of `role`, in order, that receives its outputs."""
        with ExitStack() as stack:
            yield [stack.enter_context(self.tap(role, at)) for at in range(len(self.modules_of(role)))]

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
            raise Unfit(f"this {self.family} has an adapter already; merge it, or train all weights (fit.rank = 0)")
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

    def fresh(self, seed: int) -> Self:
        """The same architecture with new random weights, every parameter trainable.

        Raises Unfit when a module with own parameters cannot draw them anew (it has no reset_parameters) and the class
        cannot be built again from `arguments` or a transformers configuration.
        """
        from efface.families.module_files import rebuilt

        other = copy.copy(self)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed % 2**62)
            other.model = rebuilt(self).to(self.device).eval().requires_grad_(True)
        other.lineage, other.origin = (), ""
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
        return fingerprint.of_weights(self.model.state_dict())


def bare(module: nn.Module) -> Any:
    """The module itself, or the one under an adapter."""
    return getattr(module, "base_layer", module)


def chunks(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """The rows in pieces of one pass each."""
    for at in range(0, len(rows), CHUNK):
        yield rows[at : at + CHUNK]
