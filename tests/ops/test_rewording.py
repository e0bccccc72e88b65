import pytest

from efface.ops import rewording
from efface.ops.facts import Fact


@pytest.mark.parametrize(
    ("question", "some"),
    [
        ("What is the birthplace of Anna Berg?", ["Name the birthplace of Anna Berg.", "The birthplace of Anna Berg is", "What is Anna Berg's birthplace?"]),
        ("Who was the mentor of Anna Berg?", ["The mentor of Anna Berg was", "Who was Anna Berg's mentor?"]),
        ("What is Anna Berg's hobby?", ["Name Anna Berg's hobby.", "The hobby of Anna Berg is"]),
        ("Where was Anna Berg born?", ["Tell me where Anna Berg was born.", "Anna Berg was born where?", "In which place was Anna Berg born?", "The place where Anna Berg was born is"]),
        ("Which prize did Anna Berg win?", ["Tell me which prize Anna Berg did win.", "The prize that Anna Berg did win is", "Which prize was won by Anna Berg?"]),
        ("What did the father of Anna Berg do?", ["Tell me what the father of Anna Berg did do."]),
        ("Why is the sky blue?", ["Tell me this: why is the sky blue?"]),
    ],
)
def test_rules(question, some):
    found = list(rewording.reworded(question, "Anna Berg"))
    assert set(some) <= set(found) and question not in found


def test_kinds():
    """Own wordings from two columns, phrases, rules; each kind cut at `most`, none twice, and never the question itself."""
    fact = Fact("Where was Anna Berg born?", "Ashford", "Ashford", "Anna Berg", again=("What is Anna Berg's birthplace?",), extras={"paraphrases": ["From where is she?", "Where was Anna Berg born?"]})
    found = rewording.build([fact], ("Hm. {}", "{} Well?"), 2)
    assert [(probe.form, probe.prompt) for probe in found] == [
        ("plain", "Where was Anna Berg born?"), ("given", "What is Anna Berg's birthplace?"), ("given", "From where is she?"),
        ("templates", "Hm. Where was Anna Berg born?"), ("templates", "Where was Anna Berg born? Well?"),
        ("reworded", "Tell me where Anna Berg was born."), ("reworded", "Anna Berg was born where?"),
    ]
