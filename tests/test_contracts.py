"""Every registered system keeps the contracts; and the contracts notice systems that do not."""

import pytest

from efface.core import registry
from efface.core.card import Card
from efface.core.config import Config
from efface.core.errors import UnknownName
from efface.core.types import Attack, Guard, Measurement, Method, Metric
from efface.testing import contracts, tiny
from efface.testing.contracts import Broken, all_contracts


@pytest.mark.parametrize("contract", all_contracts(), ids=str)
def test_contract(contract):
    contract()


def test_the_registry_is_not_empty():
    assert {"finetune", "retrain"} <= set(registry.names("recipe"))
    with pytest.raises(UnknownName, match="no method named 'nothing'"):
        contracts.contracts("method", "nothing")


ANEW = contracts._outcomes.__wrapped__
"""Runs that are not remembered from one test to the next."""


class Plain(Config):
    """Settings of the systems below."""

    strength: float = 1.0
    """How strong."""


def offered(monkeypatch, system):
    """Let the registry know one system alone."""
    monkeypatch.setattr(registry, "card", lambda kind, name: system.card)
    monkeypatch.setattr(registry, "load", lambda kind, name: system)
    monkeypatch.setattr(contracts, "_outcomes", ANEW)


def card(**changes) -> Card:
    return Card(**{"name": "mine", "title": "Mine", "paper": "", "families": ("causal-lm",), "better": "higher", "access": "outputs", **changes})


def method(run, **changes):
    about = card(**changes)

    class Mine(Method[Plain]):
        card = about

        def run(self, subject, request, ctx):
            return run(subject, request, ctx)

    return Mine


def broken(monkeypatch, system, rule, says):
    offered(monkeypatch, system)
    (contract,) = [c for c in contracts.contracts(system.kind, "mine") if c.rule.startswith(rule)]
    with pytest.raises(Broken, match=says):
        contract()


def scribble(subject, request, ctx):
    next(subject.model.parameters()).data.add_(1e-3)
    return subject.fork()


def undo(subject):
    next(subject.model.parameters()).data.add_(-1e-3)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "other"}, "the card says 'other'"),
        ({"title": ""}, "has no title"),
        ({"needs": ("telepathy",)}, "names the capability 'telepathy'"),
        ({"uses": ("memory",)}, "names the use 'memory'"),
        ({"extra": "magic"}, "names the extra 'magic'"),
        ({"families": ()}, "names no family"),
    ],
)
def test_a_false_card_is_noticed(monkeypatch, changes, says):
    broken(monkeypatch, method(lambda s, r, c: s.fork(), **changes), "card", says)


WHOLE = {
    "uses": ("forget", "keep"), "technique": "parameter optimization", "intent": "remove", "touches": ("weights",), "locality": "all",
    "data": ("forget rows", "keep rows"), "operator": "weights", "sequence": "accumulates", "reversible": False, "guarantee": "empirical",
}
GUARDED = {**WHOLE, "intent": "suppress", "touches": ("output",), "locality": "none", "operator": "outputs", "reversible": True, "technique": "filtering"}


def guarding(**changes):
    about = card(**{**GUARDED, **changes})

    class Mine(Guard[Plain]):
        card = about

        def run(self, subject, request, ctx):
            return subject

    return Mine


@pytest.mark.parametrize("system", [method(lambda s, r, c: s.fork(), **WHOLE), guarding()], ids=["method", "guard"])
def test_a_whole_taxonomy_passes(monkeypatch, system):
    offered(monkeypatch, system)
    (contract,) = [c for c in contracts.contracts(system.kind, "mine") if c.rule.startswith("taxonomy")]
    contract()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        *(({field: empty}, f"does not say {field}") for field, empty in [
            ("technique", ""), ("intent", ""), ("touches", ()), ("locality", ""), ("data", ()), ("operator", "none"), ("sequence", ""),
            ("reversible", None), ("guarantee", ""),
        ]),
        ({"technique": "magic"}, "has the technique 'magic'; there are: closed form, filtering"),
        ({"touches": ("weights", "soul")}, "has the touches 'soul'"),
        ({"reversible": "perhaps"}, "has the reversible 'perhaps'; there are: False, True"),
        ({"data": ("forget rows",)}, "does not need 'keep rows' by its data, and its uses say otherwise about 'keep'"),
        ({"data": ("forget rows", "keep rows", "names")}, "needs 'names' by its data"),
        ({"uses": ("forget", "keep", "reference")}, "does not need 'reference model'"),
        ({"touches": ("output",)}, "is a method and changes weights"),
        ({"locality": "none"}, "is a method and changes weights"),
        ({"operator": "logits"}, "needs logits alone"),
        ({"intent": "suppress", "guarantee": "exact"}, "only suppresses, and promises exact removal"),
    ],
)
def test_a_broken_taxonomy_of_a_method_is_noticed(monkeypatch, changes, says):
    broken(monkeypatch, method(lambda s, r, c: s.fork(), **{**WHOLE, **changes}), "taxonomy", says)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"intent": "remove"}, "a guard and removes nothing"),
        ({"locality": "all"}, "a guard and leaves weights as they are"),
        ({"touches": ("output", "adapter")}, "a guard and leaves weights as they are"),
        ({"guarantee": "bounded"}, "no bounded removal can be had"),
        ({"intent": ""}, "does not say intent"),
    ],
)
def test_a_broken_taxonomy_of_a_guard_is_noticed(monkeypatch, changes, says):
    broken(monkeypatch, guarding(**changes), "taxonomy", says)


