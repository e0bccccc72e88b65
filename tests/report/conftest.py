from pathlib import Path

import pytest

from efface.core.types import Measurement, Report


@pytest.fixture
def report() -> Report:
    """A whole report of npo on the invented authors, as a run leaves it."""
    return Report.model_validate_json((Path(__file__).parent / "example.json").read_text(encoding="utf-8"))


@pytest.fixture
def hostile(report: Report) -> Report:
    """The same report from a model, and a plug-in, that want to break the page."""
    evil = "<script>alert(1)</script>\x00\x1b[31m <img src=x onerror=alert(2)> | `code` [link](http://evil.example) {{ 7 * 7 }} \ud800"
    samples = ({"part": "forget", "prompt": evil, "answer": evil, "candidate": evil, "original": "$x^", "reference": ""},)
    bad = [
        Measurement(system="attack/<b>evil</b>$\\frac", subject=subject, value=0.9, low=0.8, high=1.0, n=3)
        for subject in ("original", "candidate", "reference")
    ]
    bad.append(Measurement.skipped('metric/"><script>', "candidate", evil))
    verdict = report.verdict.model_copy(update={"line": f"Not forgotten: {evil}", "word": "not forgotten", "reasons": (evil,)})
    change = {"title": evil, "reference": evil, "samples": samples, "verdict": verdict, "measurements": (*report.measurements, *bad)}
    return report.model_copy(update={**change, "environment": {evil: evil}})
