"""Figures as inline SVG: drawn by matplotlib, colored by the page, told apart by shape so that a gray print still reads.

Text stays text, ids depend on the content alone, and nothing in a figure points outside it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from efface.report.text import short
from efface.report.view import Axis, Cell, Line, Plane, Point, View
from efface.verdict import FORGETTING, UTILITY

INK, MUTED, RULE = "#1c2126", "#5d6670", "#d9dde2"
COLORS = {"original": "#a8550a", "candidate": "#1d5fa6", "reference": "#2f7a4a"}
OTHER = "#6b4a8f"
MARKS = {"original": "s", "candidate": "o", "reference": "D"}
DASHES = {"original": (0, (1, 1.5)), "candidate": "-", "reference": (0, (5, 2))}
PAGE = {INK: "currentColor", MUTED: "var(--muted, #5d6670)", RULE: "var(--rule, #d9dde2)", OTHER: "var(--other, #6b4a8f)"} | {
    color: f"var(--{subject}, {color})" for subject, color in COLORS.items()
}
"""The page's color for each color of a figure, so that one figure serves light, dark and print."""
STYLE: Any = {
    "svg.fonttype": "none", "text.parse_math": False, "font.size": 9.5, "axes.edgecolor": MUTED, "axes.labelcolor": INK, "text.color": INK,
    "xtick.color": MUTED, "ytick.color": MUTED, "axes.linewidth": 0.8, "axes.spines.top": False, "axes.spines.right": False,
    "grid.color": RULE, "grid.linewidth": 0.7, "legend.frameon": False, "figure.facecolor": "none", "axes.facecolor": "none",
    "axes.axisbelow": True, "axes.formatter.useoffset": False,
}  # fmt: skip
NO_METADATA: Any = {"Date": None, "Creator": None, "Format": None, "Type": None}
FLOOR = 1e-12
"""Smaller p say nothing finer; they are drawn here."""
WIDTH = 6.4
BARS = " Lines through a mark are 95 % intervals."


class Chart(NamedTuple):
    """One figure with its words."""

    title: str
    caption: str
    svg: str


def draw(view: View) -> list[Chart]:
    """All charts that the numbers of the view allow; a chart without data is left out."""
    with rc_context(STYLE):
        return [*_forgetting(view), *_membership(view), *_relearning(view), *_run(view)]


def _forgetting(view: View) -> list[Chart]:
    if view.plane is None:
        return []
    across, up = view.plane.x_label, view.plane.y_label
    caption = f"Across: {across}, on the forget rows. Up: {up}. The closer the filled circle is to the reference, the better."
    return [
        Chart(
            "Forgetting against utility",
            caption + BARS,
            _svg(_plane(view, view.plane), "plane", "Forgetting against utility, for each model"),
        )
    ]


def _membership(view: View) -> list[Chart]:
    lines = [line for line in view.attacks if line.membership and line.cells["candidate"].value is not None]
    if not lines:
        return []
    caption = (
        "Area under the curve of each membership attack. 0.5 is guessing; the reference need not be there. "
        "Far from the reference, on either side, gives the rows away."
    )
    return [
        Chart(
            "Can an attacker tell which rows were forgotten?",
            caption + BARS,
            _svg(_members(view, lines), "members", "Membership attacks, for each model"),
        )
    ]


def _relearning(view: View) -> list[Chart]:
    caption = (
        "What an adversary with the weights regains, step by step. A model that never knew the rows learns as slowly as the reference."
    )
    return [
        Chart(f"{short(line.title)}, step by step", caption, _svg(_regained(view, line), f"curve-{at}", f"{line.title}, step by step"))
        for at, line in enumerate(line for line in (*view.attacks, *view.metrics) if line.curves)
    ]


def _run(view: View) -> list[Chart]:
    if not view.curve:
        return []
    return [
        Chart("The training run", "What was minimized, over the optimizer's steps.", _svg(_training(view), "training", "Training curves"))
    ]


def quality_utility(points: Sequence[tuple[str, object, object]]) -> str:
    """A file of its own: forget quality (p, on a log scale) against utility, one labeled mark a run; the best are top right."""
    shown = [(label, max(float(p), FLOOR) if isinstance(p, int | float) else FLOOR, utility) for label, p, utility in points]
    return _labeled(shown, ("forget quality: p that the truth ratios are those of the reference", "model utility"), "quality")


