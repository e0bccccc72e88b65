import pytest

from efface.core.errors import Missing
from efface.core.types import Data, Request
from efface.metrics.rouge_recall import RougeRecall
from efface.testing.tiny import context, facts, retrained_lm, tiny_lm, trained_lm


def test_card_names_package_field_and_stemmer():
    for word in ("rouge-score", "rougeL recall", "stemmer on"):
        assert word in RougeRecall.card.title


def test_tells_who_saw_the_rows():
    request = facts().request
    known, unknown = (RougeRecall().run(model(), request, context()) for model in (trained_lm, retrained_lm))
    assert known.value > 0.95
    assert unknown.value < known.value - 0.1
    assert known.table[0]["answer"].lower().replace(" ", "") == known.table[0]["gold"].lower().replace(" ", "")
    assert known.low <= known.value <= known.high and known.n == 16


def test_short_answers_are_recalled_less():
    request = facts().request
    whole = RougeRecall().run(trained_lm(), request, context())
    cut = RougeRecall.set({"max_new": 3}).run(trained_lm(), request, context())
    assert cut.value < whole.value


def test_plain_text_has_nothing_to_recall():
    request = Request(forget=Data.inline([{"text": "The home of Runa."}]))
    with pytest.raises(Missing, match="plain text"):
        RougeRecall().run(tiny_lm(), request, context())
