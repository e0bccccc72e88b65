"""The facts about countries: remade from countryinfo where that is installed, and sound as rows."""

import pytest

from efface.core.errors import UnknownName
from efface.data import country_facts
from efface.ops import facts, probes


def test_the_shipped_file_is_what_the_package_gives(tmp_path):
    pytest.importorskip("countryinfo")
    country_facts.write(tmp_path / "countries.json")
    shipped = country_facts.files("efface.data").joinpath("rwku/countries.json").read_text(encoding="utf-8")
    assert (tmp_path / "countries.json").read_text(encoding="utf-8") == shipped


def test_facts_by_hand():
    found = country_facts.countries()["France"]
    assert found["capital"] == ["Paris"] and found["region"] == ["Western Europe"] and found["language"] == ["French"]
    assert found["border"][:5] == ["Belgium", "Germany", "Italy", "Spain", "Switzerland"] and "Monaco" in found["border"]
    assert country_facts.countries()["United States"]["capital"] == ["Washington", "Washington D.C."]
    assert country_facts.countries()["Brazil"]["continent"] == ["South America"] and "region" not in country_facts.countries()["Brazil"]


@pytest.mark.parametrize("country", ["France", "Japan", "United Kingdom", "South Africa", "New Zealand"])
def test_every_row_says_its_value_and_none_of_the_wrong_ones(country):
    rows = country_facts.rows(country)
    assert len(rows) == 2 * len({row["relation"] for row in rows}) >= 10
    for row, fact in zip(rows, facts.of_rows(rows), strict=True):
        assert facts.says(row["answer"], [row["value"]]) and not facts.says(row["question"], [row["value"]])
        assert len(set(row["perturbed_answer"])) == 3
        assert not [text for text in row["perturbed_answer"] if facts.says(text, fact.accepted, row["question"])]
        assert row["cloze"].count("___") == 1
        assert "the the" not in str(row).casefold() and "{" not in row["question"]
        assert len(fact.wrong) == 3 and fact.value == row["value"] and fact.subject == country


def test_an_article_stands_where_a_sentence_needs_it():
    first = country_facts.rows("United Kingdom")[0]
    assert first["question"] == "What is the capital of the United Kingdom?" and first["subject"] == "United Kingdom"
    assert {row["answer"] for row in country_facts.rows("United Kingdom") if row["relation"] == "continent"} == {
        "The United Kingdom is a country in Europe.", "The United Kingdom lies on the continent of Europe.",
    }
    assert "the Netherlands" in [value for row in country_facts.rows("Belgium") if row["relation"] == "border" for value in (row["value"], *row["aliases"])]


def test_a_question_back_is_asked_only_where_one_country_answers_it():
    back = {row["relation"]: row["reverse_question"] for row in country_facts.rows("Japan", 0)}
    assert back["capital"] == "Of which country is Tokyo the capital?" and back["currency"] == "Which country has the yen as its currency?"
    assert back["continent"] == back["region"] == ""
    france = {row["relation"]: row["reverse_question"] for row in country_facts.rows("France", 0)}
    assert france["currency"] == france["language"] == ""  # others have the euro, and speak French
    asked = probes.ask("reverse", facts.of_rows(country_facts.rows("France", 0)))
    assert [probe.prompt for probe in asked] == ["Of which country is Paris the capital?", "From which country is a person who is French?"]


def test_neighbors_border_on_it_or_lie_in_its_region():
    assert country_facts.near("France") == ["Belgium", "Germany", "Italy", "Spain", "Switzerland"]
    assert country_facts.near("Japan") == ["China", "Mongolia", "South Korea"]
    assert country_facts.near("Australia") == ["New Zealand"]
    assert all(country_facts.near(name) for name in country_facts.countries())


def test_an_unknown_country_is_refused():
    with pytest.raises(UnknownName, match="no country named 'Frace'; did you mean France"):
        country_facts.rows("Frace")