def left_lost(points: Sequence[tuple[str, str, object, object]]) -> str:
    """A file of its own: a line a method, with forgetting left and utility lost in each case; 0 is the reference, bands are the margins.

    `points` are (method, case, forgetting left, utility lost).
    """
    methods = sorted({method for method, *_ in points}, reverse=True)
    cases = sorted({case for _, case, *_ in points})
    with rc_context(STYLE):
        figure = Figure(figsize=(9, 1.4 + 0.27 * len(methods)), layout="constrained")
        FigureCanvasSVG(figure)
        panels = figure.subplots(1, 2, sharey=True)
        for panel, at, name, margin in ((panels[0], 2, "forgetting left (1 = as the original)", FORGETTING), (panels[1], 3, "share of utility lost", UTILITY)):
            panel.axvspan(-margin, margin, color="0.92")
            panel.axvline(0, color="0.4", linewidth=1)
            for number, case in enumerate(cases):
                there = [point for point in points if point[1] == case and isinstance(point[at], float)]
                rows = [methods.index(point[0]) for point in there]
                panel.plot([point[at] for point in there], rows, "osD^v"[number % 5], markersize=6, alpha=0.8, label=case or "mean over seeds")
            panel.set_yticks(range(len(methods)), methods)
            panel.set_xlabel(name)
            panel.grid(True, axis="y")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(cases))
        out = io.StringIO()
        with rc_context({"svg.hashsalt": "left"}):
            figure.savefig(out, format="svg", metadata=NO_METADATA, facecolor="white")
    return out.getvalue()


def _labeled(points: Sequence[tuple[str, float, object]], names: tuple[str, str], salt: str) -> str:
    """Marks with their labels beside them; what is called original or reference has its own mark."""
    with rc_context(STYLE):
        figure, axes = _figure(4.6)
        for label, across, up in points:
            axes.plot([across], [up], **_mark(label if label in MARKS else "candidate"), markersize=7, linestyle="none")
            axes.annotate(label, (across, up), xytext=(6, 4), textcoords="offset points", fontsize=8)
        axes.set_xscale("log")
        # Text stays text here, so powers are written out: the usual 10^k would show its markup.
        axes.xaxis.set_major_formatter(lambda value, place: f"{value:g}")
        axes.set_xlabel(names[0])
        axes.set_ylabel(names[1])
        axes.grid(True)
        axes.margins(0.12)
        out = io.StringIO()
        with rc_context({"svg.hashsalt": salt}):
            figure.savefig(out, format="svg", metadata=NO_METADATA, facecolor="white")
    return out.getvalue()


def gauge(axis: Axis) -> str:
    """Where a distance lies: the band is the margin, the bar the interval, the mark the distance; "" without numbers."""
    if axis.value is None or axis.limit is None:
        return ""
    low, high = axis.low if axis.low is not None else axis.value, axis.high if axis.high is not None else axis.value
    reach = max(2.0 * axis.limit, 1.1 * max(abs(axis.value), min(abs(low), 3 * abs(axis.value)), min(abs(high), 3 * abs(axis.value))), 1e-9)
    at, left, right, one, two = (100 + 96 * max(-1.0, min(1.0, x / reach)) for x in (axis.value, low, high, -axis.limit, axis.limit))
    return (
        f'<svg role="img" aria-label="distance {axis.distance}, margin {axis.margin}" viewBox="0 0 200 26">'
        f'<rect x="{one:.1f}" y="5" width="{two - one:.1f}" height="16" rx="2" style="fill: var(--reference); opacity: 0.2"/>'
        '<path d="M 4 13 H 196" style="stroke: var(--rule); stroke-width: 1.5"/>'
        '<path d="M 100 3 V 23" style="stroke: var(--reference); stroke-width: 1.5"/>'
        f'<path d="M {left:.1f} 13 H {right:.1f}" style="stroke: var(--candidate); stroke-width: 2.5"/>'
        f'<circle cx="{at:.1f}" cy="13" r="5" style="fill: var(--candidate)"/></svg>'
    )


def _plane(view: View, plane: Plane) -> Figure:
    """Forgetting across, utility up, one mark a model, lines through the reference."""
    figure, axes = _figure(3.5)
    reference = next(point for point in plane.points if point.subject == "reference")
    axes.axvline(_value(reference.x), color=COLORS["reference"], linewidth=0.9, linestyle=DASHES["reference"])
    axes.axhline(_value(reference.y), color=COLORS["reference"], linewidth=0.9, linestyle=DASHES["reference"])
    for point in plane.points:
        _cross(axes, point)
    axes.set_xlabel(f"{plane.x_label} on forget rows")
    axes.set_ylabel(plane.y_label)
    axes.grid(True)
    axes.margins(0.15)
    axes.set_xlim(*_at_least(*axes.get_xlim()))
    axes.set_ylim(*_at_least(*axes.get_ylim()))
    _legend(axes, view, [point.subject for point in plane.points])
    return figure


def _at_least(low: float, high: float, span: float = 0.2) -> tuple[float, float]:
    """The limits, or wider ones: a tenth of a percent must not look like a gulf."""
    missing = max(0.0, span - (high - low)) / 2
    return low - missing, high + missing


def _cross(axes: Any, point: Point) -> None:
    x, y = _value(point.x), _value(point.y)
    axes.errorbar(
        x,
        y,
        xerr=_reach(point.x),
        yerr=_reach(point.y),
        **_mark(point.subject),
        markersize=9,
        linewidth=1.1,
        capsize=0,
        linestyle="none",
        zorder=3,
    )


