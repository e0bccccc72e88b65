"""The four scores by hand on one text, and on the tiny models: made-up passages in the layout of RWKU's files."""

import numpy as np
import pytest

from efface.core.errors import Missing, Unfit
from efface.core.types import Data, Request
from efface.families.causal_lm import RowScore
from efface.metrics.membership_means import SCORES, MembershipMeans
from efface.ops.text_stats import zlib_size
from efface.testing.tiny import context, facts, retrained_lm, trained_lm


def passages():
    """FM: sentences that the trained model saw; RM: others that both models saw."""
    parts = {"forget_mia": facts().forget[:8], "retain_mia": facts().keep[:8]}
    return {name: Data.inline([{"text": row["answer"], "subject": "Runa", "ngram": 7} for row in rows]) for name, rows in parts.items()}


NAME = Request(kind="knowledge", names=("Runa",))


def test_scores_by_hand():
    """Ten tokens at -1 but for two at -3 and -5: the lowest 20 % are those two."""
    log_probs = np.full(10, -1.0)
    log_probs[[2, 7]] = -3.0, -5.0
    row = RowScore(log_probs, np.full(10, -2.0), np.full(10, 0.5), np.ones(10, bool), False, "a text")
    assert SCORES["LOSS"](row) == pytest.approx(1.6)
    assert SCORES["zlib"](row) == pytest.approx(1.6 / zlib_size("a text"))
    assert SCORES["Min-K"](row) == pytest.approx(4.0)
    assert SCORES["Min-K++"](row) == pytest.approx(4.0)  # z = -2 and -6


def test_the_original_differs_from_itself_by_exactly_nothing():
    ctx = context(sets=passages(), baselines={"original": trained_lm()})
    found = MembershipMeans().run(trained_lm(), NAME, ctx)
    for score in SCORES:
        assert [found.parts[f"{score} difference of differences{end}"] for end in ("", ", low", ", high")] == [0.0, 0.0, 0.0]
    assert found.value == found.parts["LOSS FM"] - found.parts["LOSS RM"] == found.parts["LOSS FM - RM"]
    assert found.low <= found.value <= found.high and found.n == 16


def test_who_never_saw_the_target_has_the_larger_difference():
    ctx = context(baselines={"original": trained_lm()})
    request = facts().request  # without passages the rows themselves are read
    found = MembershipMeans().run(retrained_lm(), request, ctx)
    assert found.value > 0.5 and found.low > 0
    assert found.parts["LOSS difference of differences, low"] > 0.2
    assert found.parts["texts FM"] == 16 and found.parts["texts RM"] == 48


def test_without_an_original_there_is_no_difference_of_differences():
    found = MembershipMeans().run(trained_lm(), NAME, context(sets=passages()))
    assert not [name for name in found.parts if "differences" in name]


def test_missing_texts_are_named():
    with pytest.raises(Unfit, match="forget"):
        MembershipMeans().run(trained_lm(), NAME, context())
    with pytest.raises(Missing, match="'retain_mia' is empty"):
        MembershipMeans().run(trained_lm(), NAME, context(sets={**passages(), "retain_mia": Data.inline([])}))
