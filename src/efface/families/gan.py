"""Generators that draw a picture from a latent: the generator of a GAN, or any torch module that maps latents to pictures.

A row is one latent: {"seed": number}, from which a standard normal latent is drawn, or {"latent": numbers of the latent's shape}.
A generator with a submodule `mapping` draws in two stages, as StyleGAN does: latents -> styles -> pictures; in every other
one the styles are the latents themselves. Edits are added to the styles.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from efface.core.errors import BadRows, Unfit, UnknownName
from efface.core.types import Row, Subject
from efface.families import module_files
from efface.families.module import Batch
from efface.ops import fingerprint

CHUNK = 128
"""Pictures of one pass without gradients."""
ROLES = ("mapping", "synthesis")
"""What makes styles of latents, and all the rest, which makes pictures of styles."""


class Gan(Subject):
    """A generator under study.

    `latent` is the shape of one latent, `values` what the module gives for black and for white; `arguments` rebuild the module
    when it is loaded from a folder.
    """

    family: ClassVar[str] = "gan"
    adapted: ClassVar[bool] = False

    def __init__(
        self, model: nn.Module, latent: Sequence[int], arguments: Mapping[str, object] | None = None, values: tuple[float, float] = (-1.0, 1.0)
    ) -> None:
        if values[0] >= values[1]:
            raise Unfit(f"a generator's values go from black to white; found {values[0]:g} to {values[1]:g}")
        self.model, self.latent, self.values = model, tuple(int(size) for size in latent), (float(values[0]), float(values[1]))
        self.arguments = None if arguments is None else dict(arguments)
        self.model.eval()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    # -- from latents to pictures -------------------------------------------------------------------------------------------

    def latents(self, seeds: Sequence[int]) -> Tensor:
        """Standard normal latents (N, *latent), each a function of its seed alone."""
        drawn = [torch.randn(self.latent, generator=torch.Generator().manual_seed(int(seed) % 2**62)) for seed in seeds]
        return (torch.stack(drawn) if drawn else torch.zeros(0, *self.latent)).to(self.device)

    def styles(self, latents: Tensor) -> Tensor:
        """What the synthesis reads (N, ...): the mapping's output, or the latents where there is no mapping; differentiable."""
        mapping = getattr(self.model, "mapping", None)
        return latents if mapping is None else mapping(latents)

    def drawn(self, styles: Tensor) -> Tensor:
        """Pictures (N, 3, H, W) of styles, 0 black and 1 white, not clipped; differentiable. Unfit when the module gives something else."""
        synthesis = getattr(self.model, "synthesis", self.model) if hasattr(self.model, "mapping") else self.model
        raw = synthesis(styles)
        if not isinstance(raw, Tensor) or raw.ndim != 4 or raw.shape[1] not in (1, 3):
            found = tuple(raw.shape) if isinstance(raw, Tensor) else type(raw).__name__
            raise Unfit(f"{type(self.model).__name__} must give pictures (N, 3, H, W); found {found}")
        black, white = self.values
        return (raw.expand(-1, 3, -1, -1) - black) / (white - black)

    def sample(self, latents: Tensor) -> Tensor:
        """Pictures (N, 3, H, W) of latents, 0 black and 1 white, not clipped; differentiable. Raises BadRows for latents of another shape."""
        if tuple(latents.shape[1:]) != self.latent:
            raise BadRows(f"a latent of this generator has the shape {self.latent}; found {tuple(latents.shape[1:])}")
        return self.drawn(self.styles(latents))

    @torch.no_grad()
    def pictures(self, latents: Tensor) -> np.ndarray:
        """Pictures (N, H, W, 3), uint8, of latents."""
        pieces = [self.sample(latents[at : at + CHUNK]).clamp(0, 1) for at in range(0, len(latents), CHUNK)]
        if not pieces:
            return np.zeros((0, 1, 1, 3), np.uint8)
        return (torch.cat(pieces) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

    def generate(self, rows: Sequence[Row] | int, seeds: Sequence[int] | None = None) -> np.ndarray:
        """Pictures (N, H, W, 3), uint8, of rows or of so many seeds (0, 1, ...); passes through shields that steer.

        `seeds` win over a row's own "seed" and not over its "latent".
        """
        many: list[Any] = [{"seed": number} for number in range(rows)] if isinstance(rows, int) else [dict(row) for row in rows]
        if seeds is not None:
            if len(seeds) != len(many):
                raise BadRows(f"{len(many)} pictures and {len(seeds)} seeds were asked for; give one seed for each picture")
            many = [{**row, "seed": seed} for row, seed in zip(many, seeds, strict=True)]
        with ExitStack() as stack:
            for shield in self.shields:
                stack.enter_context(shield.steer(self))
            return self.pictures(self.encode(many).x)

    def encode(self, rows: Sequence[Row], index: Sequence[int] | None = None) -> Batch:
        """The rows' latents as one batch (its labels are zeros); BadRows names a row that does not fit."""
        found = [self._latent(number, row) for number, row in enumerate(rows, start=1)]
        place = torch.tensor(list(index) if index is not None else list(range(len(rows))))
        x = torch.stack(found).to(self.device) if found else self.latents([])
        return Batch(x, torch.zeros(len(rows), dtype=torch.long), place)

    def _latent(self, number: int, row: Row) -> Tensor:
        if row.get("latent") is not None:
            try:
                given = torch.as_tensor(np.asarray(row["latent"], dtype=np.float32))
            except (TypeError, ValueError):
                raise BadRows(f"row {number}: a latent is numbers of the shape {self.latent}") from None
            if tuple(given.shape) != self.latent:
                raise BadRows(f"row {number}: a latent of this generator has the shape {self.latent}; found {tuple(given.shape)}")
            return given
        try:
            return self.latents([int(str(row["seed"]))])[0].cpu()
        except (KeyError, ValueError):
            raise BadRows(f"row {number}: found columns {', '.join(map(str, row)) or 'none'}; a generator's row needs seed or latent") from None

    # -- weights ------------------------------------------------------------------------------------------------------------

    def names_of(self, role: str) -> list[str]:
        """Names of the parameters of "mapping" or "synthesis"; Unfit when the generator has none."""
        if role not in ROLES:
            raise UnknownName.among("role", role, ROLES)
        found = [name for name, _ in self.model.named_parameters() if name.startswith("mapping.") == (role == "mapping")]
        if not found:
            raise Unfit(f"{type(self.model).__name__} has no parameter for the role {role!r}")
        return found

    def weights(self, role: str) -> dict[str, nn.Parameter]:
        """{name: parameter} of a role."""
        named = dict(self.model.named_parameters())
        return {name: named[name] for name in self.names_of(role)}

    def fork(self, roles: tuple[str, ...] = ()) -> Self:
        """Own copy of all weights, or of the parameters of `roles` alone; the rest is shared."""
        return self._fork(None if not roles else {name for role in roles for name in self.names_of(role)})

    def trainable(self, names: Collection[str]) -> Self:
        """A fork in which exactly the parameters with these names are copied and require gradients."""
        if not names:
            raise Unfit("there is no parameter to train; name a role that this generator has")
        other = self._fork(set(names))
        for name, parameter in other.model.named_parameters():
            parameter.requires_grad_(name in names)
        return other

    def _fork(self, names: set[str] | None) -> Self:
        memo: dict[int, Any] = {}
        if names is not None:
            # A parameter that is shared must not lose or gain gradients with the fork, so it is a view of the same memory.
            memo = {id(p): nn.Parameter(p.detach(), requires_grad=False) for name, p in self.model.named_parameters() if name not in names}
        other = copy.copy(self)
        other.model = copy.deepcopy(self.model, memo)
        return other

    def fresh(self, seed: int) -> Self:
        """The same architecture with new random weights. Raises Unfit when the module cannot be built again."""
        other = copy.copy(self)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed % 2**62)
            other.model = module_files.rebuilt(self).to(self.device).eval().requires_grad_(True)
        other.lineage, other.origin = (), ""
        return other

    def save(self, folder: Path) -> None:
        """model.safetensors and config.json; Unfit when the module could not be built again."""
        module_files.save(self, folder, {"latent": list(self.latent), "values": list(self.values)})

    @property
    def digest(self) -> str:
        """SHA-256 over names, types, shapes and bytes of all parameters and buffers."""
        return fingerprint.of_weights(self.model.state_dict())