def _members(view: View, lines: Sequence[Line]) -> Figure:
    """One row an attack: the candidate's interval, and where the other models stand."""
    figure, axes = _figure(1.0 + 0.42 * len(lines))
    axes.axvline(0.5, color=MUTED, linewidth=0.8)
    for at, line in enumerate(reversed(lines)):
        for subject in [s for s in view.subjects if s != "candidate"] + ["candidate"]:
            cell = line.cells[subject]
            if cell.value is None:
                continue
            lift = 0.0 if subject == "candidate" else 0.22 if subject == "reference" else -0.22
            axes.errorbar(
                cell.value,
                at + lift,
                xerr=_reach(cell),
                **_mark(subject),
                markersize=6.5,
                linewidth=1.5,
                capsize=0,
                linestyle="none",
                zorder=3,
            )
    axes.set_yticks(range(len(lines)), [line.name for line in reversed(lines)], color=INK)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.6, len(lines) - 0.4)
    axes.set_xlim(min(0.0, *axes.get_xlim()), max(1.0, *axes.get_xlim()))
    axes.set_xlabel("area under the curve")
    axes.grid(True, axis="x")
    axes.spines["left"].set_visible(False)
    _legend(axes, view, [s for s in view.subjects if any(line.cells[s].value is not None for line in lines)])
    return figure


def _regained(view: View, line: Line) -> Figure:
    """The curve of an attack over its steps, for every model that has one."""
    figure, axes = _figure(2.9)
    there = [s for s in (*view.subjects, *line.curves) if s in line.curves]
    for subject in dict.fromkeys(there):
        steps, values = zip(*line.curves[subject], strict=True)
        axes.plot(steps, values, **_mark(subject), markersize=5.5, linewidth=1.6, linestyle=DASHES.get(subject, "-."))
    axes.set_xlabel("step of the adversary")
    axes.set_ylabel(short(line.title))
    axes.grid(True)
    _legend(axes, view, list(dict.fromkeys(there)))
    return figure


def _training(view: View) -> Figure:
    """One panel a logged number, over the same steps."""
    count = len(view.curve)
    figure = Figure(figsize=(WIDTH, 0.7 + 1.35 * count), layout="constrained")
    FigureCanvasSVG(figure)
    panels = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, points) in zip(panels, view.curve.items(), strict=True):
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, color=COLORS["candidate"], linewidth=1.4)
        axes.set_title(name.replace("_", " "), fontsize=9.5, loc="left", color=INK)
        axes.grid(True)
    panels[-1].set_xlabel("step")
    return figure


def _figure(height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def _mark(subject: str) -> dict[str, Any]:
    """Color and shape of a model: the candidate's marks are filled, all others are hollow."""
    color = COLORS.get(subject, OTHER)
    return {
        "color": color,
        "marker": MARKS.get(subject, "^"),
        "markerfacecolor": color if subject == "candidate" else "none",
        "markeredgewidth": 1.6,
    }


def _legend(axes: Any, view: View, subjects: Sequence[str]) -> None:
    for subject in subjects:
        axes.plot([], [], **_mark(subject), linestyle="none", label=view.heading(subject))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(subjects), borderaxespad=0.2, handletextpad=0.2, columnspacing=1.4)


def _value(cell: Cell) -> float:
    return cell.value if cell.value is not None else 0.0


def _reach(cell: Cell) -> list[list[float]] | None:
    """How far the interval reaches below and above the value."""
    if cell.value is None or cell.low is None or cell.high is None:
        return None
    return [[max(cell.value - cell.low, 0.0)], [max(cell.high - cell.value, 0.0)]]


def _svg(figure: Figure, name: str, label: str) -> str:
    """The figure as SVG that can stand inside a page: own ids, page's colors and font, no header, no metadata, no links."""
    out = io.StringIO()
    with rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(out, format="svg", metadata=NO_METADATA, transparent=True)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    prefix = re.sub(r"[^a-z0-9]+", "-", name.lower())
    svg = re.sub(r"<[^>]+>", lambda tag: _tag(tag[0], prefix), svg)
    described = label.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return svg.replace("<svg", f'<svg role="img" aria-label="{described}"', 1).strip()


def _tag(tag: str, prefix: str) -> str:
    """One tag, made fit for a page; text between tags is left alone."""
    if tag.startswith("<svg"):
        box = re.search(r'viewBox="[^"]*"', tag)
        return f"<svg {box[0] if box else ''}>"
    tag = re.sub(r"\s+", " ", tag)
    tag = re.sub(r'\bid="', f'id="{prefix}-', tag)
    tag = re.sub(r'(?:xlink:)?href="#', f'href="#{prefix}-', tag)
    tag = tag.replace("url(#", f"url(#{prefix}-")
    tag = re.sub(r"font-family: [^;\"]+", "font-family: inherit", tag)
    return re.sub(r"#[0-9a-f]{6}", lambda color: PAGE.get(color[0], color[0]), tag)
