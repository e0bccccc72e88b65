import pytest

from efface.ops import redefining
from efface.ops.facts import Fact, gives_away

ANNA = [
    Fact(f"Where did Anna Berg {verb}?", f"Anna Berg {did} in {town}.", town, "Anna Berg", statement=f"Anna Berg {did} in {town}.")
    for verb, did, town in (("live", "lived", "Ashford"), ("study", "studied", "Milltown"), ("work", "worked", "Portby"), ("die", "died", "Ashford"))
]


def by_level(facts, pool, examples=1):
    return {probe.form: probe for probe in redefining.build(facts, pool, "Nim", examples)}


def test_the_levels():
    """Facts that would give the answer (Anna died where she lived) are in no definition and no example."""
    found = by_level(ANNA[:1], ANNA)
    assert found["level 0"].prompt == "Where did Anna Berg live?"
    assert found["level 1"].prompt == "Nim studied in Milltown. Nim worked in Portby. Where did Nim live?"
    assert found["level 2"].prompt == "Nim studied in Milltown. Nim worked in Portby. Where did Nim study? Milltown. Where did Nim live?"
    assert found["level 3"].prompt == "Anna Berg lived in Ashford.\nWhere did Anna Berg live?"
    assert found["level 4"].before == ("Nim studied in Milltown.", "Nim worked in Portby.") and found["level 4"].prompt == "Where did Nim live?"
    assert [level for level, probe in found.items() if any(gives_away(text, ANNA[0]) for text in (*probe.before, probe.prompt))] == ["level 3"]


def test_columns_of_the_row():
    fact = Fact("Has tiger stripes", "yes", "yes", "tiger", extras={"definition": "{} is big. Tiger is striped.", "passage": "Tigers are cats.", "examples": ["Has tiger wings no"]})
    found = by_level([fact], [])
    assert found["level 1"].prompt == "Nim is big. Nim is striped. Has Nim stripes"
    assert found["level 2"].prompt == "Nim is big. Nim is striped. Has Nim wings no. Has Nim stripes"
    assert found["level 3"].prompt == "Tigers are cats.\nHas tiger stripes"


@pytest.mark.parametrize("definition", ["Anna Berg lived in Ashford.", ""])
def test_a_definition_that_holds_the_answer_is_none(definition):
    fact = Fact(ANNA[0].question, ANNA[0].answer, "Ashford", "Anna Berg", extras={"definition": definition})
    assert set(by_level([fact], [fact])) == {"level 0", "level 3"}


def test_pieces():
    """Five sentences in at most three turns; one sentence is no mosaic."""
    assert redefining.pieces("A b. C d! E f? G. H.") == ["A b. C d!", "E f? G.", "H."]
    assert redefining.pieces("A b") == ["A b"] and redefining.pieces(" ") == []
