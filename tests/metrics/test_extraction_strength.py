import pytest

from efface.families import forms
from efface.metrics.extraction_strength import ExtractionStrength
from efface.testing.tiny import context, facts, retrained_lm, tiny_lm, trained_lm


def test_formula():
    """1 - k/T, k found by trying every number of given tokens from 0 up, on the answer without its end token."""
    ctx, rows = context(), facts()
    found = ExtractionStrength().run(retrained_lm(), rows.request, ctx)
    for score, got in zip(forms.gold(retrained_lm(), rows.forget, ctx), found.table, strict=True):
        hits = score.hit[:-1]
        fewest = next(k for k in range(len(hits) + 1) if all(hits[k:]))
        assert got["value"] == pytest.approx(1 - fewest / len(hits))
    assert found.low <= found.value <= found.high


def test_whole_answers_and_none():
    """A model that knows the rows says them by itself; a random one gets even the last token wrong, and that is 0, not 1/T."""
    request = facts().request
    assert ExtractionStrength().run(trained_lm(), request, context()).value > 0.95
    assert ExtractionStrength().run(tiny_lm(), request, context()).value == 0.0
