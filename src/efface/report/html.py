"""One HTML file that needs nothing but itself: no network, no script, and every foreign text escaped."""

from __future__ import annotations

import functools
from pathlib import Path

import jinja2
from markupsafe import Markup

from efface.core.types import Report
from efface.report import build, charts
from efface.report.view import is_picture

TEMPLATES = Path(__file__).with_name("templates")
SIGNS = {"good": "✓", "bad": "✕", "warn": "!", "unknown": "?"}
"""The verdict's sign, which says the same as its color."""


def render(report: Report) -> str:
    """The report as one offline page; the same report gives the same bytes."""
    view = build.view(report)
    drawn = [chart._replace(svg=Markup(chart.svg)) for chart in charts.draw(view)]  # noqa: S704  drawn here, with text escaped
    gauges = [(axis, Markup(charts.gauge(axis))) for axis in view.axes]  # noqa: S704
    template = _environment().get_template("report.html.j2")
    return template.render(view=view, charts=drawn, gauges=gauges, sign=SIGNS[view.tone], schema=report.schema_version) + "\n"


@functools.cache
def _environment() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(TEMPLATES)
    made = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.tests["picture"] = is_picture
    return made
