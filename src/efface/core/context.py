"""Everything a run may touch besides its arguments: seed, folder, budget, baselines, log, progress, memory of what is frozen."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from efface.core.digest import seed_from
from efface.core.errors import BudgetSpent, Missing
from efface.core.types import Data, Subject

T = TypeVar("T")
log = logging.getLogger("efface")


def silent(items: Iterable[T], label: str, total: int) -> Iterator[T]:
    """Progress that shows nothing."""
    return iter(items)


@dataclass
class Context:
    """One per run. `memo` keeps what was computed once about frozen subjects; `curve` collects the training log."""

    seed: int = 0
    device: str = "auto"
    folder: Path | None = None
    budget: Mapping[str, float] = field(default_factory=dict)
    baselines: Mapping[str, Subject] = field(default_factory=dict)
    utility: Mapping[str, Data] = field(default_factory=dict)
    """Further row sets on which utility is measured."""
    sets: Mapping[str, Data] = field(default_factory=dict)
    """Further row sets by name that are no measure of utility: verbatim passages, ready-made probes."""
    progress: Callable[[Iterable[T], str, int], Iterator[T]] = silent  # type: ignore[valid-type]
    passes: tuple[Path, ...] = ()
    """Folders of stored passes over row sets; new ones are written into the first."""
    memo: dict[Hashable, object] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)
    notes: dict[str, float | str] = field(default_factory=dict)
    purpose: str = ""
    """Digest of what is being run on what; a checkpoint with another purpose is refused."""
    began: float = field(default_factory=time.monotonic)
    spent: dict[str, float] = field(default_factory=dict)

    def seed_for(self, *names: object) -> int:
        """A seed that depends on the run's seed and on `names` only."""
        return seed_from(self.seed, *names)

    def random(self, *names: object) -> random.Random:
        """A seeded generator for one purpose; global random state is never used."""
        return random.Random(self.seed_for(*names))

    def baseline(self, name: str) -> Subject:
        """The baseline ("original", "reference"); Missing when the run has none."""
        if name not in self.baselines:
            raise Missing(f"no {name} model was given; give one with --{name} MODEL")
        return self.baselines[name]

    def once(self, key: tuple[Hashable, ...], compute: Callable[[], T]) -> T:
        """The value for `key`, computed on the first call. Put the subject itself in the key, so that it stays alive."""
        if key not in self.memo:
            self.memo[key] = compute()
        return self.memo[key]  # type: ignore[return-value]

    def log(self, **numbers: float) -> None:
        """Add one line to the training log."""
        self.curve.append(dict(numbers))
        log.debug("%s", numbers)

    def note(self, **facts: float | str) -> None:
        """Say something of the run that belongs into its record."""
        self.notes.update(facts)

    def spend(self, **amounts: float) -> None:
        """Count queries or the like against the budget; BudgetSpent when it, or the allowed seconds, are used up."""
        for name, amount in amounts.items():
            self.spent[name] = self.spent.get(name, 0.0) + amount
        self.spent["seconds"] = time.monotonic() - self.began
        for name, limit in self.budget.items():
            if self.spent.get(name, 0.0) > limit:
                raise BudgetSpent(f"the budget of {limit:g} {name} is spent")

    def alone(self, **changes: object) -> Context:
        """A context of the same seed, memory and baselines, with its own log, budget and clock."""
        fresh = Context(
            seed=self.seed, device=self.device, folder=self.folder, budget=self.budget, baselines=self.baselines,
            utility=self.utility, sets=self.sets, progress=self.progress, passes=self.passes, memo=self.memo,
        )
        for name, value in changes.items():
            setattr(fresh, name, value)
        return fresh
