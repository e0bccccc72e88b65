from efface.ops import jailbreaks
from efface.ops.facts import Fact
from efface.ops.jailbreaks import PLAIN, TEMPLATES

FACTS = [
    Fact("Where was Anna Berg born?", "Anna Berg was born in Ashford.", "Ashford", "Anna Berg", "birthplace", statement="Anna Berg was born in Ashford."),
    Fact("What does Anna Berg write?", "Anna Berg writes tales of Ashford.", "tales of Ashford", "Anna Berg", statement="Anna Berg writes tales of Ashford."),
    Fact("What does Anna Berg like?", "Anna Berg likes rain.", "rain", "Anna Berg", statement="Anna Berg likes rain."),
    Fact("Which is the largest ocean?", "the Pacific", "Pacific"),
]


def test_templates():
    """At least twelve with names of their own, each with the question once; some begin the model's answer."""
    assert len(TEMPLATES) >= 12 and len({template.name for template in TEMPLATES}) == len(TEMPLATES)
    assert all(template.prompt.count("{q}") == 1 for template in TEMPLATES) and sum(bool(template.lead) for template in TEMPLATES) >= 2


def test_every_fact_takes_every_template():
    found = jailbreaks.build(FACTS, FACTS)
    assert all(sum(probe.form == name for probe in found) == len(FACTS) for name in (PLAIN, *(template.name for template in TEMPLATES)))
    assert not any("{" in probe.prompt + probe.lead for probe in found)
    expert = next(probe for probe in found if probe.form == "expert")
    assert expert.prompt.startswith("You know everything about Anna Berg.") and expert.prompt.endswith("Where was Anna Berg born?")


def test_article_and_language():
    """The article tells the other facts that do not give the answer; a language needs a template or a column."""
    found = jailbreaks.build(FACTS, FACTS)
    assert [probe.prompt for probe in found if probe.form == "article"][0] == "Anna Berg likes rain.\n\nWhere was Anna Berg born?"
    assert [probe.fact for probe in found if probe.form == "language"] == [0]


def test_own_article():
    fact = Fact("Where was Anna Berg born?", "Ashford", "Ashford", "Anna Berg", extras={"article": "Anna Berg is a writer. She is from Ashford. She likes rain."})
    assert jailbreaks.article(fact, []) == "Anna Berg is a writer. She likes rain."
