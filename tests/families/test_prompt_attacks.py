import numpy as np
import pytest

from efface.attacks.paraphrase import Paraphrase
from efface.core.context import Context
from efface.core.errors import BadRows, Missing, Unfit
from efface.core.types import Data, Request
from efface.families import prompt_attacks
from efface.families.prompt_attacks import Goal, PromptAttackConfig
from efface.testing.painting import Painter, Reader

CARD = Paraphrase.card
LABELS = ("dog", "cat", "boat")


def request(*prompts, **columns):
    return Request(kind="concept", names=("a cat",), forget=Data.inline([{"prompt": prompt, **columns} for prompt in prompts]))


def context(**changes):
    budget = changes.pop("budget", {})
    return Context(baselines={"judge/object": Reader(LABELS), **changes}, budget=budget)


def run(searches, subject, asked, ctx, **settings):
    return prompt_attacks.attacked(CARD, PromptAttackConfig(**settings), searches, subject, asked, ctx)


def shouting(hunt):
    """The prompt in capitals."""
    for at in hunt.open():
        hunt.step([at])
        hunt.look([(at, hunt.trials[at].prompt.upper())])


def whispering(hunt):
    hunt.look([(at, f"psst {hunt.trials[at].prompt}") for at in hunt.open()])


def knows(*words):
    """Paints a cat (class 1) when one of the words is in the prompt, a dog otherwise."""
    return Painter(lambda prompt, seed: int(any(word in prompt for word in words)))


def test_rates():
    """Of four prompts one succeeds as it is, one more in capitals: pre-ASR 1/4, ASR (1 + 1)/4; the first costs neither steps nor pictures.

    Wilson's interval of 2 of 4 is .150 to .850.
    """
    subject = knows("tabby", "SIAM")
    found = run({"loud": shouting}, subject, request("a tabby", "a siam", "a manx", "a lynx"), context(), rows=4)
    assert (found.parts["unattacked"], found.value, found.n) == (0.25, 0.5, 4)
    assert (found.low, found.high) == pytest.approx((0.150, 0.850), abs=1e-3)
    assert [(row["unattacked"], row["success"], row["steps"], row["pictures"]) for row in found.table] == [
        (True, True, 0, 0), (False, True, 1, 1), (False, False, 1, 1), (False, False, 1, 1),
    ]
    assert [row["found"] for row in found.table] == ["", "A SIAM", "A MANX", "A LYNX"]
    assert (found.parts["steps"], found.parts["pictures"], found.parts["per_picture"]) == (3, 3, 1 / 3)
    assert found.parts["reference"] is None and found.better == "as-reference"


@pytest.mark.parametrize("words", [(), ("tabby",), ("TABBY",), ("tabby", "MANX"), ("a", "A")])
def test_the_attacked_rate_is_never_below_the_plain_one(words):
    found = run({"loud": shouting}, knows(*words), request("a tabby", "a manx"), context())
    assert found.value >= found.parts["unattacked"] and found.low <= found.value <= found.high


def test_candidates_are_drawn_with_the_prompts_own_seed_and_guidance():
    subject, given = knows("CAT"), request("a cat", seed=69922, guidance=4.0)
    rows = []
    subject.generate = lambda prompts, seeds=None: rows.extend(prompts) or Painter.generate(subject, prompts, seeds)
    found = run({"loud": shouting}, subject, given, context(), rows=1)
    assert subject.asked == [("a cat", 69922), ("A CAT", 69922)] and [row["guidance"] for row in rows] == [4.0, 4.0]
    assert found.table[0]["seed"] == 69922


def test_few_prompts_come_with_several_seeds():
    """Eight trials of two prompts: four seeds each. A prompt that succeeds with some seeds counts as often."""
    subject = Painter(lambda prompt, seed: int(seed < 300))
    found = run({"loud": shouting}, subject, request("a cat", "a kitten"), context(), rows=8)
    assert found.n == 8 and found.value == 0.5 and [row["seed"] for row in found.table[:4]] == [188, 288, 388, 488]


def test_two_searches_are_united():
    """One prompt falls to each: shares 1/3 and 1/3 (the plain success in neither), together 2/3. Both start from the same prompts."""
    subject = knows("TABBY", "psst a manx")
    found = run({"loud": shouting, "low": whispering}, subject, request("a tabby", "a manx", "a lynx"), context(), rows=3)
    assert (found.value, found.parts["loud"], found.parts["low"]) == (2 / 3, 1 / 3, 1 / 3)
    assert [(row["kind"], row["found"], row["pictures"]) for row in found.table] == [("loud", "A TABBY", 2), ("low", "psst a manx", 2), ("", "psst a lynx", 2)]


def test_the_reference_is_attacked_too():
    """Once, without a budget of its own, whoever is measured; the subject's budget binds the subject alone."""
    reference = knows("psst a manx")
    ctx = context(reference=reference, budget={"pictures": 1})
    found = run({"loud": shouting, "low": whispering}, knows(), request("a tabby", "a manx"), ctx, rows=2)
    assert (found.value, found.parts["reference"], found.parts["reference_unattacked"]) == (0, 0.5, 0)
    assert "budget of 1 pictures is spent" in found.why
    assert [row["reference_found"] for row in found.table] == ["psst a tabby", "psst a manx"]
    before = len(reference.asked)
    run({"loud": shouting, "low": whispering}, knows("x"), request("a tabby", "a manx"), ctx.alone(budget={}), rows=2)
    assert len(reference.asked) == before


def test_what_cannot_be_typed_is_counted_and_not_drawn():
    subject = knows()
    found = run({"none": lambda hunt: hunt.look([(at, None) for at in hunt.open()])}, subject, request("a cat"), context(), rows=1)
    assert found.parts["rejected"] == 1 and found.parts["pictures"] == 0 == found.value and len(subject.asked) == 1


def test_the_goal():
    """A row's own class counts, by number or by name, else that of the concept; `top` widens it. Second choices of the reader are the next class."""
    goal = Goal("object", Reader(LABELS), 1)
    pictures = np.stack([np.full((16, 16, 3), 40 * number, np.uint8) for number in (0, 1, 2)])
    rows = [{"prompt": ""}, {"prompt": "", "object": 1}, {"prompt": "", "object": "boat"}]
    assert goal.met(pictures, rows).tolist() == [False, True, True]
    assert Goal("object", Reader(LABELS), 1, top=2).met(pictures, rows).tolist() == [True, True, True]
    with pytest.raises(BadRows, match="'mouse' is no class of the judge; there are dog, cat, boat"):
        goal.met(pictures[:1], [{"prompt": "", "object": "mouse"}])
    with pytest.raises(Unfit, match="frames of a video"):
        goal.met(pictures[None], rows[:1])


def test_no_judge():
    with pytest.raises(Missing, match="judge"):
        run({"loud": shouting}, knows(), request("a cat"), Context())
    with pytest.raises(Missing, match="no judge has a class"):
        run({"loud": shouting}, knows(), Request(kind="concept", names=("a zebra",), forget=Data.inline([{"prompt": "a zebra"}])), context())
