"""What every system must obey, as checks that can be run over any of them, those of plug-ins included.

    import pytest
    from efface.testing.contracts import contracts

    @pytest.mark.parametrize("contract", contracts("method", "my-package/my_idea"), ids=str)
    def test_my_idea(contract):
        contract()

Each check raises `Broken` saying what was promised and what was found. A system is run on tiny subjects, a few steps only.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from efface import api
from efface.core import registry
from efface.core.capabilities import CAPABILITIES, check
from efface.core.card import FOLDERS, Card
from efface.core.config import field_names
from efface.core.context import Context
from efface.core.errors import BadConfig, BudgetSpent, Missing, Unfit, UnknownName
from efface.core.types import Data, Measurement, Request, Subject
from efface.testing import quick, taxonomy, tiny, tiny_gan, tiny_images

USES = {"forget", "keep", "unseen", "names", "near", "instead", "original", "reference", "clean", "utility"}
"""What a card may say that a system reads: fields of the request, baselines of the run."""
FIELDS = 15


class Broken(AssertionError):
    """A system does not keep a promise."""


@dataclass(frozen=True)
class Contract:
    """One promise of one system; calling it checks it."""

    kind: str
    name: str
    rule: str
    run: Callable[[], None]

    def __call__(self) -> None:
        self.run()

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}: {self.rule}"


@dataclass(frozen=True)
class Trial:
    """A family's tiny subjects, what they are asked to forget, and what they are compared with."""

    subjects: Mapping[str, Subject]
    request: Request
    baselines: Mapping[str, Subject]
    utility: Mapping[str, Data]


@functools.cache
def trials() -> Mapping[str, Trial]:
    """The trial of each family."""
    facts, digits = tiny.facts(), tiny.digits()
    words: dict[str, Subject] = {"original": tiny.tiny_lm(), "reference": tiny.tiny_lm(1), "clean": tiny.trained_lm()}
    images: dict[str, Subject] = {"original": tiny.tiny_classifier(), "reference": tiny.tiny_classifier(1)}
    few = Request(forget=Data.inline(facts.forget[:6]), keep=Data.inline(facts.keep[:8]), unseen=Data.inline(facts.unseen[:6]))
    some = Request(forget=Data.inline(digits.forget[:30]), keep=Data.inline(digits.keep[:200]), unseen=Data.inline(digits.unseen[:30]))
    return {
        "causal-lm": Trial({"a language model": tiny.tiny_lm()}, few, words, {"others": Data.inline(facts.unseen[6:12])}),
        "classifier": Trial(
            {"a torch classifier": tiny.tiny_classifier(), "a scikit-learn classifier": tiny.sklearn_classifier(kind="bayes")},
            some, images, {"others": Data.inline(digits.test[:30])},
        ),
        "regressor": Trial(
            {"a torch regressor": tiny.tiny_regressor(), "a scikit-learn regressor": tiny.sklearn_regressor()},
            _cut(tiny.diabetes()), {"original": tiny.tiny_regressor(), "reference": tiny.tiny_regressor(1)},
            {"others": Data.inline(tiny.diabetes().rows("keep")[-20:])},
        ),
        "diffusion": Trial(
            {"a text-to-image pipeline": tiny_images.pipeline()}, tiny_images.request(pictures=True),
            {"original": tiny_images.pipeline(), "reference": tiny_images.pipeline(1), "encoder": tiny_gan.encoder(), **tiny_images.judges()}, {},
        ),
        "gan": Trial(
            {"a generator": tiny_gan.generator()}, tiny_gan.request(),
            {"original": tiny_gan.generator(), "reference": tiny_gan.generator(1), "encoder": tiny_gan.encoder(), **tiny_gan.judges()}, {},
        ),
        "image-text": Trial({"an image-text encoder": tiny_gan.encoder()}, tiny_gan.request(), {"original": tiny_gan.encoder()}, {}),
    }


def _cut(request: Request) -> Request:
    """The first 30 forget rows and unseen rows, and 100 keep rows."""
    counts = {"forget": 30, "keep": 100, "unseen": 30}
    return Request(**{name: Data.inline(request.rows(name)[:count]) for name, count in counts.items()})  # type: ignore[arg-type]


