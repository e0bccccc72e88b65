"""What a catalogue needs to know of a system, as literals that can be read without importing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["recipe", "finder", "method", "screen", "guard", "attack", "metric", "benchmark"]
Access = Literal["none", "outputs", "logits", "gradients", "weights"]

FOLDERS: dict[str, str] = {
    "recipe": "recipes",
    "finder": "finders",
    "method": "methods",
    "screen": "screens",
    "guard": "guards",
    "attack": "attacks",
    "metric": "metrics",
    "benchmark": "benchmarks",
}
"""Folder (and sub-package) of each kind of system."""


@dataclass(frozen=True)
class Card:
    """One system's entry in the catalogue; every field is a literal."""

    name: str
    """File stem of the system."""
    title: str
    """What it is called in words."""
    paper: str
    """Where it comes from: an arXiv number, a venue, or "" for folklore."""
    families: tuple[str, ...]
    """Model families it runs on."""
    needs: tuple[str, ...] = ()
    """Capabilities a subject must have, by name."""
    uses: tuple[str, ...] = ()
    """Request fields and baselines it reads."""
    made_by: str = ""
    """Recipe that must have trained the model; "" when any model will do."""
    access: Access = "none"
    """For attacks: what the adversary sees."""
    better: Literal["", "higher", "lower", "as-reference"] = ""
    """For metrics and attacks: which way is good; "as-reference" means neither more nor less than retraining gives."""
    extra: str = ""
    """Optional dependency group that must be installed."""
    departs: str = ""
    """Where this differs from the paper or its code; "" means nowhere known."""
