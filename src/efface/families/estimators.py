"""The fitted state of scikit-learn estimators: its digest, and its way into arrays and JSON and back, never a pickle."""

from __future__ import annotations

import copy
import hashlib
import importlib
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from efface.core.errors import Unfit, UnknownName
from efface.core.types import Subject

PASSING = ("_random_state", "_optimizer", "_sklearn_output_config", "_sklearn_version")
"""What a fit leaves behind that no prediction reads."""
PLAIN = (bool, int, float, str, type(None))


class EstimatorSubject(Subject):
    """A fitted estimator under study: it can be copied and named, and has no roles."""

    estimator: Any

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
        return digest(self.estimator)


def state_of(estimator: Any) -> dict[str, Any]:
    """What fitting gave the estimator: everything it holds besides its settings."""
    settings = estimator.get_params(deep=False) if hasattr(estimator, "get_params") else {}
    return {name: value for name, value in sorted(vars(estimator).items()) if name not in settings and name not in PASSING}


def digest(estimator: Any) -> str:
    """SHA-256 over names, types, shapes and bytes of the fitted state."""
    total = hashlib.sha256()
    _walk(state_of(estimator), type(estimator).__name__, total)
    return total.hexdigest()


def _walk(value: Any, name: str, total: Any) -> None:
    if isinstance(value, np.ndarray) and value.dtype.names:  # field by field, because what lies between fields is arbitrary
        for field in value.dtype.names:
            _walk(value[field], f"{name}.{field}", total)
    elif isinstance(value, np.ndarray | np.generic) and value.dtype != object:
        total.update(f"{name}|{value.dtype}|{value.shape}|".encode())
        total.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, PLAIN):
        total.update(f"{name}|{type(value).__name__}|{value!r}|".encode())
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            _walk(value[key], f"{name}.{key}", total)
    elif isinstance(value, list | tuple | np.ndarray):
        for place, item in enumerate(value):
            _walk(item, f"{name}.{place}", total)
    elif hasattr(value, "get_params"):
        _walk({**value.get_params(deep=False), **state_of(value)}, f"{name}:{type(value).__name__}", total)
    elif isinstance(value, type) or callable(value):
        total.update(f"{name}|{getattr(value, '__qualname__', type(value).__name__)}|".encode())
    else:
        _walk(_inside(value, name), f"{name}:{type(value).__name__}", total)


def _inside(value: Any, name: str) -> Any:
    """The state of an object that is no estimator, such as a grown tree."""
    if hasattr(value, "__dict__"):
        return {key: inner for key, inner in vars(value).items() if key not in PASSING}
    try:
        found = value.__getstate__()
    except TypeError:
        found = None
    if found is None:
        raise Unfit(f"{name} is a {type(value).__name__}, whose state cannot be read; efface cannot digest this estimator")
    return found


def is_plain(value: object) -> bool:
    """Whether the value survives JSON unchanged, but for tuples, which become lists."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and is_plain(inner) for key, inner in value.items())
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return isinstance(value, PLAIN)


def pack(value: Any, tensors: dict[str, np.ndarray], name: str = "") -> Any:
    """The value as JSON, with its arrays moved into `tensors`; Unfit where it holds anything but arrays, numbers and texts."""
    if isinstance(value, np.generic):  # before PLAIN: numpy's float64 is a float too
        return pack(np.asarray(value), tensors, name) | {"scalar": True}
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind == "U":
        return {"texts": value.tolist()}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:
        tensors[name] = np.array(value, order="C")
        return {"array": name}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [pack(item, tensors, f"{name}.{place}") for place, item in enumerate(value)]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: pack(item, tensors, f"{name}.{key}") for key, item in value.items()}}
    kind = f"{type(value).__module__}:{type(value).__qualname__}"
    if _class(kind) is type(value):
        groups = {"settings": value.get_params(deep=False), "state": state_of(value)}
        return {"estimator": kind} | {
            group: {key: pack(item, tensors, f"{name}/{key}") for key, item in held.items()} for group, held in groups.items()
        }
    raise Unfit(f"{name.lstrip('/') or 'the estimator'} is a {type(value).__name__}; only scikit-learn estimators made of arrays, numbers and texts can be saved")


def unpack(tree: Any, tensors: Mapping[str, np.ndarray]) -> Any:
    """What `pack` was given. Only classes of scikit-learn are ever built."""
    if isinstance(tree, PLAIN):
        return tree
    if not isinstance(tree, dict):
        raise Unfit(f"the estimator's record holds {type(tree).__name__} where a value was expected")
    if "array" in tree:
        found = tensors[tree["array"]]
        return found[()] if tree.get("scalar") else found
    if "texts" in tree:
        return np.array(tree["texts"])[()] if tree.get("scalar") else np.array(tree["texts"])
    if "list" in tree or "tuple" in tree:
        items = [unpack(item, tensors) for item in tree["list" if "list" in tree else "tuple"]]
        return items if "list" in tree else tuple(items)
    if "dict" in tree:
        return {key: unpack(item, tensors) for key, item in tree["dict"].items()}
    kind = _class(str(tree.get("estimator")))
    if kind is None:
        raise Unfit(f"{tree.get('estimator')!r} is not an estimator of scikit-learn")
    estimator = kind(**{key: unpack(item, tensors) for key, item in tree["settings"].items()})
    for key, item in tree["state"].items():
        setattr(estimator, key, unpack(item, tensors))
    return estimator


def _class(kind: str) -> Any:
    """The scikit-learn estimator class named "module:Class"; None for anything else."""
    from sklearn.base import BaseEstimator

    place, _, name = kind.partition(":")
    if place.split(".")[0] != "sklearn":
        return None
    try:
        found = getattr(importlib.import_module(place), name)
    except (ImportError, AttributeError):
        return None
    return found if isinstance(found, type) and issubclass(found, BaseEstimator) else None


def fresh(estimator: Any, seed: int) -> Any:
    """The same estimator and settings, not fitted, every random_state in it set from `seed`."""
    from sklearn.base import clone

    other = clone(estimator)
    return other.set_params(**{name: seed % 2**32 for name in other.get_params() if name.split("__")[-1] == "random_state"})
