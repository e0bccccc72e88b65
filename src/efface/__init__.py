"""efface makes a trained model forget, and tells the truth about how well it forgot.

The public names below are imported when they are first used; importing efface imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from efface.api import concept, forget, guard, load, prove, request, train, wrap
    from efface.core.context import Context
    from efface.core.errors import EffaceError
    from efface.core.types import Data, Measurement, Report, Request, Subject, Verdict

__version__ = "0.1.0"
__all__ = ["Context", "Data", "EffaceError", "Measurement", "Report", "Request", "Subject", "Verdict", "concept", "forget", "guard", "load", "prove", "request", "train", "wrap"]

_HOMES = {
    "efface.api": ("concept", "forget", "guard", "load", "prove", "request", "train", "wrap"),
    "efface.core.context": ("Context",),
    "efface.core.errors": ("EffaceError",),
    "efface.core.types": ("Data", "Measurement", "Report", "Request", "Subject", "Verdict"),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'efface' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
