"""Form dependence: whether forgetting trained in one form of a fact reaches the other forms (after ORT, arXiv:2506.07795).

    drop_f = log P_original,f - log P_unlearned,f    P = mean over items of exp(mean log-probability per token of the answer)
    FDB    = 1 - min over f of drop_f / drop_trained

0 = as far in every form, 1 = some form is untouched. A multiple choice is counted twice: by the letter's probability over the
whole vocabulary (a model that no longer answers in letters "forgets"), and among A to D, where the share that was carried is
the drop over log(P_original / 0.25): 1 for who only guesses, as nobody can fall below that by knowing nothing. A form in
which the original shows no knowledge cannot show a loss, and is left out and named: one where it is no better than the
reference, or, without one, no better than chance among A to D. Facts come from the forget rows; ORT's own items from the row sets
forget_level1, 2 and 4, whose questions are spelled out too. Neighbors (keep rows, neighbor_level sets) stand in parts as "keep".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.errors import Missing
from efface.core.rows import evenly, layout
from efface.core.types import Measurement, Metric, Request
from efface.families import probing
from efface.ops import facts, form_drops, probe_rows, probes
from efface.ops.form_drops import CHANCE, Form
from efface.ops.probes import Probe
from efface.ops.stats import bootstrap

AMONG = "multiple_choice A-D"
ITEMS = {"cloze": "level1", "question": "level2", "spelled": "level2", "multiple_choice": "level4"}
"""ORT's own items: the form of each, and the level at which RWKU's layout holds it."""


class FormDependenceConfig(Config):
    """Settings of the metric."""

    trained: Literal["question", "cloze", "paraphrase", "multiple_choice"] = "question"
    """The form in which the model was made to forget."""
    forms: tuple[str, ...] = tuple(name for name in probes.FORMS if name != "chain")
    """Forms to ask in; chain asks the model to speak first, and costs accordingly."""
    rows: int = Field(20, ge=1)
    """Most facts of each side, evenly spaced."""
    answered: int = Field(10, ge=0)
    """Most items of each form that are answered as well, so that hits stand beside probabilities; 0 for none."""
    max_new: int = Field(24, ge=1)
    """Most tokens of such an answer."""


class Asked(NamedTuple):
    """The items of one form, and the unit (fact) of each."""

    probes: list[Probe]
    units: list[str]


Chances = Mapping[str, np.ndarray]
"""{form: probability of each item's answer}, with multiple choice among A to D as a form of its own."""


class FormDependence(Metric[FormDependenceConfig]):
    """How far the drop in the trained form carries over to the worst other form."""

    card = Card(
        name="form_dependence", title="Form dependence (FDB: 0 in every form, 1 only as trained)", paper="arXiv:2506.07795", families=("causal-lm",),
        needs=("score", "generate"), uses=("original",), better="lower",
        departs="ORT reports differences of probabilities; one index from the least drop, forms the original does not know left out, hits and intervals are added; "
        "the token that ends an answer is not counted",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return FDB with a bootstrap interval over facts. Raises Missing without an original, or where the trained form has not dropped."""
        original, reference = ctx.baseline("original"), ctx.baselines.get("reference")
        asked = self._asked("forget", request, ctx)
        trained = self.config.trained
        if trained not in asked:
            raise Missing(f"no fact can be asked in the trained form {trained!r}; found {', '.join(asked)}; set trained to one of these")
        before, after = _chances(original, asked, ctx), _chances(subject, asked, ctx)
        base = _chances(reference, asked, ctx) if reference else None
        known = [name for name in before if name == trained or _knows(name, before, base, asked)]
        forms = {name: _form(name, before, after, asked) for name in known}
        spread, found = form_drops.intervals(forms, trained, ctx.seed_for(self.card.name))
        if not spread[trained].low > 0:
            low, high = spread[trained].low, spread[trained].high
            raise Missing(f"the trained form {trained!r} has not dropped ({spread[trained].value:.3g}, {low:.3g} to {high:.3g} nats); there is nothing to carry over")
        drops, shares = {name: each.value for name, each in spread.items()}, form_drops.carried(forms, trained)
        hits = {who: self._hits(model, asked, ctx) for who, model in (("candidate", subject), ("original", original))}
        worst = form_drops.worst(shares)
        left_out = [name for name in before if name not in known]
        parts: dict[str, float | None] = {
            "reference": _index(before, base, asked, known, trained) if base else None, "worst drop": drops[worst], "trained drop": drops[trained],
            **{f"drop {name}": value for name, value in drops.items()}, **self._kept(subject, original, request, ctx),
            "forms no fact can take": float(len(set(self._names(ctx)) - set(asked))), "forms the original does not know": float(len(left_out)),
        }
        why = f"worst form: {worst}" + (f"; the original does not know {', '.join(left_out)}" if left_out else "")
        table: list[dict[str, object]] = [
            {
                "form": name, "n": len(after[name]), "P original": float(before[name].mean()), "P": float(after[name].mean()), "P reference": float(base[name].mean()) if base else None,
                **({"drop": spread[name].value, "low": spread[name].low, "high": spread[name].high} if name in spread else {}),
                "hits original": hits["original"].get(name), "hits": hits["candidate"].get(name),
            }
            for name in before
        ]
        n = len({unit for name in known for unit in asked[_source(name)].units})
        return Measurement(
            system=self.card.name, subject="", value=found.value, low=_finite(found.low), high=_finite(found.high), n=n, better="lower", why=why, parts=parts, table=table
        )

    def _names(self, ctx: Context) -> Sequence[str]:
        return tuple(ITEMS) if "forget_level4" in ctx.sets else self.config.forms

    def _asked(self, part: Literal["forget", "keep"], request: Request, ctx: Context) -> dict[str, Asked]:
        """The items of each form: ORT's own where the run has them, else those of the facts in the request's rows."""
        if "forget_level4" in ctx.sets:
            return self._items("forget" if part == "forget" else "neighbor", ctx)
        found = facts.of_rows(evenly(request.rows(part), self.config.rows), part)
        return {name: Asked(list(asked), [str(probe.fact) for probe in asked]) for name, asked in probing.by_form(self.config.forms, found).items()}

    def _items(self, of: str, ctx: Context) -> dict[str, Asked]:
        found = {}
        for form, level in ITEMS.items():
            rows = evenly(ctx.sets[f"{of}_{level}"].read(), self.config.rows) if f"{of}_{level}" in ctx.sets else []
            asked = [probe_rows.probe(row) for row in rows]
            if form == "spelled":
                asked = probes.ask("spelled", [facts.Fact(str(row["query"]), str(row["answer"]), str(row["answer"])) for row in rows])
            if asked:
                found[form] = Asked(asked, [f"{level} {at}" for at in range(len(asked))])
        return found

    def _hits(self, subject: Any, asked: Mapping[str, Asked], ctx: Context) -> dict[str, float]:
        few = {name: evenly(of.probes, self.config.answered) for name, of in asked.items()} if self.config.answered else {}
        together = [probe for of in few.values() for probe in of]
        texts = iter(probing.ask(subject, together, ctx, self.config.max_new)) if together else iter(())
        return {name: float(probing.hits([next(texts) for _ in of], of).mean()) for name, of in few.items()}

    def _kept(self, subject: Any, original: Any, request: Request, ctx: Context) -> dict[str, float | None]:
        """The drop of each form on what must stay; nothing where the run has no such rows."""
        ready = "forget_level4" in ctx.sets
        if ("neighbor_level1" not in ctx.sets) if ready else (request.keep is None or "text" in layout(request.rows("keep"))):
            return {}
        asked = self._asked("keep", request, ctx)
        before, after = _chances(original, asked, ctx), _chances(subject, asked, ctx)
        return {f"keep drop {name}": form_drops.drop(_form(name, before, after, asked)) for name in before}


def _chances(subject: Any, asked: Mapping[str, Asked], ctx: Context) -> Chances:
    found: dict[str, np.ndarray] = {}
    for name, of in asked.items():
        if name != "multiple_choice":
            found[name] = probing.chances(subject, of.probes, ctx)
            continue
        letters = probing.letters(subject, of.probes, ctx)
        right = [probes.LETTERS.index(probe.answers[0]) for probe in of.probes]
        found[name] = letters[np.arange(len(right)), right]
        found[AMONG] = form_drops.renormalized(letters, right)
    return found


def _source(name: str) -> str:
    return "multiple_choice" if name == AMONG else name


def _form(name: str, before: Chances, after: Chances, asked: Mapping[str, Asked]) -> Form:
    return Form(before[name], after[name], np.array(asked[_source(name)].units), CHANCE if name == AMONG else 0.0)


def _knows(name: str, before: Chances, base: Chances | None, asked: Mapping[str, Asked]) -> bool:
    """Whether the original shows knowledge in this form: beyond the reference, and among A to D beyond chance."""
    if name == AMONG and bootstrap(before[name]).low <= CHANCE:
        return False
    return base is None or form_drops.log_ratio(_form(name, before, base, asked)).low > 0


def _index(before: Chances, base: Chances, asked: Mapping[str, Asked], known: Sequence[str], trained: str) -> float | None:
    """FDB of the reference over the same forms; None where the trained form is as likely to it as to the original."""
    try:
        return form_drops.dependence(form_drops.carried({name: _form(name, before, base, asked) for name in known}, trained))
    except ValueError:
        return None


def _finite(bound: float) -> float | None:
    return bound if np.isfinite(bound) else None
