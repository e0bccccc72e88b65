import re

from efface.core.types import Report
from efface.report import build, html, markdown


def test_the_first_line_is_the_verdict(report: Report) -> None:
    assert markdown.render(report).splitlines()[0] == f"**{markdown.escaped(build.view(report).first_line)}**"


def test_markdown_and_html_show_the_same_numbers(report: Report) -> None:
    """Every number of the tables stands in both, and neither has one that the other lacks."""
    view = build.view(report)
    text = markdown.render(report).replace("\\", "")
    page = re.sub(r"<figure>.*?</figure>|<svg.*?</svg>|<style>.*?</style>", "", html.render(report), flags=re.DOTALL)
    page = re.sub(r"<[^>]+>", " ", page)
    shape = r"[+-]?\d[\d,]*\.\d+(?:e-?\d+)?"
    ours, theirs = set(re.findall(shape, text)), set(re.findall(shape, page))
    assert ours == theirs and len(ours) > 100
    for line in (*view.metrics, *view.attacks):
        cells = " | ".join(f"{line.cells[s].text} {line.cells[s].interval}".strip() for s in view.subjects)
        assert f"{cells} | {line.distance_text}" in text


def test_what_was_skipped_is_shown(report: Report) -> None:
    text = markdown.render(report).replace("\\", "")
    why = 'gibberish needs transformers[classifier]; run: pip install "efface[text]"'
    assert f"| metric/gibberish | before, after, reference | skipped | {why} |" in text
    assert "RuntimeError: the search left the vocabulary &lt;eos>" in text


def test_hostile_text_breaks_no_table(hostile: Report) -> None:
    text = markdown.render(hostile)
    assert "<script" not in text and "<img" not in text
    assert not re.search(r"(?<!\\)\]\(", text)
    for block in text.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        widths = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
        assert len(widths) <= 1, block
    text.encode("utf-8")


def test_escaping() -> None:
    assert markdown.escaped("a|b\n*c* <i> & `d` [e](f)") == "a\\|b<br>\\*c\\* &lt;i> &amp; \\`d\\` \\[e\\](f)"
