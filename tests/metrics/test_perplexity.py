import math

import numpy as np
import pytest
import torch

from efface.core.types import Data
from efface.metrics.perplexity import Perplexity, per_token
from efface.testing.tiny import context, facts, tiny_lm, trained_lm


def test_formula():
    """Rows of 1 token at loss 4 and of 3 tokens at loss 1 in all: 5/4 a token, not the 13/6 that a mean of row means gives."""
    assert per_token(np.array([4.0, 1.0]), np.array([1, 3])) == 1.25


def test_a_random_model_is_as_surprised_as_its_vocabulary_is_large():
    subject = tiny_lm()
    with torch.no_grad():
        subject.model.lm_head.weight.zero_()
    found = Perplexity().run(subject, facts().request, context())
    assert found.value == pytest.approx(len(subject.tokenizer), rel=1e-4)
    assert found.parts["loss_per_token"] == pytest.approx(math.log(len(subject.tokenizer)), rel=1e-5)
    assert found.n == 40


def test_a_trained_model_is_not():
    kept = Perplexity().run(trained_lm(), facts().request, context())
    assert 1.0 <= kept.low <= kept.value <= kept.high < 1.2
    ctx = context(utility={"other": Data.inline(facts(1).keep[:10])})
    assert Perplexity.set({"on": "other"}).run(trained_lm(), facts().request, ctx).value > 2 * kept.value


def test_a_ruined_model_still_gives_a_finite_number():
    subject = tiny_lm(5)
    with torch.no_grad():
        subject.model.lm_head.weight.mul_(1e6)
    found = Perplexity().run(subject, facts().request, context())
    assert found.value == math.exp(300.0) and found.parts["loss_per_token"] > 300
