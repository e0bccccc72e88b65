"""What a subject can do, as protocols that a card names by string."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from efface.core.errors import Unfit, UnknownName
from efface.core.rows import Row

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

    from efface.core.types import Request, Subject, System


@runtime_checkable
class Losses(Protocol):
    """A differentiable loss for each row of a batch."""

    def losses(self, batch: Any) -> Tensor: ...


@runtime_checkable
class SequenceLogProbs(Protocol):
    """Log-probability of the labeled tokens of each row, summed."""

    def sequence_log_probs(self, batch: Any) -> Tensor: ...


@runtime_checkable
class Score(Protocol):
    """One pass without gradients over text rows, with what every likelihood metric needs."""

    def score(self, rows: Sequence[Row]) -> Sequence[Any]: ...


@runtime_checkable
class Generate(Protocol):
    """Text for each prompt; passes through shields."""

    def generate(self, prompts: Sequence[Row], max_new: int = ...) -> list[str]: ...


@runtime_checkable
class Predict(Protocol):
    """Class probabilities (rows, classes) or values (rows,)."""

    def predict(self, rows: Sequence[Row]) -> Any: ...


@runtime_checkable
class Features(Protocol):
    """What the last linear module reads (rows, d), differentiable."""

    def features(self, batch: Any) -> Tensor: ...


@runtime_checkable
class Fresh(Protocol):
    """The same architecture with new random weights."""

    def fresh(self, seed: int) -> Subject: ...


@runtime_checkable
class Refit(Protocol):
    """Training from nothing on given rows, where the model brings its own."""

    def refit(self, rows: Sequence[Row], seed: int) -> Subject: ...


@runtime_checkable
class Weights(Protocol):
    """The parameters that play a role."""

    def weights(self, role: str) -> dict[str, Parameter]: ...


@runtime_checkable
class Activations(Protocol):
    """The output of a module, while the block lasts."""

    def tap(self, role: str, layer: int) -> AbstractContextManager[list[Tensor]]: ...


CAPABILITIES: dict[str, type] = {
    "losses": Losses,
    "sequence_log_probs": SequenceLogProbs,
    "score": Score,
    "generate": Generate,
    "predict": Predict,
    "features": Features,
    "fresh": Fresh,
    "refit": Refit,
    "weights": Weights,
    "activations": Activations,
}


def has(subject: Subject, capability: str) -> bool:
    """Whether the subject offers the capability."""
    if capability not in CAPABILITIES:
        raise UnknownName.among("capability", capability, CAPABILITIES)
    return isinstance(subject, CAPABILITIES[capability])


def check(system: System[Any], subject: Subject, request: Request) -> None:
    """Raise Unfit when the system cannot run on this subject and request, saying what is missing."""
    card = system.card
    if subject.family not in card.families:
        raise Unfit(f"{card.name} runs on {', '.join(card.families)}; this subject is a {subject.family}")
    for need in card.needs:
        if not has(subject, need):
            raise Unfit(f"{card.name} needs {need!r}, which this {subject.family} ({type(subject).__name__}) lacks")
    for use in card.uses:
        if use in ("forget", "keep", "unseen") and getattr(request, use) is None:
            raise Unfit(f"{card.name} reads {use!r} rows and the request has none; give them with --{use} FILE")
    if "names" in card.uses and not request.names:
        raise Unfit(f"{card.name} forgets a concept by its name and the request names none; give it with --concept")
