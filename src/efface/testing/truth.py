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
import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from efface import evaluate
from efface.core.errors import UnknownName
from efface.core.types import Data, Measurement, Report, Request, Row, Subject
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
    "metric/perplexity", "metric/repetition", "attack/loss", "attack/zlib", "attack/lower_case", "attack/reference", "attack/min_k",
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


def apart(report: Report) -> dict[str, bool]:
    """For each system that was measured on candidate and reference: whether the candidate's number lies outside of what the reference and its noise give."""
    by_system: dict[str, dict[str, Measurement]] = {}
    for m in report.measurements:
        if m.status == "ok" and m.value is not None:
            by_system.setdefault(m.system, {})[m.subject] = m
    return {system: _differs(models) for system, models in by_system.items() if "candidate" in models}


def _differs(models: Mapping[str, Measurement]) -> bool:
    mine = models["candidate"]
    base = models["reference"].value if "reference" in models else mine.parts.get("reference", mine.parts.get("reference_auc"))
    if mine.value is None or base is None:
        return False
    if mine.system == "metric/forget_quality":  # a p-value of its own comparison with the reference
        return mine.value < 0.05
    halves = [(m.high - m.low) / 2 for m in (mine, models.get("reference")) if m is not None and m.high is not None and m.low is not None]
    return abs(mine.value - float(base)) > max(math.hypot(*halves), 0.02 * max(abs(float(base)), abs(mine.value)))


def main() -> None:
    """Print two tables: where the evidence puts each model, and which numbers differ from the reference's, in counts over seeds."""
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
    words: dict[str, Counter[str]] = {name: Counter() for name in BELONGS}
    differ: dict[str, Counter[str]] = {}
    for seed in seeds:
        for name in BELONGS:
            report = prove(candidate(name, seed), seed)
            words[name][report.intent.measured if report.intent else "can't say"] += 1
            for system, yes in apart(report).items():
                differ.setdefault(system, Counter())[name] += yes
        sys.stderr.write(f"seed {seed} done\n")
    heads = ("removal", "suppression", "not forgotten", "damaged", "can't say")
    lines = [f"| model | {' | '.join(heads)} |", f"| --- |{' --- |' * len(heads)}"]
    lines += [f"| {name} | {' | '.join(str(words[name][head]) for head in heads)} |" for name in BELONGS]
    lines += ["", f"| apart from the reference in, of {len(seeds)} | {' | '.join(BELONGS)} |", f"| --- |{' --- |' * len(BELONGS)}"]
    lines += [f"| {system.partition('/')[2]} | {' | '.join(str(found[name]) for name in BELONGS)} |" for system, found in differ.items()]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
