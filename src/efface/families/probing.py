"""Asking a language model in every form: what it says, whether that is right, and how likely it finds the right answer.

Everything goes through the shared passes, so a probe is answered once a model whatever reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from efface.core.context import Context
from efface.core.errors import Missing
from efface.core.rows import Row
from efface.families import passes
from efface.ops import probes as forms
from efface.ops.facts import Fact
from efface.ops.probes import LETTERS, Probe

NEW_TOKENS = 32
"""Most tokens of an answer to a probe."""
TURN = 48
"""Most tokens of what the model says to a turn before the last."""


def ask(subject: Any, probes: Sequence[Probe], ctx: Context, max_new: int = NEW_TOKENS) -> list[str]:
    """What the model says to each probe, in order. Turns before the last are put to it first, and its own words are kept between them."""
    said = [""] * len(probes)
    rows = _rows(subject, probes, ctx)
    sets = [[place for place in range(len(probes)) if bool(probes[place].before) == chained] for chained in (False, True)]
    for places, texts in zip((s for s in sets if s), passes.answer_sets(subject, [[rows[p] for p in s] for s in sets if s], ctx, max_new), strict=True):
        for place, text in zip(places, texts, strict=True):
            said[place] = text
    return said


def hits(texts: Sequence[str], probes: Sequence[Probe]) -> np.ndarray:
    """1 where a text answers its probe, 0 where not (N,)."""
    return np.array([float(forms.right(text, probe)) for text, probe in zip(texts, probes, strict=True)])


def chances(subject: Any, probes: Sequence[Probe], ctx: Context) -> np.ndarray:
    """exp(mean log-probability per token) of each probe's right answer (N,), without the end token (ORT, arXiv:2506.07795)."""
    rows = _rows(subject, probes, ctx)
    return np.array([float(np.exp(score.log_probs[score.words].mean())) for score in passes.scores(subject, rows, ctx)])


def letters(subject: Any, probes: Sequence[Probe], ctx: Context) -> np.ndarray:
    """Probability of each letter as the answer to a multiple choice (N, options), over the whole vocabulary: rows need not sum to 1."""
    if any(not probe.options for probe in probes):
        raise ValueError("letters are for multiple choices")
    count = len(probes[0].options)
    rows: list[Row] = [{**probe.row, "answer": letter} for probe in probes for letter in LETTERS[:count]]
    found = [float(np.exp(score.log_probs[0])) for score in passes.scores(subject, rows, ctx)]
    return np.array(found).reshape(len(probes), count)


def by_form(names: Sequence[str], facts: Sequence[Fact]) -> dict[str, list[Probe]]:
    """The probes of each named form; forms that no fact can take are left out. Raises Missing when that leaves none."""
    found = {name: asked for name in names if (asked := forms.ask(name, facts))}
    if not found:
        raise Missing(f"none of the {len(facts)} facts can be asked as {', '.join(names)}; give rows with a question and a short answer, and columns such as subject, value, perturbed_answer")
    return found


def _rows(subject: Any, probes: Sequence[Probe], ctx: Context) -> list[Row]:
    """The rows that put the probes, with the model's own answers to the turns before."""
    talks: Mapping[int, list[dict[str, str]]] = {place: [] for place, probe in enumerate(probes) if probe.before}
    depth = max((len(probe.before) for probe in probes), default=0)
    for turn in range(depth):
        places = [place for place in talks if turn < len(probes[place].before)]
        for place in places:
            talks[place].append({"role": "user", "content": probes[place].before[turn]})
        rows: list[Row] = [{"messages": [*talks[place], _open()]} for place in places]
        for place, text in zip(places, passes.answers(subject, rows, ctx, TURN), strict=True):
            talks[place].append({"role": "assistant", "content": text or "..."})
    return [_last(probe, talks[place]) if probe.before else probe.row for place, probe in enumerate(probes)]


def _last(probe: Probe, talk: list[dict[str, str]]) -> Row:
    turns = [*talk, {"role": "user", "content": probe.prompt}, {"role": "assistant", "content": probe.target or probe.answers[0]}]
    return {"messages": turns, **({"prefill": probe.lead} if probe.lead else {})}


def _open() -> dict[str, str]:
    """A place for the answer, which a row of messages must have."""
    return {"role": "assistant", "content": "..."}
