"""The report as Markdown: the same view as the page, without its charts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from efface.core.types import Report
from efface.report import build
from efface.report.text import NONE
from efface.report.view import Line, View

MARKS = re.compile(r"([\\`*_\[\]|~])")


def render(report: Report) -> str:
    """The report as Markdown; its first line is the verdict."""
    view = build.view(report)
    sections = [
        _head(view),
        _axes(view),
        _intent(view),
        _samples(view),
        _numbers(view, "What was measured", view.metrics),
        _attacks(view),
        _skipped(view),
        _parts(view),
        _history(view),
    ]
    return "\n\n".join(part for part in sections if part) + "\n"


def escaped(text: str) -> str:
    """Foreign text in one line that Markdown shows as it is."""
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace("\r", "")
    return re.sub(r"\n+", "<br>", MARKS.sub(r"\\\1", plain).strip())


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def _head(view: View) -> str:
    compared = (
        f"The reference is {escaped(view.reference)}."
        if view.reference
        else "There is no reference: numbers stand alone and prove nothing."
    )
    return f"**{escaped(view.first_line)}**\n\n# {escaped(view.title)}\n\n{compared}\n\nWorst attack: {escaped(view.worst_text)}"


def _axes(view: View) -> str:
    if not view.axes:
        return ""
    rows = [[a.name, escaped(a.statistic), a.distance, a.interval or NONE, a.margin, escaped(a.says)] for a in view.axes]
    table = _table(["Axis", "Decided by", "Distance", "95 % interval", "Margin", "Says"], rows)
    reasons = "\n".join(f"- {escaped(reason)}" for reason in view.reasons)
    return f"## Distance to the reference\n\n{table}" + (f"\n\n{reasons}" if reasons else "")


def _intent(view: View) -> str:
    """Removal or suppression, with every line of evidence."""
    if not view.measured:
        return ""
    rows = [[f.evidence, escaped(f.name), f.distance, f.interval or NONE, f.margin, f.says] for f in view.findings]
    said = [_table(["Evidence", "Read from", "Distance", "Interval", "Margin", "Says"], rows)] if rows else []
    said += ["\n".join(f"- missing: {escaped(reason)}" for reason in view.missing)] if view.missing else []
    said += [escaped(view.excluded)] if view.excluded else []
    return "\n\n".join([f"## Removal or suppression: {view.measured}", *said])


def _samples(view: View) -> str:
    if not view.samples:
        return ""
    if view.draws:
        return "## The same prompts, from the same noise\n\n![what each model draws](pictures.png)\n\nOne row a prompt, one column a model: what was to be forgotten first, what was to be kept last."
    names = list(dict.fromkeys(name for sample in view.samples for name, _ in sample.answers))
    rows = [
        [escaped(s.part), escaped(s.prompt), escaped(s.expected), *(escaped(dict(s.answers).get(name, NONE)) for name in names)]
        for s in view.samples
    ]
    return "## The same questions\n\n" + _table(["", "Prompt", "Expected", *names], rows)


def _numbers(view: View, title: str, lines: Sequence[Line]) -> str:
    if not lines:
        return ""
    head = ["", *map(view.heading, view.subjects), "Distance", "Better", "Rows", "Note"]
    rows = []
    for line in lines:
        cells = [f"{line.cells[s].text} {line.cells[s].interval}".strip() for s in view.subjects]
        note = escaped(line.note) or ("" if line.compared else "no reference")
        rows.append([f"{escaped(line.title)} ({escaped(line.name)})", *cells, line.distance_text, line.wish, line.n, note])
    return f"## {title}\n\n{_table(head, rows)}"


def _attacks(view: View) -> str:
    return _numbers(view, "What attacks found", view.attacks)


def _skipped(view: View) -> str:
    if not view.skipped:
        return "## Not measured\n\nNothing was skipped and nothing failed."
    return "## Not measured\n\n" + _table(
        ["System", "Models", "Status", "Why"], [[escaped(s.system), escaped(s.models), s.status, escaped(s.why)] for s in view.skipped]
    )


def _parts(view: View) -> str:
    rows = [[f"{escaped(line.name)}: {escaped(name)}", *texts] for line in view.parts for name, texts in line.parts]
    return "## What the numbers are made of\n\n" + _table(["", *map(view.heading, view.subjects)], rows) if rows else ""


def _history(view: View) -> str:
    parts = ["## How it was done"]
    if view.request:
        parts.append(_table(["Request", ""], [[name, escaped(text)] for name, text in view.request]))
    for step in view.steps:
        rows = [[escaped(name), escaped(text)] for name, text in step.facts] + [
            [escaped(name), escaped(text)] for name, text in step.settings
        ]
        parts.append(_table([escaped(step.title), ""], rows))
    for title, facts in (("Cost", view.cost), ("Environment", view.environment)):
        if facts:
            parts.append(_table([title, ""], [[escaped(name), escaped(text)] for name, text in facts]))
    return "\n\n".join(parts)