@dataclass
class Meter(Context):
    """A context that remembers what was spent in it and in every context made from it."""

    total: dict[str, float] = field(default_factory=dict)

    def spend(self, **amounts: float) -> None:
        """Count, and then spend as always."""
        for name, amount in {"calls": 1.0, **amounts}.items():
            self.total[name] = self.total.get(name, 0.0) + amount
        super().spend(**amounts)

    def alone(self, **changes: object) -> Context:
        """A context of its own that reports to the same meter."""
        own = Context.alone(self, **changes)
        return Meter(**{**vars(own), "total": self.total})


def contracts(kind: str, name: str) -> list[Contract]:
    """Every contract of one system. Raises UnknownName when there is no such system."""
    card = registry.card(kind, name)
    rules: list[tuple[str, Callable[[], None]]] = [
        ("card is true", lambda: card_is_true(kind, name)),
        ("defaults build", lambda: defaults_build(kind, name)),
        ("unknown settings raise", lambda: unknown_settings_raise(kind, name)),
        ("bad values raise", lambda: bad_values_raise(kind, name)),
        ("refuses what does not fit", lambda: refuses_what_does_not_fit(kind, name)),
    ]
    if kind in ("method", "guard"):
        rules.append(("taxonomy is whole", lambda: _expect(not (wrong := taxonomy.problems(kind, card)), "; ".join(wrong))))
    if kind in ("recipe", "method", "guard", "metric", "attack"):
        for family in (family for family in card.families if family in trials()):
            rules += [(f"{rule} ({family})", functools.partial(checked, kind, name, family)) for rule, checked in RUNNING.items()]
    if kind == "attack":
        rules.append(("keeps to its budget", lambda: keeps_to_its_budget(name)))
    return [Contract(kind, name, rule, run) for rule, run in rules]


def all_contracts() -> Iterator[Contract]:
    """The contracts of every registered system whose optional parts are installed; a part that brings a hard license never is, here."""
    for kind in registry.kinds():
        for name in registry.names(kind):
            if not registry.missing(registry.card(kind, name)):
                yield from contracts(kind, name)


# -- what holds without running ---------------------------------------------------------------------------------------------


def card_is_true(kind: str, name: str) -> None:
    """The literal card equals that of the class, which is of the right kind; every name on it exists."""
    card = registry.card(kind, name)
    found = registry.load(kind, name)
    _expect(found.card == card, f"the class of {name} carries another card than its file says")
    _expect(found.kind == kind, f"{name} stands in {FOLDERS[kind]}/ and is a {found.kind}")
    _expect(card.name == name.split("/")[-1], f"the card says {card.name!r}; the file is named {name.split('/')[-1]!r}")
    _expect(bool(card.title), f"{name} has no title")
    _expect(bool(card.families), f"{name} names no family")
    _expect(not card.made_by or card.made_by in registry.names("recipe"), f"{name} names the recipe {card.made_by!r}, and there is none")
    for what, given, known in (("capability", card.needs, set(CAPABILITIES)), ("use", card.uses, USES), ("extra", (card.extra,), {"", *registry.EXTRAS})):
        for word in given:
            _expect(word in known, f"{name} names the {what} {word!r}; there are: {', '.join(sorted(known))}")
    if kind in ("metric", "attack"):
        _expect(card.better != "", f"{name} does not say which way is good (better=)")
    if kind == "attack":
        _expect(card.access != "none", f"{name} does not say what the adversary sees (access=)")


def defaults_build(kind: str, name: str) -> None:
    """The settings all have defaults and a line of explanation, and are few."""
    system: Any = registry.load(kind, name)
    config = system.set().config
    _expect(type(config) is system.Config, f"{name} builds {type(config).__name__}, and its settings are {system.Config.__name__}")
    fields = system.Config.model_fields
    _expect(len(fields) <= FIELDS, f"{name} has {len(fields)} settings; at most {FIELDS}")
    for setting, about in fields.items():
        _expect(bool(about.description), f"the setting {setting!r} of {name} has no line below it that says what it does")


def unknown_settings_raise(kind: str, name: str) -> None:
    """A setting that does not exist raises UnknownName, naming it."""
    system: Any = registry.load(kind, name)
    for bad in ("no_such_setting", "no_such_group.setting"):
        try:
            system.set({bad: 1})
        except UnknownName as error:
            _expect(bad in str(error), f"the error for an unknown setting of {name} does not name it: {error}")
        else:
            raise Broken(f"{name} takes the unknown setting {bad!r}")


