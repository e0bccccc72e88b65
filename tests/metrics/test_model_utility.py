import numpy as np
import pytest

from efface.core.errors import Missing
from efface.core.types import Data, Request
from efface.families.forms import Options
from efface.metrics.model_utility import ModelUtility, harmonic, numbers_of
from efface.testing.tiny import context, facts, tiny_lm, trained_lm


def test_formula():
    """Losses 1 | 1, 2, 3 without a paraphrase: probability e^-1, among the options 0.399486, truth 1 - e^-1 (loss space)."""
    row = Options(1.0, 1.0, (1.0, 2.0, 3.0))
    alone = numbers_of([row], [0.5], among=False, space="loss")
    assert [float(alone[name][0]) for name in ("probability", "rouge", "truth_ratio")] == pytest.approx([0.367879, 0.5, 0.632121], abs=1e-6)
    assert float(numbers_of([row], [0.5], among=True, space="loss")["probability"][0]) == pytest.approx(0.399486, abs=1e-6)
    assert float(numbers_of([row], [0.5], among=True, space="probability")["truth_ratio"][0]) == pytest.approx(1 - 0.501072, abs=1e-6)


def test_one_low_part_pulls_the_whole_down():
    """Harmonic mean of eight .9 and one .01: 9 / (8/.9 + 1/.01) = 0.0827."""
    parts = {"keep": {str(at): np.full(4, 0.9) for at in range(8)} | {"low": np.full(4, 0.01)}}
    assert harmonic(parts) == pytest.approx((0.082653, 0.082653, 0.082653), abs=1e-6)
    assert harmonic({"keep": {"a": np.full(4, 0.9), "b": np.zeros(4)}}).value == 0.0


def test_every_set_has_its_three_parts():
    real = [{name: row[name] for name in ("question", "answer", "perturbed_answer")} for row in facts().keep[:6]]
    ctx = context(utility={"capitals": Data.inline(real), "countries": Data.inline(real[:4])})
    found = ModelUtility.set({"rows": 12}).run(trained_lm(), facts().request, ctx)
    assert set(found.parts) == {f"{which} {number}" for which in ("keep", "capitals", "countries") for number in ("probability", "rouge", "truth_ratio")}
    assert found.value == pytest.approx(9 / sum(1 / part for part in found.parts.values()), abs=1e-9)
    assert found.n == 12 + 6 + 4 and found.low <= found.value <= found.high
    assert found.value > ModelUtility.set({"rows": 12}).run(tiny_lm(), facts().request, context(utility=ctx.utility)).value


def test_probability_among_the_options_on_further_sets_alone():
    """The same rows as keep rows and as a set of facts: the first gives p, the second p's share among the options."""
    rows = facts().keep[:5]
    request = Request(keep=Data.inline(rows))
    found = ModelUtility().run(tiny_lm(), request, context(utility={"same": Data.inline(rows)}))
    assert found.parts["keep probability"] < 0.1 < found.parts["same probability"] < 0.3
    assert found.parts["keep truth_ratio"] == pytest.approx(found.parts["same truth_ratio"], abs=1e-9)


def test_sets_without_wrong_answers_are_named():
    bare = Data.inline([{"question": "Who?", "answer": "Runa."}])
    with pytest.raises(Missing, match="keep rows .*perturbed_answer"):
        ModelUtility().run(tiny_lm(), Request(keep=bare), context())
    with pytest.raises(Missing, match="capitals rows"):
        ModelUtility().run(tiny_lm(), facts().request, context(utility={"capitals": bare}))
