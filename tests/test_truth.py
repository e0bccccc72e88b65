"""Models of which is known what they are land where they belong."""

import pytest

from efface.core.errors import UnknownName
from efface.testing import truth

NEEDED = ("metric/probability", "attack/loss", "attack/quantize", "attack/relearn", "attack/logit_lens")
"""What decides; the whole suite is in docs/results/proving.md."""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_the_evidence_puts_every_model_where_it_belongs(seed):
    said = {name: truth.prove(truth.candidate(name, seed), seed, NEEDED) for name in truth.BELONGS}
    words = {name: report.intent.measured for name, report in said.items()}
    assert {name for name, word in words.items() if word not in truth.BELONGS[name]} == set(), words
    assert {name for name, report in said.items() if report.verdict.word == "forgotten"} <= {"retrained"}


def test_one_suppressed_model_and_one_retrained():
    """The same, for one seed and the two that are hardest to tell apart."""
    assert truth.prove(truth.candidate("filtered", 0), 0, NEEDED).intent.measured == "suppression"
    assert truth.prove(truth.candidate("retrained", 0), 0, NEEDED).intent.measured == "removal"


def test_an_unknown_model_is_refused():
    with pytest.raises(UnknownName, match="refused"):
        truth.candidate("refused", 0)
