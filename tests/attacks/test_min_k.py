import numpy as np
import pytest

from efface.attacks.min_k import MinK
from efface.core.errors import BadConfig
from efface.families import forms
from efface.testing.tiny import context, facts, retrained_lm, tiny_lm, trained_lm


def test_formula():
    """Of each row, without its end token, the mean of the int(.4 T) lowest log-probabilities, found by sorting them here."""
    subject, ctx = tiny_lm(), context()
    table = [row["value"] for row in MinK().run(subject, facts().request, ctx).table if row["set"] == "forget"]
    for row, got in zip(forms.gold(subject, facts().forget, ctx), table, strict=True):
        lowest = sorted(row.log_probs[:-1])[: int(0.4 * (len(row.log_probs) - 1))]
        assert got == pytest.approx(np.mean(lowest), abs=1e-6)


def test_all_tokens_are_the_loss_without_the_end_token():
    subject, ctx = tiny_lm(), context()
    table = MinK.set({"k": 1.0}).run(subject, facts().request, ctx).table
    assert table[0]["value"] == pytest.approx(float(forms.gold(subject, facts().forget, ctx)[0].log_probs[:-1].mean()), abs=1e-6)


def test_share_is_checked():
    for k in (0.0, 1.5):
        with pytest.raises(BadConfig, match="k"):
            MinK.set({"k": k})


def test_finds_members_where_there_are_any(over):
    request, ctx = facts().request, context(baselines={"reference": retrained_lm()})
    assert MinK().run(trained_lm(), request, ctx).value > 0.9
    assert MinK().run(retrained_lm(), request, ctx).value == pytest.approx(0.5, abs=0.2)
    assert MinK().run(over, request, ctx).value < 0.1
