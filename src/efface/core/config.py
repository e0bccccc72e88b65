"""Settings of a system: frozen, typed, and strict about unknown names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from efface.core.errors import BadConfig, UnknownName

C = TypeVar("C", bound="Config")


class Config(BaseModel):
    """Base of every system's settings. Unknown names raise; values are checked; instances never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False)


class Fit(Config):
    """Optimizer settings, shared by every trained system."""

    lr: float = Field(1e-5, gt=0)
    """Peak learning rate."""
    steps: int = Field(100, ge=0)
    """Most optimizer steps, unless epochs says how many."""
    epochs: float = Field(0, ge=0)
    """Passes over the largest row set; above 0 it takes the place of steps."""
    batch: int = Field(8, ge=1)
    """Rows of each kind (forget, keep) in one optimizer step, over all processes."""
    accumulate: int = Field(1, ge=1)
    """Pieces in which a batch is computed, to save memory; the result does not change."""
    warmup: int = Field(0, ge=0)
    """Steps over which the learning rate rises from zero."""
    schedule: Literal["constant", "linear"] = "constant"
    """What the learning rate does after warm-up; linear falls to zero at the last step."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """Optimizer; adamw decays weights apart from the gradient, adam and sgd through it."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """Momentum of sgd."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay."""
    clip: float = Field(1.0, ge=0)
    """Largest gradient norm; 0 turns clipping off."""
    precision: Literal["auto", "no", "bf16"] = "auto"
    """Mixed precision; auto takes bf16 where the device computes in it and float32 elsewhere."""
    rank: int = Field(0, ge=0)
    """Rank of LoRA adapters on every linear layer; 0 trains all weights."""
    checkpoint: int = Field(0, ge=0)
    """Save a checkpoint every so many steps, to resume from after a kill; 0 saves none."""


class Stop(Config):
    """When a forgetting run has gone far enough."""

    at: Literal["reference", "unseen", "auto", "steps"] = "auto"
    """Level of loss on the forget rows to stop at: the retrained reference's, that of unseen rows, whichever there is, or none."""
    every: int = Field(4, ge=1)
    """Steps between two checks."""
    rows: int = Field(32, ge=1)
    """Most forget rows to measure at a check."""


def build(kind: type[C], settings: Mapping[str, object] | None = None) -> C:
    """Return `kind` with `settings`, where dotted names reach nested fields: {"fit.lr": 1e-4}.

    Raises UnknownName for a setting that does not exist and BadConfig for an impossible value, each naming the field.
    """
    tree: dict[str, object] = {}
    for name, value in (settings or {}).items():
        *path, leaf = name.split(".")
        _check_path(kind, name)
        node = tree
        for part in path:
            node = node.setdefault(part, {})  # type: ignore[assignment]
            if not isinstance(node, dict):
                raise BadConfig(f"setting {name!r} collides with {part!r}, which was given whole")
        begun = node.get(leaf)
        given = dict(value) if isinstance(value, Mapping) else value
        if isinstance(begun, dict):  # parts of the group came before the group itself
            if not isinstance(given, dict):
                raise BadConfig(f"setting {name!r} was given whole and in parts")
            given = {**begun, **given}
        node[leaf] = given
    try:
        return kind.model_validate(_over_defaults(kind, tree))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or kind.__name__
        if first["type"] == "extra_forbidden":
            raise UnknownName.among("setting", where, field_names(kind)) from None
        raise BadConfig(f"setting {where} = {first['input']!r}: {first['msg']}") from None


def field_names(kind: type[Config]) -> list[str]:
    """Dotted names of all settings of `kind`."""
    names: list[str] = []
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Config):
            names += [f"{name}.{inner}" for inner in field.annotation.model_fields]
        else:
            names.append(name)
    return names


def _check_path(kind: type[Config], name: str) -> None:
    head, _, rest = name.partition(".")
    field = kind.model_fields.get(head)
    if field is None:
        raise UnknownName.among("setting", name, field_names(kind))
    if rest:
        inner = field.annotation
        if not (isinstance(inner, type) and issubclass(inner, Config)) or rest not in inner.model_fields:
            raise UnknownName.among("setting", name, field_names(kind))


def _over_defaults(kind: type[Config], tree: Mapping[str, object]) -> dict[str, object]:
    """`tree`, with a nested group completed by this system's own defaults rather than by the group's."""
    whole = dict(tree)
    for name, value in tree.items():
        default = kind.model_fields[name].get_default(call_default_factory=True) if name in kind.model_fields else None
        if isinstance(default, Config) and isinstance(value, Mapping):
            # Who says how many steps means it, even where the default counts epochs.
            counted = {"epochs": 0.0} if isinstance(default, Fit) and "steps" in value else {}
            whole[name] = {**default.model_dump(), **counted, **value}
    return whole
