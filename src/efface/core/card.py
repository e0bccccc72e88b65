"""What a catalogue needs to know of a system, as literals that can be read without importing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["recipe", "finder", "method", "screen", "guard", "attack", "metric", "benchmark"]
Access = Literal["none", "outputs", "logits", "gradients", "weights"]
Technique = Literal["", "retraining", "parameter optimization", "relabeling", "parameter merging", "closed form", "pruning", "in-context", "filtering"]
Intent = Literal["", "remove", "suppress"]
Touch = Literal["weights", "adapter", "merge", "activations", "input", "logits", "output", "retrieval"]
Locality = Literal["", "all", "selected parameters", "selected layers", "one module", "none"]
Material = Literal["forget rows", "keep rows", "names", "reference model", "assistant model", "statistics"]
Sequence = Literal["", "independent", "accumulates", "refits"]
Guarantee = Literal["", "exact", "bounded", "empirical", "none"]

TAXONOMY = ("technique", "intent", "touches", "locality", "data", "operator", "sequence", "reversible", "guarantee")
"""Fields of a card that say what a method or guard does to the knowledge; each of them fills all of these in."""
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
    technique: Technique = ""
    """For methods and guards: how it is done (classes after the survey arXiv:2311.15766)."""
    intent: Intent = ""
    """For methods and guards: whether the knowledge should leave the weights, or only not show (the axis of SoK, arXiv:2506.09227)."""
    touches: tuple[Touch, ...] = ()
    """What of the system it changes."""
    locality: Locality = ""
    """How much of the weights it changes; "none" for what leaves them as they are."""
    data: tuple[Material, ...] = ()
    """What it must be given."""
    operator: Access = "none"
    """What of the model whoever runs it needs, in the same words as an adversary's access."""
    sequence: Sequence = ""
    """What further requests do: each is apart, effects add up, or everything is made anew."""
    reversible: bool | None = None
    """Whether the model before can be had back from what is served."""
    guarantee: Guarantee = ""
    """What is promised of the result: proof, bound, evidence, or nothing."""
    departs: str = ""
    """Where this differs from the paper or its code; "" means nowhere known."""
