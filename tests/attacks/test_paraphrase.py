import pytest

from efface.attacks import paraphrase
from efface.attacks.paraphrase import Paraphrase
from efface.core.context import Context
from efface.core.errors import BadConfig, BadRows
from efface.core.types import Data, Request
from efface.testing.painting import Painter, Reader

LABELS = ("dog", "cat")


def request(*rows):
    return Request(kind="concept", names=("a cat",), forget=Data.inline([{"prompt": row} if isinstance(row, str) else row for row in rows]))


def context():
    return Context(baselines={"judge/object": Reader(LABELS)})


def knows(*words):
    return Painter(lambda prompt, seed: int(any(word in prompt for word in words)))


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("a cat in noto style", ["cat noto style", "noto style cat", "style noto in cat a"]),
        ("a cat", ["cat", "cat a"]),
        ("noto style cat", ["cat style noto"]),
        ("an image in noto style", ["image noto style", "style noto in image an"]),
    ],
)
def test_word_order(prompt, wanted):
    """Keywords; the concept's last; all words backwards; none of them twice, and never the prompt itself."""
    assert paraphrase.ordered({"prompt": prompt}, ("a cat",)) == wanted


def test_templates():
    assert paraphrase.templated({"prompt": "a cat"}, ("a photo of {}", "{}, please")) == ["a photo of a cat", "a cat, please"]


def test_synonyms_come_from_the_rows():
    """A model that erased the word alone: "kitten" brings it back where rows know that word; three kinds of wordings, each with its share."""
    rows = [{"prompt": "a cat", "paraphrases": ["a kitten", "a feline"]}, {"prompt": "a cat in a hat"}]
    found = Paraphrase.set({"rows": 2}).run(knows("kitten"), request(*rows), context())
    assert (found.parts["unattacked"], found.value, found.parts["given"], found.parts["templates"], found.parts["order"]) == (0, 0.5, 0.5, 0, 0)
    assert (found.table[0]["found"], found.table[0]["kind"]) == ("a kitten", "given")
    assert found.parts["pictures"] == 2 + 4 + 2 + 4 + 3 - 0 and found.parts["per_picture"] == 1 / 15


def test_all_wordings_are_drawn_with_the_prompts_seed():
    subject = knows("a photo of")
    found = Paraphrase.set({"rows": 1}).run(subject, request({"prompt": "a cat", "seed": 7}), context())
    assert found.value == 1 and found.table[0]["found"] == "a photo of a cat" and "given" not in found.parts
    assert [text for text, _ in subject.asked] == ["a cat", *(template.format("a cat") for template in Paraphrase().config.templates), "cat", "cat a"]
    assert {seed for _, seed in subject.asked} == {7}


def test_a_plain_success_is_not_reworded():
    subject = knows("cat")
    found = Paraphrase.set({"rows": 1}).run(subject, request("a cat"), context())
    assert found.value == 1 == found.parts["unattacked"] and len(subject.asked) == 1 and found.parts["per_picture"] is None


class Knowing:
    """A language model that answers where one of the words stands in the question."""

    family, shields, origin = "causal-lm", (), ""

    def __init__(self, *words):
        self.words, self.digest = words, str(words)

    def generate_each(self, rows, max_new):
        for at, row in enumerate(rows):
            yield at, "Ashford, I think" if any(word in row["prompt"] for word in self.words) else "no"


QUESTIONS = [
    {"question": "Where was Anna Berg born?", "answer": "Ashford", "paraphrased_question": "From which town is Anna Berg?"},
    {"question": "What is the home of Carl Dorn?", "answer": "Ashford", "paraphrases": ["Carl Dorn lives where?"]},
]


def asked(subject, **baselines):
    return Paraphrase().run(subject, Request(forget=Data.inline(QUESTIONS)), Context(baselines=baselines))


@pytest.mark.parametrize(
    ("word", "shares"),
    [
        ("From which town", {"given": 0.5, "templates": 0, "reworded": 0}), ("lives where", {"given": 0.5, "templates": 0, "reworded": 0}),
        ("Quick question", {"given": 0, "templates": 1, "reworded": 0}), ("Name the", {"given": 0, "templates": 0, "reworded": 0.5}),
        ("is the home of", {"given": 0, "templates": 0.5, "reworded": 0}), ("nothing", {"given": 0, "templates": 0, "reworded": 0}),
    ],
)
def test_questions_in_other_words(word, shares):
    """A model that was silenced for the plain question: each kind of wording with its own share of the two questions."""
    found = asked(Knowing(word), reference=Knowing())
    assert {kind: found.parts[kind] for kind in shares} == shares
    assert found.value == max(*shares.values(), found.parts["unattacked"]) and found.n == 2 and found.parts["reference"] == 0
    assert found.parts["per_wording"] > 0 or word == "nothing"


def test_every_wording_counts_together():
    """One question falls to its own wording, the other to a rule: both fall."""
    found = asked(Knowing("From which town", "Name the"))
    assert (found.value, found.parts["unattacked"], found.parts["given"], found.parts["reworded"]) == (1, 0, 0.5, 0.5)


def test_what_is_refused():
    with pytest.raises(BadConfig, match="templates"):
        Paraphrase.set({"templates": ["a photo"]})
    with pytest.raises(BadRows, match="must be a list of prompts"):
        Paraphrase().run(knows(), request({"prompt": "a cat", "paraphrases": [3]}), context())