def bad_values_raise(kind: str, name: str) -> None:
    """An impossible value of any setting raises BadConfig, naming the setting."""
    system: Any = registry.load(kind, name)
    for setting in field_names(system.Config):
        try:
            system.set({setting: object()})
        except BadConfig as error:
            _expect(setting in str(error), f"the error for a bad value of {setting!r} of {name} does not name it: {error}")
        else:
            raise Broken(f"{name} takes an arbitrary object as {setting!r}")


def refuses_what_does_not_fit(kind: str, name: str) -> None:
    """Other families, and requests without what the card says is read, are refused by name; a subject that fits is not."""
    card = registry.card(kind, name)
    system = registry.load(kind, name)()
    for family, trial in trials().items():
        fitting = [subject for subject in trial.subjects.values() if _fits(system, subject, trial.request)]
        if family in card.families:
            _expect(bool(fitting), f"{name} claims the family {family} and refuses each of its tiny subjects")
            for use in {"forget", "keep", "unseen"} & set(card.uses):
                without = trial.request.model_copy(update={use: None})
                said = _refusal(system, fitting[0], without)
                _expect(card.name in said and use in said, f"{name} reads {use} rows and does not refuse a request without them by name: {said!r}")
        else:
            _expect(not fitting, f"{name} does not claim the family {family} and takes it")
            said = _refusal(system, next(iter(trial.subjects.values())), trial.request)
            _expect(card.name in said and family in said, f"{name} refuses the family {family} without naming both: {said!r}")


# -- what holds of a run ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """One run on one tiny subject, and what it may have changed."""

    subject: Subject
    result: Any
    changed: tuple[str, ...]
    lineage: int


@functools.cache
def _outcomes(kind: str, name: str, family: str, again: bool = False) -> Sequence[Outcome]:
    """The runs on those of the family's tiny subjects that fit. `again` is a second time with the same seed."""
    trial, found = trials()[family], []
    for subject in _made(registry.card(kind, name).made_by, family):
        if _fits(registry.load(kind, name)(), subject, trial.request):
            before = _state(trial, subject)
            result = _run(kind, name, subject, trial, _context(trial))
            after = _state(trial, subject)
            changed = tuple(what for what in before if before[what] != after[what])
            found.append(Outcome(subject, result, changed, len(getattr(result, "lineage", ()))))
    return found


@functools.cache
def _made(recipe: str, family: str) -> Sequence[Subject]:
    """The family's tiny subjects, after training by `recipe` where one is named."""
    trial = trials()[family]
    if not recipe:
        return list(trial.subjects.values())
    system: Any = registry.load("recipe", recipe)
    settings = quick.settings(system)
    fitting = [subject for subject in trial.subjects.values() if _fits(system(), subject, trial.request)]
    return [api.train(subject, trial.request, recipe, settings, _context(trial)) for subject in fitting]


def runs(kind: str, name: str, family: str) -> None:
    """A run gives what its kind promises."""
    for outcome in _outcomes(kind, name, family):
        if kind in ("metric", "attack"):
            _sound(registry.card(kind, name), outcome.result)
        else:
            _expect(isinstance(outcome.result, Subject) and outcome.result.family == family, f"{name} does not give a {family} back")
            _expect(outcome.result is not outcome.subject, f"{name} gives back the very subject it was given")
        if kind in ("recipe", "method"):
            _expect(outcome.lineage == len(outcome.subject.lineage) + 1, f"the lineage did not grow by one in {name}")
            _expect(outcome.result.lineage[-1].system == name, f"the last step of the lineage does not name {name}")
        if kind == "guard":
            _expect(outcome.result.unguarded().digest == outcome.subject.digest, f"{name} changed the weights; a guard must not")
            _expect(len(outcome.result.shields) > len(outcome.subject.shields), f"{name} gives back a subject without a shield of its own")


def leaves_no_trace(kind: str, name: str, family: str) -> None:
    """A run changes neither the subject, nor a baseline, nor the request, nor global random state."""
    for outcome in _outcomes(kind, name, family):
        _expect(not outcome.changed, f"{name} changed {', '.join(outcome.changed)}")


def repeats(kind: str, name: str, family: str) -> None:
    """The same seed gives the same result."""
    pairs = zip(_outcomes(kind, name, family), _outcomes(kind, name, family, again=True), strict=True)
    for one, other in pairs:
        if isinstance(one.result, Measurement):
            same = len({repr(each.result.model_copy(update={"seconds": 0.0})) for each in (one, other)}) == 1
        else:
            same = one.result.digest == other.result.digest
        _expect(same, f"two runs of {name} with the same seed differ")


