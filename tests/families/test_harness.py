"""Scoring through lm-evaluation-harness: with a stand-in for the package, and with the package where it is installed."""

import sys
from types import SimpleNamespace

import pytest

from efface.core.errors import Missing
from efface.families import harness, passes
from efface.testing.tiny import context, tiny_lm

PAIRS = [("The home of Runa is", " amber"), ("The home of Runa is", " bay"), ("What is the pet of Pavo?", " raven")]


def test_it_is_asked_for_by_name_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.api.instance", None)
    with pytest.raises(Missing, match="pip install lm-eval"):
        harness.log_likelihoods(tiny_lm(), PAIRS)


def test_pairs_go_in_and_sums_come_out(monkeypatch):
    asked = []

    class HFLM:
        def __init__(self, pretrained, tokenizer, batch_size):
            asked.append((pretrained, tokenizer))

        def loglikelihood(self, requests, disable_tqdm):
            asked.extend((one.request_type, one.arguments) for one in requests)
            return [(-float(one.idx), False) for one in requests]

    instance = SimpleNamespace(Instance=lambda request_type, doc, arguments, idx: SimpleNamespace(request_type=request_type, arguments=arguments, idx=idx))
    for name, module in {"lm_eval": SimpleNamespace(), "lm_eval.api": SimpleNamespace(), "lm_eval.api.instance": instance,
                         "lm_eval.models": SimpleNamespace(), "lm_eval.models.huggingface": SimpleNamespace(HFLM=HFLM)}.items():
        monkeypatch.setitem(sys.modules, name, module)
    subject = tiny_lm()
    assert harness.log_likelihoods(subject, PAIRS) == [0.0, -1.0, -2.0]
    assert asked[0] == (subject.model, subject.tokenizer) and asked[1:] == [("loglikelihood", pair) for pair in PAIRS]


def test_the_package_itself_gives_the_numbers_of_the_shared_pass():
    pytest.importorskip("lm_eval")
    subject = tiny_lm()
    mine = [float(score.log_probs.sum()) for score in passes.scores(subject, [{"given": a, "text": b} for a, b in PAIRS], context())]
    assert harness.log_likelihoods(subject, PAIRS) == pytest.approx(mine, abs=1e-4)
