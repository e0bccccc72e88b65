import copy

import numpy as np
import pytest
import torch

from efface.attacks.logit_lens import LogitLens, at_value
from efface.core.errors import UnknownName
from efface.core.types import Data, Request
from efface.families import lens
from efface.testing.tiny import context, facts, retrained_lm, tiny_lm, trained_lm

LAYOUTS = ("llama", "gpt2", "neox", "qwen2", "olmo2")


def deeper(subject, scale):
    """The same model with a third layer: one that adds nothing (scale 0), or random numbers of that size."""
    other = subject.fork()
    layer = copy.deepcopy(other.layers()[-1])
    source = torch.Generator().manual_seed(0)
    for name, module in layer.named_modules():
        if hasattr(module, "layer_idx"):
            module.layer_idx = 2
        if name.endswith(("o_proj", "down_proj")):
            module.weight.copy_(scale * torch.randn(module.weight.shape, generator=source))
    other.layers().append(layer)
    other.model.config.num_hidden_layers = 3
    other.model.config.layer_types = None
    return other


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_last_layer_is_the_model_itself(layout):
    """Probability and first hit of the last layer are those of the shared pass, end token left out."""
    subject, rows = tiny_lm(0, layout), facts().forget[:5]
    seen = lens.read(subject, rows, size=2)
    scores = dict(subject.score(rows))
    assert seen.chances.shape == seen.hits.shape == (2, 5)
    for at in range(5):
        assert seen.chances[-1, at] == pytest.approx(np.exp(scores[at].log_probs[scores[at].words].mean()), rel=1e-4)
        assert seen.hits[-1, at] == scores[at].hit[0]
    assert not np.allclose(seen.chances[0], seen.chances[1])


def test_plain_text_is_read_to_its_end():
    subject, rows = tiny_lm(), [{"text": "The home of Alder is amber bay."}, {"text": "The pet"}]
    seen, scores = lens.read(subject, rows), dict(subject.score(rows))
    assert seen.chances[-1].tolist() == pytest.approx([float(np.exp(scores[at].log_probs.mean())) for at in range(2)], rel=1e-4)


def test_the_value_alone_is_read_where_it_stands_in_a_sentence():
    row = facts().forget[0]
    value = row["answer"].rstrip(".").split(" is ")[1]
    (cut,) = at_value([row])
    assert cut == {"prompt": row["question"], "answer": value, "prefill": row["answer"].split(f" {value}")[0]}
    short = {"question": "Where?", "answer": "amber bay"}
    assert at_value([short]) == [{"prompt": "Where?", "answer": "amber bay"}]
    long = {"question": "Who?", "answer": "one two three four five six seven eight nine ten"}
    assert at_value([row, long]) == [row, long]
    assert at_value([{"text": "amber"}]) == [{"text": "amber"}]


def test_a_scrambled_last_layer_hides_nothing():
    """Truth by construction: the third layer of the original adds nothing, that of the candidate adds noise.

    So the candidate's second layer holds what the original says, to the last digit, and its output holds nothing.
    """
    original, candidate, reference = deeper(trained_lm(), 0.0), deeper(trained_lm(), 3.0), deeper(retrained_lm(), 0.0)
    ctx = context(baselines={"original": original, "reference": reference})
    found = LogitLens().run(candidate, facts().request, ctx)
    assert found.parts["unattacked"] < 0.05 and found.parts["unattacked first token"] < 0.2
    assert found.parts["layer"] == 2.0 and found.parts["first token"] == 1.0
    assert found.value == pytest.approx(found.parts["original"], abs=1e-6) and found.value > 0.9
    assert found.parts["reference"] < 0.1 and found.parts["gain_low"] > 0.8
    assert found.low <= found.value <= found.high and found.n == 16
    assert "layer 2 of 3" in found.why


def test_the_reference_gains_nothing_over_itself():
    ctx = context(baselines={"original": trained_lm(), "reference": retrained_lm()})
    found = LogitLens().run(retrained_lm(), facts().request, ctx)
    assert found.parts["gain"] == 0.0 and found.value == pytest.approx(found.parts["reference"], abs=1e-6)
    assert found.parts["original"] > 0.9


def test_an_adapter_is_read_with_it():
    adapted = trained_lm().trainable(2, 0)
    for name, weight in adapted.model.named_parameters():
        if "lora_B" in name:
            weight.data.fill_(0.05)
    one, other = (lens.read(model, facts().forget[:3]) for model in (adapted, adapted.merged()))
    assert np.allclose(one.chances, other.chances, atol=1e-6)
    assert not np.allclose(one.chances, lens.read(trained_lm(), facts().forget[:3]).chances, atol=1e-4)


def test_what_is_kept_is_read_again(tmp_path):
    ctx = [context(baselines={"reference": retrained_lm()}, passes=(tmp_path,)) for _ in range(2)]
    made, read = (LogitLens().run(trained_lm(), facts().request, one) for one in ctx)
    assert len(list(tmp_path.glob("logit_lens-*.json"))) == 1 and made.parts == read.parts


def test_an_unknown_layout_is_said():
    subject = tiny_lm()
    subject.model.model.last = subject.model.model.norm
    del subject.model.model.norm
    with pytest.raises(UnknownName, match="final norm of LlamaForCausalLM"):
        lens.read(subject, facts().forget[:1])


def test_rows_of_text_are_a_request_as_well():
    rows = Request(forget=Data.inline([{"text": row["answer"]} for row in facts().forget]))
    assert LogitLens().run(trained_lm(), rows, context()).n == 16
