"""Settings that make a run of any system short."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from efface.core.config import field_names
from efface.core.errors import BadConfig

QUICK: Mapping[str, object] = {
    "fit.steps": 2, "fit.epochs": 0, "fit.batch": 4, "fit.precision": "no", "stop.at": "steps", "max_new": 4,
    "times": 2, "iterations": 2, "generations": 2, "population": 6, "pictures": 2, "plain": 2, "sampling_steps": 2, "paths": 2, "trajectories": 2, "attack.steps": 2, "warm_up": 1, "look": 1, "steps": 2,
}
"""Settings that make a run short, where a system has them."""


def settings(system: Any) -> dict[str, object]:
    """Those of the quick settings that a system has and takes: a name may stand for another thing here and there."""
    return {name: QUICK[name] for name in field_names(system.Config) if name in QUICK and _takes(system, name)}


def _takes(system: Any, name: str) -> bool:
    with contextlib.suppress(BadConfig):
        return bool(system.set({name: QUICK[name]}))
    return False
