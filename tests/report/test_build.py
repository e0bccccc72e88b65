import math

import pytest

from efface.core.types import Measurement, Report, Request, Step, Verdict
from efface.report import build
from efface.report.text import clean, duration, memory, number, signed


def bare(*measurements: Measurement, **more: object) -> Report:
    verdict = Verdict(word="can't say", line="Can't say: no reference model was given to compare with.")
    return Report(verdict=verdict, request=Request(), measurements=measurements, **more)


def ok(system: str, subject: str, value: float | None, **more: object) -> Measurement:
    return Measurement(system=system, subject=subject, value=value, n=10, **more)


def test_the_first_line_is_the_verdict_and_says_what_was_done(report: Report) -> None:
    view = build.view(report)
    assert view.first_line == f"{report.verdict.line} Its weights were changed (npo)."
    assert (view.word, view.tone, view.guarded) == ("Forgotten", "good", False)
    assert view.rest.startswith("On the forget rows")


def test_a_guarded_model_is_never_called_one_that_forgot(report: Report) -> None:
    guard = Step(kind="guard", system="output_filter")
    view = build.view(report.model_copy(update={"steps": (guard,)}))
    assert view.guarded and view.word == "Guarded" and view.tone != "good"
    assert view.first_line.startswith("Guarded, not forgotten:")
    assert "output_filter" in view.first_line and "No method changed its weights." in view.first_line


def test_a_shield_without_a_step_is_guarded_too(report: Report) -> None:
    verdict = report.verdict.model_copy(update={"line": f"Guarded, the weights still know. {report.verdict.line}"})
    view = build.view(report.model_copy(update={"verdict": verdict}))
    assert view.guarded and view.word == "Guarded"


def test_a_guard_that_fails_keeps_its_word(report: Report) -> None:
    verdict = Verdict(word="not forgotten", line="Not forgotten: 80% is still there.")
    view = build.view(report.model_copy(update={"verdict": verdict, "steps": (Step(kind="guard", system="eco"),)}))
    assert view.word == "Not forgotten" and view.guarded
    assert view.first_line.startswith("Not forgotten: 80% is still there. Behind the guard (eco) the weights can still know.")


def test_the_worst_attack_is_the_farthest_on_either_side() -> None:
    """0.2 against 0.5 is 0.3 away, 0.6 against 0.5 is 0.1 away: the first is worse, although its value is the smaller."""
    view = build.view(
        bare(
            ok("attack/loss", "candidate", 0.6), ok("attack/loss", "reference", 0.5),
            ok("attack/zlib", "candidate", 0.2), ok("attack/zlib", "reference", 0.5),
        )
    )  # fmt: skip
    assert view.worst is not None and view.worst.name == "zlib"
    assert [line.name for line in view.attacks] == ["zlib", "loss"]
    assert view.worst_text.startswith("zlib, ") and "-0.300" in view.worst_text


def test_without_a_reference_there_is_no_worst_attack_and_numbers_are_gray() -> None:
    view = build.view(bare(ok("attack/loss", "candidate", 0.9), ok("metric/probability", "candidate", 0.4)))
    assert view.worst is None and view.worst_text == "No attack could be read against a reference."
    assert not any(line.compared for line in (*view.metrics, *view.attacks))
    assert view.plane is None


def test_an_attack_on_the_candidate_alone_brings_its_own_reference(report: Report) -> None:
    line = next(line for line in build.view(report).attacks if line.name == "relearn")
    assert line.cells["reference"].value == 0.0 and line.distance == pytest.approx(0.071)
    assert not {"reference", "reference_area"} & set(dict(line.parts))


def test_curves_are_split_by_model_and_kept_out_of_the_parts(report: Report) -> None:
    line = next(line for line in build.view(report).attacks if line.name == "relearn")
    assert set(line.curves) == {"candidate", "reference"}
    assert [step for step, _ in line.curves["candidate"]] == [0, 2, 4, 8, 16, 24]
    assert not any("step" in name for name, _ in line.parts)


def test_what_was_skipped_is_listed_once_with_its_reason(report: Report) -> None:
    skipped = build.view(report).skipped
    assert [(s.system, s.models, s.status) for s in skipped] == [
        ("metric/gibberish", "before, after, reference", "skipped"),
        ("attack/gcg", "after", "failed"),
    ]
    assert "pip install" in skipped[0].why and "vocabulary" in skipped[1].why


def test_a_skipped_candidate_never_gets_a_number() -> None:
    measurements = ok("metric/probability", "original", 0.9), Measurement.skipped("metric/probability", "candidate", "no rows")
    view = build.view(bare(*measurements))
    assert view.metrics[0].cells["candidate"].text == "skipped" and view.metrics[0].note == "skipped: no rows"
    assert view.skipped[0].why == "no rows"


def test_nan_is_no_number() -> None:
    view = build.view(bare(ok("metric/probability", "candidate", math.nan), ok("metric/probability", "reference", 0.5)))
    assert view.metrics[0].cells["candidate"].text == "–" and view.metrics[0].distance is None


def test_settings_are_exact_and_flat(report: Report) -> None:
    step = build.view(report).steps[-1]
    settings = dict(step.settings)
    assert settings["beta"] == "0.1" and settings["fit.lr"] == "0.001" and settings["stop.at"] == "auto"
    assert dict(step.facts)["Peak memory"] == "2,213 MB" and dict(step.facts)["Seed"] == "0"


def test_time_and_memory_are_told(report: Report) -> None:
    assert build.view(report).cost == (("Prove", "1 min 36 s"), ("Forget", "2 min 22 s"), ("Peak memory while forgetting", "2,213 MB"))


def test_samples_stand_in_the_order_before_after_reference(report: Report) -> None:
    sample = build.view(report).samples[0]
    assert [name for name, _ in sample.answers] == ["Before", "After", "Reference"]
    assert sample.part == "to forget" and sample.expected.startswith("The author")


def test_a_report_survives_json(report: Report) -> None:
    assert build.view(Report.model_validate_json(report.model_dump_json())) == build.view(report)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (math.nan, "–"),
        (0.0, "0.000"),
        (0.12345, "0.123"),
        (-0.5, "-0.500"),
        (1.3e-9, "1.3e-09"),
        (1841.0, "1,841"),
        (math.inf, "∞"),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


def test_words() -> None:
    assert (signed(0.1), signed(-0.1), signed(None)) == ("+0.100", "-0.100", "–")
    assert (duration(3.21), duration(96.4), duration(3720)) == ("3.2 s", "1 min 36 s", "1 h 2 min")
    assert (memory(2213.4), memory(20480)) == ("2,213 MB", "20.0 GB")
    assert clean("a\x00\x1b[2J\ud800\nb") == "a\ufffd\ufffd[2J\ufffd\nb"


def test_a_classifier_is_charted_by_its_accuracy_on_rows_to_keep() -> None:
    found = [
        ok("metric/accuracy", subject, value, parts={"keep": keep})
        for subject, value, keep in (("candidate", 0.1, 0.9), ("reference", 0.0, 0.95))
    ]
    plane = build.view(bare(*found)).plane
    assert plane is not None and plane.y_label == "Accuracy on keep rows"
    assert {point.subject: (point.x.value, point.y.value) for point in plane.points} == {"candidate": (0.1, 0.9), "reference": (0.0, 0.95)}
