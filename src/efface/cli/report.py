"""efface report: the views of a proven run."""

from __future__ import annotations

from efface.cli import options as o
from efface.cli.output import emit, result


def report(run: o.Run, as_json: o.Json = False) -> None:
    """Write report.html and report.md into the run folder, from its record."""
    from efface import runs

    page = runs.write_report(run)
    if as_json:
        emit({"html": page, "markdown": page.with_suffix(".md"), "json": page.with_suffix(".json")})
    else:
        result(str(page))
