"""Models of which is known what they are: what a suite of metrics and attacks must tell apart, before anybody believes it.

    original       knows the forget rows
    random, refusing, repeating    damaged: random weights; refuses everything; says one word
    retrained      trained without the rows, from another seed than the reference
    filtered       suppressed: the original behind a filter of its answers
    refusal        suppressed: the original with an adapter that refuses the forget rows alone
    relearned      retrained without the rows, then taught them
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from efface import evaluate
from efface.core.errors import UnknownName
from efface.core.types import Data, Report, Request, Row, Subject
from efface.recipes.finetune import Finetune
from efface.testing import tiny

BELONGS: Mapping[str, tuple[str, ...]] = {
    "original": ("not forgotten",), "random": ("damaged",), "refusing": ("damaged",), "repeating": ("damaged",), "retrained": ("removal",),
    "filtered": ("suppression",), "refusal": ("suppression",), "relearned": ("not forgotten",),
}
"""What the evidence must say of each."""
REFUSAL = "I do not know the answer to that question."
SUITE = (
    "metric/probability", "metric/rouge_recall", "metric/truth_ratio", "metric/exact_memorization", "metric/extraction_strength", "metric/forget_quality", "metric/model_utility",
    "metric/perplexity", "metric/repetition", "metric/knowledge_trace", "attack/loss", "attack/zlib", "attack/lower_case", "attack/reference", "attack/min_k",
    "attack/min_k_plus_plus", "attack/quantize", "attack/relearn", "attack/interpolate", "attack/logit_lens",
)
"""What is measured of each by default."""


class Filter:
    """A shield that blanks every answer that says one of some values; the weights know nothing of it."""

    def __init__(self, values: Sequence[str]) -> None:
        self.values = tuple(values)

    def screen(self, prompts: Sequence[str]) -> Sequence[str]:
        return prompts

    def steer(self, subject: Subject) -> Any:
        return nullcontext()

    def review(self, outputs: Sequence[str]) -> list[str]:
        return [REFUSAL if any(value in text for value in self.values) else text for text in outputs]


@functools.cache
def candidate(name: str, seed: int) -> Subject:
    """One of the models, made once a process. Raises UnknownName."""
    if name not in BELONGS:
        raise UnknownName.among("model", name, BELONGS)
    found, original = tiny.facts(), tiny.trained_lm(seed)
    every = [*found.forget, *found.keep]
    values = [" ".join(str(row["answer"]).rstrip(".").split()[-2:]) for row in found.forget]
    makers: Mapping[str, Callable[[], Subject]] = {
        "original": lambda: original,
        "random": lambda: tiny.tiny_lm(seed + 100),
        "refusing": lambda: taught(original, [_answering(row, REFUSAL) for row in every], seed),
        "repeating": lambda: taught(original, [_answering(row, "is is is is is is") for row in every], seed),
        "retrained": lambda: tiny.retrained_lm(seed + 50),
        "filtered": lambda: original.guarded(Filter(values)),
        "refusal": lambda: taught(original, [*(_answering(row, REFUSAL) for row in found.forget), *found.keep], seed, rank=8),
        "relearned": lambda: taught(tiny.retrained_lm(seed), every, seed),
    }
    return makers[name]()


def taught(subject: Any, rows: Sequence[Row], seed: int, rank: int = 0) -> Subject:
    """The subject after training on the rows, whole or with an adapter that is folded in."""
    settings = {**tiny.FIT_LM, "fit.steps": 80, "fit.rank": rank}
    after: Any = Finetune.set(settings).run(subject, Request(forget=Data.inline(rows[:1]), keep=Data.inline(rows[1:])), tiny.context(seed))
    return after.merged() if after.adapted else after  # type: ignore[no-any-return]


def prove(subject: Subject, seed: int, suite: Sequence[str] = SUITE) -> Report:
    """The report on one of the models, against the reference of its seed and a second one."""
    baselines = {"original": tiny.trained_lm(seed), "reference": tiny.retrained_lm(seed), "reference/1": tiny.retrained_lm(seed + 10)}
    return evaluate.prove(subject, tiny.facts().request, tiny.context(seed).alone(baselines=baselines), suite)


def _answering(row: Row, text: str) -> Row:
    return {"question": row["question"], "answer": text}