RUNNING: Mapping[str, Callable[[str, str, str], None]] = {"runs": runs, "leaves no trace": leaves_no_trace, "repeats": repeats}


def keeps_to_its_budget(name: str) -> None:
    """An attack that counts steps or queries ends, or says so, when they are used up; one that trains must count."""
    system: Any = registry.load("attack", name)
    for family in registry.card("attack", name).families:
        if family not in trials():
            continue
        trial = trials()[family]
        subject = next(s for s in trial.subjects.values() if _fits(system(), s, trial.request))
        free = _context(trial)
        _run("attack", name, subject, trial, free)
        if "fit" in system.Config.model_fields:
            _expect("steps" in free.total, f"{name} trains and counts no steps against the budget")
        limits = {what: 1.0 if amount > 1 else 0.0 for what, amount in free.total.items() if what != "calls"}
        if free.total.get("calls"):
            limits["seconds"] = -1.0
        for what, limit in limits.items():
            tight = _context(trial, budget={what: limit})
            try:
                result = _run("attack", name, subject, trial, tight)
            except BudgetSpent:
                continue
            _expect("budget" in result.why, f"{name} went beyond its budget of {limit:g} {what} and does not say so")


# -- how it is done ---------------------------------------------------------------------------------------------------------


def _expect(true: bool, otherwise: str) -> None:
    if not true:
        raise Broken(otherwise)


def _context(trial: Trial, **changes: Any) -> Meter:
    return Meter(seed=0, device="cpu", baselines=trial.baselines, utility=trial.utility, **changes)


def _run(kind: str, name: str, subject: Subject, trial: Trial, ctx: Context) -> Any:
    system: Any = registry.load(kind, name)
    settings = quick.settings(system)
    if kind == "method":
        return api.forget(subject, trial.request, name, settings, ctx)
    if kind == "recipe":
        return api.train(subject, trial.request, name, settings, ctx)
    try:
        return system.set(settings).run(subject, trial.request, ctx)
    except Missing as error:
        if kind != "metric" or "original" not in system.card.uses or subject.digest != trial.baselines["original"].digest:
            raise
        return Measurement.skipped(name, "", str(error))  # what compares with the original may refuse the original itself


def _fits(system: Any, subject: Subject, request: Request) -> bool:
    return not _refusal(system, subject, request)


def _refusal(system: Any, subject: Subject, request: Request) -> str:
    try:
        check(system, subject, request)
    except Unfit as error:
        return str(error)
    return ""


def _state(trial: Trial, subject: Subject) -> dict[str, object]:
    """Everything that a run must leave as it is."""
    numpy_state: Any = np.random.get_state()
    model = getattr(subject, "model", None)
    return {
        "the subject": subject.digest,
        "whether the subject trains": (model.training, [p.requires_grad for p in model.parameters()]) if model is not None else None,
        "the subject's lineage": subject.lineage,
        "the subject's modules": [(name, type(part).__name__) for name, part in model.named_modules()] if model is not None else None,
        **{f"the {name}": baseline.digest for name, baseline in trial.baselines.items()},
        "the request": trial.request.digest,
        "torch's random state": torch.get_rng_state().tolist(),
        "numpy's random state": (numpy_state[1].tolist(), numpy_state[2]),
        "Python's random state": random.getstate(),
    }


def _sound(card: Card, found: Any) -> None:
    """A measurement that was made has a finite number inside its interval, and says of whom and of how many rows."""
    if not isinstance(found, Measurement):
        raise Broken(f"{card.name} gives a {type(found).__name__} and not a Measurement")
    if found.status == "skipped" and found.why and "original" in card.uses:
        return
    _expect(found.status == "ok", f"{card.name} was {found.status} on a subject that it claims: {found.why}")
    if found.value is None or not math.isfinite(found.value):
        raise Broken(f"{card.name} gives the value {found.value}")
    _expect(found.n > 0, f"{card.name} does not say of how many rows its value is")
    _expect(found.system == card.name, f"{card.name} signs as {found.system!r}")
    _expect(found.better == card.better, f"{card.name} is better {found.better}, and its card says {card.better}")
    low, high = -math.inf if found.low is None else found.low, math.inf if found.high is None else found.high
    _expect(low - 1e-9 <= found.value <= high + 1e-9, f"{card.name}: {found.value} is outside of its interval {found.low} .. {found.high}")