def test_other_kinds_have_no_taxonomy():
    """A metric changes nothing, so that nothing is asked of its card."""
    assert not [c for c in contracts.contracts("metric", "probability") if c.rule.startswith("taxonomy")]


def test_a_changed_original_is_noticed(monkeypatch):
    subject = contracts.trials()["causal-lm"].subjects["a language model"]
    kept = {name: p.detach().clone() for name, p in subject.model.named_parameters()}
    try:
        broken(monkeypatch, method(scribble), "leaves no trace", "changed the subject")
    finally:
        for name, p in subject.model.named_parameters():
            p.data.copy_(kept[name])


def test_global_randomness_is_noticed(monkeypatch):
    import torch

    def draws(subject, request, ctx):
        torch.rand(1)
        return subject.fork()

    broken(monkeypatch, method(draws), "leaves no trace", "torch's random state")


def test_unseeded_results_are_noticed(monkeypatch):
    count = iter(range(9))

    def differs(subject, request, ctx):
        after = subject.fork()
        next(after.model.parameters()).data.add_(next(count))
        return after

    broken(monkeypatch, method(differs), "repeats", "with the same seed differ")


def test_the_same_subject_is_noticed(monkeypatch):
    class Same(Guard[Plain]):
        card = card()

        def run(self, subject, request, ctx):
            return subject

    broken(monkeypatch, Same, "runs", "very subject it was given")


def test_a_guard_that_edits_is_noticed(monkeypatch):
    class Edits(Guard[Plain]):
        card = card()

        def run(self, subject, request, ctx):
            after = subject.fork()
            next(after.model.parameters()).data.add_(1)
            return after

    broken(monkeypatch, Edits, "runs", "a guard must not")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"value": float("nan")}, "gives the value nan"),
        ({"value": None}, "gives the value None"),
        ({"low": 0.6}, "outside of its interval"),
        ({"high": 0.4}, "outside of its interval"),
        ({"n": 0}, "how many rows"),
        ({"system": "another"}, "signs as 'another'"),
        ({"better": "lower"}, "its card says higher"),
        ({"status": "failed", "why": "out of luck"}, "was failed .*out of luck"),
    ],
)
def test_an_unsound_measurement_is_noticed(monkeypatch, changes, says):
    class Mine(Metric[Plain]):
        card = card()

        def run(self, subject, request, ctx):
            return Measurement(**{"system": "mine", "subject": "", "value": 0.5, "low": 0.4, "high": 0.6, "n": 3, "better": "higher", **changes})

    broken(monkeypatch, Mine, "runs", says)


def test_a_spendthrift_is_noticed(monkeypatch):
    class Mine(Attack[Plain]):
        card = card()

        def run(self, subject, request, ctx):
            free = ctx.alone(budget={})
            for _ in range(5):
                free.spend(queries=1)
            return Measurement(system="mine", subject="", value=0.5, n=3, better="higher")

    broken(monkeypatch, Mine, "keeps to its budget", "went beyond its budget of 1 queries")


def test_loose_settings_are_noticed(monkeypatch):
    class Loose(Config):
        """Settings without a check, and without a word."""

        anything: object = None

    class Mine(Method[Loose]):
        card = card()

        def run(self, subject, request, ctx):
            return subject.fork()

    broken(monkeypatch, Mine, "bad values", "takes an arbitrary object as 'anything'")
    broken(monkeypatch, Mine, "defaults", "no line below it")


def test_a_false_claim_of_family_is_noticed(monkeypatch):
    broken(monkeypatch, method(lambda s, r, c: s.fork(), families=("classifier",), needs=("generate",)), "refuses", "claims the family classifier")


def test_contracts_read_as_a_sentence():
    assert str(contracts.contracts("recipe", "retrain")[0]) == "recipe/retrain: card is true"
    assert tiny.context(3).seed == 3
