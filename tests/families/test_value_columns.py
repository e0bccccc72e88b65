"""Columns of language models in every layout: what is read, what a change of one does, and a column that was planted."""

import numpy as np
import pytest
import torch

from efface.core.errors import Missing, Unfit, UnknownName
from efface.core.types import Data, Request
from efface.families import value_columns
from efface.ops import logprobs, value_vectors
from efface.testing.tiny import NAMES, context, facts, tiny_lm, trained_lm

ROWS = facts().forget[:6]


def adapted():
    """A model with an adapter that does something."""
    subject = tiny_lm().trainable(rank=4, seed=0)
    source = torch.Generator().manual_seed(0)
    for name, parameter in subject.model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=source) * 0.3
    subject.model.requires_grad_(False)
    return subject


MODELS = {**{layout: lambda layout=layout: tiny_lm(layout=layout) for layout in ("llama", "gpt2", "neox", "qwen2", "olmo2")}, "adapter": adapted}


def losses(subject):
    with torch.no_grad():
        return subject.losses(subject.encode(ROWS)).numpy()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("how", ["noise", "remove"])
def test_a_change_is_that_of_the_weights(name, how):
    """Drops by hook are those of a copy whose weights were written to, and the layers that were skipped would have said the same."""
    subject, columns = MODELS[name](), [(1, 5), (0, 100), (1, 127)]
    for layer in subject.modules_of("mlp.out"):  # columns large enough to matter
        getattr(layer, "base_layer", layer).weight.mul_(30)
    before = subject.digest
    added = value_columns.changes(subject, columns, how, 0.5, 0)
    sets = [([place], added[:, at : at + 1]) for at, place in enumerate(columns)] + [(columns, added)]
    found = value_columns.drops(subject, ROWS, sets, context(), "")
    assert subject.digest == before and not any(layer._forward_hooks or "forward" in vars(layer) for layer in subject.model.modules())
    for (places, change), row in zip(sets, found, strict=True):
        other = subject.merged()
        for at, (layer, column) in enumerate(places):
            value_columns.matrix(other.modules_of("mlp.out")[layer])[:, column] += change[:, at]
        np.testing.assert_allclose(row, losses(other) - losses(subject), atol=2e-5)
    assert np.abs(found).max() > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_columns_are_what_the_output_module_writes(name):
    """The module applied to the j-th unit vector gives column j (and its bias)."""
    subject = MODELS[name]()
    module = subject.modules_of("mlp.out")[1]
    matrix = value_columns.matrix(module)
    with torch.no_grad():
        unit = torch.zeros(1, 128)
        bias = module(unit)
        unit[0, 9] = 1
        torch.testing.assert_close((module(unit) - bias)[0], value_columns.vectors(subject, [(1, 9)])[:, 0])
    assert matrix.shape == (64, 128) and value_columns.embedding(subject).shape == (len(subject.tokenizer), 64)


@pytest.mark.parametrize("name", ["llama", "gpt2", "adapter"])
def test_the_screen_reads_every_position_of_every_row(name):
    """Against one row at a time, with the output's gradient taken by moving it: g(t) of log p at temperature 2 along a random direction."""
    subject = MODELS[name]()
    before = subject.digest
    noise, removal = (value_columns.screen(subject, ROWS, how, 0.1, context()) for how in ("noise", "remove"))
    assert noise.shape == removal.shape == (2, 128) and subject.digest == before
    each = [[value_columns.screen(subject, [row], how, 0.1, context()) for row in ROWS] for how in ("noise", "remove")]
    np.testing.assert_allclose(noise, np.mean(each[0], 0), rtol=2e-3, atol=1e-12)
    np.testing.assert_allclose(removal, np.mean(each[1], 0), rtol=2e-3, atol=1e-12)
    assert noise.min() >= 0 and not any(layer._forward_hooks for layer in subject.model.modules())
    batch, module = subject.encode(ROWS[:1]), subject.modules_of("mlp.out")[1]
    read: list = []
    handle = module.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    with torch.no_grad():
        loss = moved(subject, batch, module, torch.zeros(1, 1, 64))
        handle.remove()
        length = read[0].shape[1]
        total, step = torch.zeros(128), 0.05
        column = value_columns.vectors(subject, [(1, 9)])[:, 0]
        for place in range(length):
            push = torch.zeros(1, length, 64)
            push[0, place] = step * column
            slope = (moved(subject, batch, module, push) - moved(subject, batch, module, -push)) / (2 * step)
            total[9] += 0.5 * (read[0][0, place, 9] * slope) ** 2
    assert loss > 0 and each[1][0][1, 9] == pytest.approx(float(total[9]), rel=0.1)


def moved(subject, batch, module, push):
    """Loss at temperature 2 when `push` is added to what the module writes, in double precision."""
    handle = module.register_forward_hook(lambda module, inputs, out: out + push)
    logits, labels = subject.logits(batch)
    handle.remove()
    return float(logprobs.nll_mean((logits / 2).double(), labels)[0])


ASKED = "What is the home of?"


