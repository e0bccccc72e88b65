"""The comparison: finished cells are never run again, failed ones are said, and the table goes where it was asked for."""

from pathlib import Path

import pytest

from efface import compare as comparing
from efface.cli.main import run
from efface.core.errors import EffaceError, UnknownName

REPORT = (Path(__file__).parent / "report" / "example.json").read_text(encoding="utf-8")


@pytest.fixture()
def cells(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Cells that were run; each writes the example's report, but for rmu, which fails."""
    ran: list[str] = []

    def cell(cell: comparing.Cell, options: comparing.CompareOptions, folder: Path, held: dict) -> None:
        ran.append(f"{cell.method}-{cell.seed}")
        if cell.method == "rmu":
            raise EffaceError("it broke")
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(REPORT, encoding="utf-8")

    monkeypatch.setattr(comparing, "_alone", cell)
    return ran


def test_cells_are_run_once_and_failures_are_said(tmp_path: Path, cells: list[str]):
    options = comparing.CompareOptions(methods=("npo", "rmu"), seeds=(0, 1), out=tmp_path)
    path = comparing.compare(options)
    assert path == tmp_path / "table.md"
    assert cells == ["npo-0", "rmu-0", "npo-1", "rmu-1"]
    text = path.read_text()
    assert "| npo | 0 |" in text and "| npo | 1 |" in text and "- rmu-seed1: failed: it broke" in text
    assert "`efface compare --benchmark authors --methods npo,rmu --seeds 0,1 --out" in text
    comparing.compare(options)
    assert cells[4:] == ["rmu-0", "rmu-1"], "what is finished is not run again, what failed is"


def test_the_table_goes_where_it_was_asked_for(tmp_path: Path, cells: list[str], capsys: pytest.CaptureFixture[str]):
    table = tmp_path / "docs" / "table.md"
    assert run(["compare", "--methods", "npo", "--seeds", "0", "--out", str(tmp_path / "runs"), "--table", str(table)]) == 0
    assert table.exists() and table.with_suffix(".json").exists() and table.with_suffix(".svg").read_text().rstrip().endswith("</svg>")
    assert not (tmp_path / "runs" / "table.md").exists()


def test_unknown_methods_and_settings_stop_before_any_cell(tmp_path: Path, cells: list[str]):
    for changes in ({"methods": ("npo", "npoo")}, {"methods": ("npo",), "settings": {"npo": {"beto": 1}}}, {"methods": ("npo",), "settings": {"dpo": {"beta": 1}}}):
        with pytest.raises(UnknownName):
            comparing.compare(comparing.CompareOptions(out=tmp_path, **changes))
    assert cells == []


def test_cases_of_other_commands_are_not_taken_for_these(tmp_path: Path):
    """One value or several, a cell's folder names the case it is of."""
    one, both = (comparing.CompareOptions(benchmark="digits", case={"scenario": values}, out=tmp_path) for values in (("noisy",), ("class", "noisy")))
    assert list(comparing._cases(one)) == ["scenario=noisy"] and list(comparing._cases(both)) == ["scenario=class", "scenario=noisy"]
    assert comparing.Cell("scenario=noisy", "ssd", 1).folder == "ssd-scenario-noisy-seed1"
    assert list(comparing._cases(comparing.CompareOptions(benchmark="digits", out=tmp_path))) == [""]
