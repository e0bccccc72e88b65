"""What the tests of the forgetting methods share: short runs, plain recomputations, and counters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from efface.core import registry
from efface.core.context import Context
from efface.families.causal_lm import CausalLM
from efface.ops.logprobs import IGNORE
from efface.ops.loop import draw, mean_loss
from efface.testing.tiny import Facts, context, facts, tiny_lm, trained_lm

QUICK = {"fit.lr": 1e-3, "fit.batch": 8, "fit.precision": "no", "stop.every": 2}
FACTS = facts()


@pytest.fixture(scope="session")
def the_facts() -> Facts:
    return FACTS


@pytest.fixture(scope="session")
def forget() -> Callable[..., tuple[Any, Context]]:
    """Run a method on the model that knows the facts (or on another subject); the result and the context of the run.

    Several tests ask for the same run; it is made once, unless something is said about its context.
    """
    made: dict[tuple[object, ...], tuple[Any, Context]] = {}

    def run(name: str, settings: dict[str, object] | None = None, subject: Any = None, **changes: Any) -> tuple[Any, Context]:
        asked = (name, repr(sorted((settings or {}).items())), subject)
        if changes or asked not in made:
            ctx = context(**changes)
            system = registry.load("method", name).set({**QUICK, **(settings or {})})
            made[asked] = system.run(subject if subject is not None else trained_lm(), FACTS.request, ctx), ctx
        return made[asked]

    return run


@pytest.fixture(scope="session")
def losses() -> Callable[[Any], dict[str, float]]:
    """Mean loss of a language model on the facts to forget, to keep, and never seen."""
    return lambda subject: {part: mean_loss(subject, getattr(FACTS, part)) for part in ("forget", "keep", "unseen")}


@pytest.fixture(scope="session")
def uniform() -> CausalLM:
    """A model that gives every token the probability 1 / V, because its head is zero."""
    subject = tiny_lm().fork()
    with torch.no_grad():
        subject.model.get_output_embeddings().weight.zero_()
    return subject


@pytest.fixture(scope="session")
def plain() -> Callable[[Any, Any], list[float]]:
    """Log-probability of each answer token, by a loop over one row without padding, in double precision."""

    @torch.no_grad()
    def each(subject: Any, row: Any) -> list[float]:
        encoded = subject.encode_row(row)
        logits = subject.model(torch.tensor([[*encoded.prompt, *encoded.answer]])).logits[0].double()
        chances = logits.exp() / logits.exp().sum(-1, keepdim=True)
        return [float(chances[len(encoded.prompt) + at - 1, token].log()) for at, token in enumerate(encoded.answer)]

    return each


@pytest.fixture(scope="session")
def second_step(forget: Any) -> Callable[..., tuple[Any, dict[str, list[int]], dict[str, float]]]:
    """The model after one step, positions of the rows that the second step draws from each pool, and what that step logged."""

    def run(name: str, settings: dict[str, object], sizes: dict[str, int]) -> tuple[Any, dict[str, list[int]], dict[str, float]]:
        short = {"fit.batch": 4, "stop.at": "steps", "fit.lr": 3e-3, **settings}
        one, ctx = forget(name, {**short, "fit.steps": 1})
        drawn = {pool: draw(size, 4, 1, ctx.seed_for("rows", pool)) for pool, size in sizes.items()}
        return one, drawn, forget(name, {**short, "fit.steps": 2})[1].curve[1]

    return run


@pytest.fixture(scope="session")
def padded() -> Callable[[Any, int], Any]:
    """A batch with more padding on the right."""

    def pad(batch: Any, count: int) -> Any:
        def wide(tensor: torch.Tensor, value: int) -> torch.Tensor:
            return torch.nn.functional.pad(tensor, (0, count), value=value)

        return replace(
            batch, input_ids=wide(batch.input_ids, 0), attention_mask=wide(batch.attention_mask, 0), labels=wide(batch.labels, IGNORE)
        )

    return pad


@pytest.fixture(scope="session")
def reads() -> Callable[[Any], AbstractContextManager[list[int]]]:
    """A list that gets the number of rows of each forward pass of this very model (its copies carry the hook and do not count)."""

    @contextmanager
    def count(subject: Any) -> Iterator[list[int]]:
        seen: list[int] = []

        def note(module: Any, given: Any, named: Any) -> None:
            if module is subject.model:
                seen.append(len(named["input_ids"]))

        handle = subject.model.register_forward_pre_hook(note, with_kwargs=True)
        try:
            yield seen
        finally:
            handle.remove()

    return count
