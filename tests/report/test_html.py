import re
from html.parser import HTMLParser

from efface.core.types import Report
from efface.report import build, html

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that tags close in order."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.wrong: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)


def test_the_page_is_well_formed_and_opens_with_the_verdict(report: Report) -> None:
    page = Page(html.render(report))
    assert page.wrong == [] and page.open == []
    texts = [text.strip() for text in page.texts if text.strip()]
    assert texts[0] == "Forgotten: npo on authors forget10"  # the title of the window
    assert (
        texts[1:3] == ["✓", "Forgotten"]
        and texts[3].startswith("On the forget rows")
        and texts[3].endswith("Its weights were changed (npo).")
    )


def test_hostile_text_stays_text(hostile: Report) -> None:
    rendered = html.render(hostile)
    page = Page(rendered)
    assert page.wrong == [] and page.open == []
    assert "script" not in page.tags and "img" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in " ".join(page.texts)
    assert "{{ 7 * 7 }}" in " ".join(page.texts)
    assert "\x00" not in rendered and "\x1b" not in rendered
    rendered.encode("utf-8")


def test_nothing_is_loaded_from_anywhere(report: Report) -> None:
    rendered = html.render(report)
    page = Page(rendered)
    assert "http" not in rendered.replace('http-equiv="Content-Security-Policy"', "") and "//" not in rendered
    assert not re.search(r"@import|@font-face|url\((?!#)", rendered)
    loads = ("src", "srcset", "href", "xlink:href", "data", "action", "poster", "background")
    assert [value for name, value in page.attributes if name in loads and not str(value).startswith("#")] == []
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes


def test_every_number_and_reason_of_the_view_is_shown(report: Report) -> None:
    words = " ".join(Page(html.render(report)).texts)
    view = build.view(report)
    for line in (*view.metrics, *view.attacks):
        for cell in line.cells.values():
            assert cell.text in words and cell.interval in words
        assert line.distance_text in words and line.title in words
    for skip in view.skipped:
        assert skip.system in words and skip.why in words
    for step in view.steps:
        for name, text in (*step.facts, *step.settings):
            assert name in words and text in words
    for name, text in (*view.environment, *view.cost, *view.request):
        assert name in words and text in words


def test_numbers_without_a_reference_are_gray(report: Report) -> None:
    bodies = re.findall(r"<tbody( class=\"\w+\")?>\s*<tr>\s*<th scope=\"row\">(.*?)<small>", html.render(report), re.DOTALL)
    gray = [title.strip() for kind, title in bodies if "gray" in kind]
    assert gray == ["self_bleu"]


def test_the_same_report_gives_the_same_bytes(report: Report) -> None:
    assert html.render(report) == html.render(Report.model_validate_json(report.model_dump_json()))


def test_each_verdict_has_its_own_sign_and_color(report: Report) -> None:
    seen = set()
    for word in ("forgotten", "not forgotten", "over-forgotten", "damaged", "can't say"):
        verdict = report.verdict.model_copy(update={"word": word, "line": f"{word.capitalize()}: because."})
        page = html.render(report.model_copy(update={"verdict": verdict, "measurements": (), "curve": ()}))
        sign = re.search(r'banner (\w+)">\s*<span class="sign" aria-hidden="true">(.)<', page)
        assert sign is not None
        seen.add((word, sign[1], sign[2]))
    assert len({sign for _, _, sign in seen}) == 4
    assert {tone for word, tone, _ in seen if word != "forgotten"} == {"bad", "warn", "unknown"}


def test_an_empty_report_renders(report: Report) -> None:
    empty = Report(verdict=report.verdict, request=report.request)
    page = Page(html.render(empty))
    assert page.wrong == [] and "figure" not in page.tags
    assert "none: numbers stand alone" in " ".join(page.texts)
