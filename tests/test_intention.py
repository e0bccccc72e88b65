"""Removal or suppression, from findings."""

import numpy as np
import pytest

from efface import intention
from efface.core.types import Measurement, Step
from efface.verdict import Distance, Evidence, Members, Rows, distances

MEMBER = "attack/loss"


def distance(name, value, spread=0.05, margin=0.25):
    says = "as the reference" if abs(value) <= margin else "still there" if value > 0 else "over-forgotten"
    return Distance(name, value, value - spread, value + spread, margin, says)


def found(answers=0.0, truth=0.0, member=0.0):
    return {
        "forgetting": [distance("log-probability of the answers", answers), distance("truth ratio", truth), distance("generated answers, ROUGE-L recall", answers)],
        "privacy": [distance("loss attack", member, margin=0.2)], "utility": [],
    }


def measured(system, candidate, reference=None, original=None, spread=0.05, parts=None):
    def one(subject, value):
        return Measurement(system=system, subject=subject, value=value, low=value - spread, high=value + spread, n=20, parts=(parts or {}) if subject == "candidate" else {})

    return [one(name, value) for name, value in (("candidate", candidate), ("reference", reference), ("original", original)) if value is not None]


def suite(relearn=0.0, quantize=0.3, trace=0.2, others=()):
    """Probability: 0.9 before, 0.3 in the reference, so the gap is 0.6. Relearning's gain is in the same unit."""
    return [
        *measured("metric/probability", 0.3, 0.3, 0.9),
        *measured("attack/relearn", 0.4 + relearn, parts={"gain": relearn, "gain_low": relearn - 0.02, "gain_high": relearn + 0.02, "reference": 0.4}),
        *measured("attack/quantize", quantize, parts={"reference": 0.3}),
        *measured("metric/knowledge_trace", trace, 0.2, 1.0),
        *others,
    ]


def test_removal_needs_every_kind_of_evidence():
    whole = intention.judge("forgotten", found(), suite())
    assert whole.measured == "removal" and "relearning" in whole.line
    for missing in ("attack/relearn", "attack/quantize", "metric/knowledge_trace"):
        partial = intention.judge("forgotten", found(), [m for m in suite() if m.system != missing])
        assert partial.measured == "can't say" and any(intention.KINDS[missing] in line for line in partial.missing)
    no_members = found() | {"privacy": []}
    assert intention.judge("forgotten", no_members, suite()).measured == "can't say"


def test_what_was_skipped_is_named_with_its_reason():
    skipped = Measurement.skipped("metric/knowledge_trace", "candidate", "no columns")
    said = intention.judge("forgotten", found(), [*(m for m in suite() if m.system != "metric/knowledge_trace"), skipped])
    assert "trace: not measured (knowledge_trace: no columns)" in said.missing


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"relearn": 0.3}, "relearning brings it back"), ({"quantize": 0.7}, "rounding"), ({"trace": 0.9}, "its trace"),
        ({"others": tuple(measured("attack/jailbreak", 0.8, 0.1, 0.9))}, "asked in another way"),
    ],
)  # fmt: skip
def test_one_attack_that_brings_it_back_is_suppression(given, word):
    said = intention.judge("forgotten", found(), suite(**given))
    assert said.measured == "suppression" and word in said.line


def test_shares_are_of_what_the_original_has_beyond_the_reference():
    """0.3 of a gap of 0.6 is a half; an attack that was run on the original has its own scale: (0.8 - 0.1) / (0.9 - 0.1)."""
    findings = intention.of_measurements([*suite(relearn=0.3), *measured("attack/jailbreak", 0.8, 0.1, 0.9)])
    by_name = {f.name: f.distance for f in findings}
    assert by_name["relearn"] == pytest.approx(0.5) and by_name["jailbreak"] == pytest.approx(0.875)


def test_intervals_are_widened_to_99_5_percent():
    (finding,) = intention.of_measurements(measured(MEMBER, 0.75, 0.5, spread=0.1))
    assert finding.distance == pytest.approx(0.25)
    assert finding.high - finding.distance == pytest.approx(2.807 / 1.96 * 0.1 * 2**0.5)


def test_hidden_answers_with_probabilities_that_know_are_suppression():
    assert intention.judge("not forgotten", {**found(truth=0.7), "privacy": []}, suite()).measured == "suppression"
    assert intention.judge("not forgotten", found(member=0.4), suite()).measured == "suppression"


def test_over_forgotten_is_no_removal_and_an_attack_that_fails_worse_than_on_the_reference_is_no_fault():
    assert intention.judge("over-forgotten", found(answers=-0.8), suite()).measured == "suppression"
    assert intention.judge("forgotten", found(), suite(quantize=0.0, relearn=-0.3)).measured == "removal"


def test_what_is_told_outright_is_not_forgotten_and_damage_comes_first():
    assert intention.judge("not forgotten", found(answers=0.9), suite()).measured == "not forgotten"
    assert intention.judge("damaged", found(answers=0.9), suite()).measured == "damaged"


def test_a_guard_never_gets_removal():
    assert intention.judge("forgotten", found(), suite(), guarded=True).measured == "suppression"
    assert intention.judge("forgotten", found(answers=0.9), suite(), guarded=True).measured == "not forgotten"


def test_one_wide_interval_beside_a_clear_one_of_its_kind_does_not_hide_a_removal():
    wide = tuple(measured(MEMBER, 0.75, 0.5, spread=0.4))
    assert intention.judge("forgotten", found(), suite(others=wide)).measured == "removal"
    alone = tuple(measured("attack/jailbreak", 0.6, 0.3, 0.9, spread=0.5))
    assert intention.judge("forgotten", found(), suite(others=alone)).measured == "can't say"


def test_a_method_that_claims_removal_is_told_that_it_suppresses():
    said = intention.judge("forgotten", found(), suite(relearn=0.3))
    steps = [Step(kind="recipe", system="finetune"), Step(kind="method", system="npo")]
    assert "npo claims removal and behaves as suppression" in intention.against_claim(said, steps).line
    assert intention.against_claim(said, steps[:1]) == said
    whole = intention.judge("forgotten", found(), suite())
    assert intention.against_claim(whole, steps) == whole


def test_a_collapsed_model_that_relearns_slowly_has_not_shown_removal():
    given = [m.model_copy(update={"parts": {**m.parts, "collapsed": 1.0}}) if m.system == "attack/relearn" else m for m in suite()]
    assert intention.judge("forgotten", found(), given).measured == "can't say"


def test_the_verdicts_evidence_can_be_read():
    """Ten rows; the candidate is the reference."""
    base, rng = np.linspace(0, 1, 10), np.random.default_rng(0)
    members = (rng.normal(size=30), rng.normal(size=30))
    evidence = Evidence({"log-probability of the answers": Rows(base, base, base + 2)}, {"loss attack": Members(members, members)}, {})
    said = intention.judge("forgotten", distances(evidence), suite())
    assert said.measured == "removal" and {f.evidence for f in said.findings} >= {"behavior", "membership", "relearning", "rounding", "trace"}
