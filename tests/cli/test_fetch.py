import json

from efface.data import fetch, sources


def test_the_list(efface) -> None:
    done = efface("fetch")
    assert done.code == 0 and "LICENSE" in done.out.splitlines()[0]
    for source in sources.SOURCES:
        assert any(line.startswith(source.name) and source.license in line and str(source.megabytes) in line for line in done.out.splitlines())
    assert {row["name"] for row in json.loads(efface("fetch", "--json").out)} == {source.name for source in sources.SOURCES}


def test_one_is_fetched_and_its_license_is_printed(efface, monkeypatch, tmp_path) -> None:
    seen = []

    def fetched(name, package, progress):
        seen.append((name, package))
        return tmp_path

    monkeypatch.setattr(fetch, "fetch", fetched)
    done = efface("fetch", "spam-assassin", "--from", tmp_path / "a.tgz")
    assert done.code == 0 and "CC0-1.0" in done.out and "real mail" in done.out and "20 MB" in done.err
    assert seen == [("spam-assassin", tmp_path / "a.tgz")]
    assert json.loads(efface("fetch", "mnist-5k", "--json").out)["folder"] == str(tmp_path)


def test_unknown_names_and_missing_packages_are_refused(efface, tmp_path) -> None:
    done = efface("fetch", "fashion")
    assert done.code == 2 and "did you mean fashion-mnist" in done.line
    done = efface("fetch", "mnist-5k", "--from", tmp_path / "nowhere.whl")
    assert done.code == 2 and "no file" in done.err
