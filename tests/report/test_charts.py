import re
import xml.etree.ElementTree as ET

import pytest

from efface.core.types import Report
from efface.report import build, charts


def svgs(report: Report) -> dict[str, str]:
    return {chart.title: chart.svg for chart in charts.draw(build.view(report))}


def test_there_is_a_chart_for_all_that_was_measured(report: Report) -> None:
    assert list(svgs(report)) == [
        "Forgetting against utility",
        "Can an attacker tell which rows were forgotten?",
        "Relearning, step by step",
        "The training run",
    ]


def test_text_is_text_and_the_reference_is_marked(report: Report) -> None:
    for title, svg in svgs(report).items():
        texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
        assert texts, title
        if title != "The training run":
            assert "Reference" in texts and "After" in texts


def test_membership_shows_membership_attacks_alone(report: Report) -> None:
    svg = svgs(report)["Can an attacker tell which rows were forgotten?"]
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert {"loss", "zlib", "min_k", "min_k_plus_plus", "reference"} <= set(texts)
    assert "relearn" not in texts and "quantize" not in texts


def test_charts_are_xml_and_point_at_nothing_but_themselves(report: Report) -> None:
    for svg in svgs(report).values():
        root = ET.fromstring(svg)
        ids = {node.get("id") for node in root.iter() if node.get("id")}
        links = {node.get("href") for node in root.iter() if node.get("href")}
        assert links and all(link.startswith("#") and link[1:] in ids for link in links)
        assert "http" not in svg and "<style" not in svg and "<metadata" not in svg


def test_ids_differ_between_charts_and_repeat_between_runs(report: Report) -> None:
    one, two = svgs(report), svgs(report)
    assert one == two
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in one.values()]
    assert all(not (a & b) for at, a in enumerate(ids) for b in ids[at + 1 :])


def test_colors_come_from_the_page(report: Report) -> None:
    """No color of the models is fixed: a dark page or a print sets its own."""
    for svg in svgs(report).values():
        fixed = set(re.findall(r"#[0-9a-f]{6}", re.sub(r"var\([^)]*\)", "", svg)))
        assert not fixed & {*charts.COLORS.values(), charts.INK, charts.RULE, charts.MUTED}
        assert "var(--candidate" in svg


def test_models_differ_in_shape_not_in_color_alone() -> None:
    assert len(set(charts.MARKS.values())) == 3
    assert len({str(dash) for dash in charts.DASHES.values()}) == 3


def test_dollar_signs_are_no_formula(hostile: Report) -> None:
    assert any("$\\frac" in svg for svg in svgs(hostile).values())


def test_without_a_reference_there_is_no_plane(report: Report) -> None:
    kept = tuple(m for m in report.measurements if m.subject != "reference")
    assert "Forgetting against utility" not in svgs(report.model_copy(update={"measurements": kept}))


def test_gauge_puts_the_distance_where_it_belongs(report: Report) -> None:
    """Zero is at 100 of 200; a distance twice the margin is right of the band, a negative one left of zero."""
    base = build.view(report).axes[0]
    band = re.compile(r'<rect x="([\d.]+)" y="5" width="([\d.]+)"')
    for value, check in ((0.0, lambda at, end: at == 100.0), (0.5, lambda at, end: at > end), (-0.1, lambda at, end: at < 100.0)):
        svg = charts.gauge(base._replace(value=value, low=value - 0.01, high=value + 0.01, limit=0.25))
        found, dot = band.search(svg), re.search(r'cx="([\d.]+)"', svg)
        assert found is not None and dot is not None
        assert check(float(dot[1]), float(found[1]) + float(found[2]))
    assert charts.gauge(base._replace(value=None)) == ""


def test_quality_against_utility_is_a_file_of_its_own() -> None:
    svg = charts.quality_utility([("original", 1e-30, 0.61), ("reference", 1.0, 0.6), ("npo 0", 0.4, 0.58)])
    root = ET.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert {"original", "reference", "npo 0"} <= set(re.findall(r"<text[^>]*>([^<]*)</text>", svg))
    assert svg == charts.quality_utility([("original", 1e-30, 0.61), ("reference", 1.0, 0.6), ("npo 0", 0.4, 0.58)])


def test_small_differences_are_not_blown_up() -> None:
    """Limits 0.998 and 0.999 become 0.8985 and 1.0985; wide ones stay."""
    assert charts._at_least(0.998, 0.999) == (pytest.approx(0.8985), pytest.approx(1.0985))
    assert charts._at_least(0.2, 0.9) == (0.2, 0.9)
