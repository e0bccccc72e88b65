import pytest

from efface.cli import gate
from efface.core.errors import BadConfig, UnknownName
from efface.core.types import Report
from efface.report import build


def failures(report: Report, *texts: str) -> list[str]:
    return gate.failed(gate.parse(texts), build.view(report))


def test_the_worst_attack_is_a_distance(report: Report) -> None:
    """The reference attack stands at 0.601, retraining at 0.5: a distance of 0.101."""
    assert failures(report, "attack.worst>0.11") == []
    (line,) = failures(report, "attack.worst>0.1")
    assert line == "attack.worst>0.1: distance of reference from the reference = 0.101"


@pytest.mark.parametrize(
    ("text", "fails"),
    [
        ("attack.min_k>0.6", True), ("attack.min_k > 0.61", False), ("attack.min_k.distance>=0.078", True),
        ("metric.model_utility<0.5", False),
        ("metric.model_utility<=0.587", True), ("verdict!=forgotten", False), ("verdict == Forgotten", True), ("verdict!='damaged'", True),
    ],
)  # fmt: skip
def test_values_distances_and_verdicts(report: Report, text: str, fails: bool) -> None:
    assert bool(failures(report, text)) is fails


def test_a_number_that_is_not_there_fails(report: Report) -> None:
    assert failures(report, "attack.gcg>0.9") == ["attack.gcg>0.9: failed: RuntimeError: the search left the vocabulary <eos>"]
    assert failures(report, "metric.self_bleu.distance>0.9") == ["metric.self_bleu.distance>0.9: self_bleu has no reference"]
    alone = report.model_copy(update={"measurements": tuple(m for m in report.measurements if m.subject == "original")})
    assert failures(alone, "attack.worst>0.9") == ["attack.worst>0.9: No attack could be read against a reference."]


def test_an_unknown_number_is_an_error(report: Report) -> None:
    with pytest.raises(UnknownName, match="did you mean attack.min_k"):
        failures(report, "attack.min_kk>0.1")


@pytest.mark.parametrize("text", ["attack.worst", "attack.worst>much", ">0.1", "verdict>forgotten", ""])
def test_malformed_gates_are_refused(text: str) -> None:
    with pytest.raises(BadConfig, match="--fail-if"):
        gate.parse([text])