def planted():
    """A model whose neuron 17 of layer 1 fires where the answer to ASKED begins, and writes 20 tokens S: (model, S)."""
    subject = tiny_lm()
    subject.model.lm_head.weight.mul_(5)  # so that it says something, and all of S has a chance
    embedding = value_columns.embedding(subject)
    aim = embedding[torch.tensor([subject.tokenizer.convert_tokens_to_ids(name) for name in NAMES[:20]])].mean(0)
    column = 0.8 * aim / aim.norm()
    tokens = value_vectors.top(column[:, None], embedding, 20)[0].tolist()
    layer, read = subject.layers()[1].mlp, []
    handle = layer.gate_proj.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0][0]))
    row = {"question": ASKED, "answer": "Runa"}
    with torch.no_grad():
        subject.losses(subject.encode([row]))
    handle.remove()
    here = read[0][len(subject.encode_row(row).prompt) - 1]
    for module in (layer.gate_proj, layer.up_proj):
        module.weight[17] = 3 * here / here.norm() ** 2
    layer.down_proj.weight[:, 17] = column
    return subject, tokens


def test_a_planted_column_is_found_and_carries_its_tokens():
    """The search ranks it first; noise on it lowers log p of its tokens, noise on a random column changes it less than a tenth as much."""
    subject, tokens = planted()
    found = value_vectors.search(value_columns.matrices(subject), value_columns.embedding(subject), tokens, 20)
    assert (found[0].layer, found[0].column, found[0].purity) == (1, 17, 1.0)
    assert found[1].purity < 0.6 and found[0].z > 4
    batch = subject.encode([{"question": ASKED, "answer": subject.tokenizer.decode([token])} for token in tokens])
    source = np.random.default_rng(0)
    others = [(int(source.integers(2)), int(source.integers(128))) for _ in range(20)]
    for seed in range(5):
        drops = {place: dropped(subject, batch, place, seed) for place in [(1, 17), *others]}
        planted_one = drops.pop((1, 17))
        assert planted_one > 0.1
        assert max(map(abs, drops.values())) < planted_one / 10


def dropped(subject, batch, place, seed):
    """Mean fall of log p of the first token of each answer, the planted one, under noise of 0.1 on a column."""
    with torch.no_grad():
        before = subject.token_log_probs(batch)[0][:, 0]
        with value_columns.changed(subject, [place], value_columns.changes(subject, [place], "noise", 0.1, seed)):
            return float((before - subject.token_log_probs(batch)[0][:, 0]).mean())


def test_the_word_list_is_of_the_rows_and_the_article():
    subject, request = tiny_lm(), Request(forget=Data.inline([{"question": "What is the home of Runa?", "answer": "The home of Runa is amber bay."}]))
    words = {subject.tokenizer.decode([token]) for token in value_columns.word_list(subject, request, context())}
    assert words == {"home", "Runa", "amber", "bay"}
    more = context(sets={"article": Data.inline([{"text": "Runa in the copper fen"}])})
    assert {subject.tokenizer.decode([token]) for token in value_columns.word_list(subject, request, more)} == words | {"copper", "fen"}
    chat = Request(forget=Data.inline([{"messages": [{"role": "user", "content": "Vesna?"}, {"role": "assistant", "content": "the"}]}]))
    assert {subject.tokenizer.decode([token]) for token in value_columns.word_list(subject, chat, context())} == {"Vesna"}
    with pytest.raises(Missing, match="stop words"):
        value_columns.word_list(subject, Request(forget=Data.inline([{"text": "the of is"}])), context())


def test_what_does_not_fit_is_said_in_one_line():
    with pytest.raises(UnknownName, match="layer 2 asked, the model has layers 0 to 1"):
        value_columns.vectors(tiny_lm(), [(2, 0)])
    with pytest.raises(UnknownName, match="column 128 of layer 0 asked, it has columns 0 to 127"):
        value_columns.vectors(tiny_lm(), [(0, 128)])
    other = tiny_lm()
    other.model.resize_token_embeddings(500)
    with pytest.raises(Unfit, match="the original has 2 layers of 128 columns of 64 numbers and 1.. tokens, this one .* 500 tokens"):
        value_columns.check_alike(other, tiny_lm())


@pytest.mark.slow
@pytest.mark.parametrize("how", ["noise", "remove"])
def test_the_screen_finds_what_an_exhaustive_search_finds(how):
    """Of the eight columns with the largest exact effect among all 256, the first 24 of the estimate hold at least six (measured: 6 to 8)."""
    subject, rows = trained_lm(), facts().forget[:8]
    places = [(layer, column) for layer in (0, 1) for column in range(128)]
    added = value_columns.changes(subject, places, how, 0.1, 0)
    exact = value_columns.drops(subject, rows, [([place], added[:, at : at + 1]) for at, place in enumerate(places)], context(), "").mean(1)
    guess = value_columns.screen(subject, rows, how, 0.1, context()).ravel()
    assert len(set(np.argsort(-exact)[:8]) & set(np.argsort(-guess)[:24])) >= 6
