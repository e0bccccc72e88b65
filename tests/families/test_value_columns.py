"""Columns of language models in every layout: what is read, what a change of one does, and a column that was planted."""

import numpy as np
import pytest
import torch

from efface.core.errors import Missing, Unfit, UnknownName
from efface.core.types import Data, Request
from efface.families import value_columns
from efface.ops import value_vectors
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


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_screen_is_the_derivative(name):
    """Removal: against the slope of the log-probability when a column shrinks a little. Noise: against the gradient of a row by the column."""
    subject = MODELS[name]()
    removal = value_columns.screen(subject, ROWS, "remove", 0.1, context())
    noise = value_columns.screen(subject, ROWS, "noise", 0.1, context())
    assert removal.shape == noise.shape == (2, 128)
    for place in ((0, 3), (1, 77)):
        step = 0.02 * -value_columns.vectors(subject, [place])
        up, down = value_columns.drops(subject, ROWS, [([place], step), ([place], -step)], context(), "").mean(1)
        assert removal[place] == pytest.approx((up - down) / 0.04, rel=0.05, abs=1e-7)
    other = subject.fork()
    weight = list(other.weights("mlp.out").values())[1]
    weight.requires_grad_(True)
    squares = 0.0
    for row in ROWS:
        gradient = torch.autograd.grad(-other.losses(other.encode([row])).sum(), weight)[0]
        squares = squares + (gradient.T if name == "gpt2" else gradient).square().sum(0)
    np.testing.assert_allclose(noise[1], squares.numpy() * 0.01 / 2 / len(ROWS), rtol=1e-3, atol=1e-12)


def planted():
    """A model whose neuron 17 of layer 1 fires on every token and writes 20 tokens S: (model, S)."""
    subject = tiny_lm()
    subject.model.lm_head.weight.mul_(15)  # as sharp as a trained one
    embedding = value_columns.embedding(subject)
    aim = embedding[torch.tensor([subject.tokenizer.convert_tokens_to_ids(name) for name in NAMES[:20]])].mean(0)
    column = 0.8 * aim / aim.norm()
    tokens = value_vectors.top(column[:, None], embedding, 20)[0].tolist()
    with subject.tap("mlp.gate", 1) as caught, torch.no_grad():
        gate = subject.modules_of("mlp.gate")[1]
        read = []
        handle = gate.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
        subject.losses(subject.encode(ROWS))
        handle.remove()
    assert caught
    mean = read[0].mean((0, 1))
    layer = subject.layers()[1].mlp
    for module in (layer.gate_proj, layer.up_proj):
        module.weight[17] = 3 * mean / mean.norm() ** 2
    layer.down_proj.weight[:, 17] = column
    return subject, tokens


def test_a_planted_column_is_found_and_carries_its_tokens():
    """The search ranks it first; noise on it lowers log p of its tokens, noise on a random column changes it less than a tenth as much."""
    subject, tokens = planted()
    found = value_vectors.search(value_columns.matrices(subject), value_columns.embedding(subject), tokens, 20)
    assert (found[0].layer, found[0].column, found[0].purity) == (1, 17, 1.0)
    assert found[1].purity < 0.6 and found[0].z > 4
    rows = [{"question": "What is the home of?", "answer": subject.tokenizer.decode([token])} for token in tokens]
    source = np.random.default_rng(0)
    others = [(int(source.integers(2)), int(source.integers(128))) for _ in range(20)]
    columns = [(1, 17), *(place for place in others if place != (1, 17))]
    for seed in range(5):
        added = value_columns.changes(subject, columns, "noise", 0.1, seed)
        drops = value_columns.drops(subject, rows, [([place], added[:, at : at + 1]) for at, place in enumerate(columns)], context(), "").mean(1)
        assert drops[0] > 0.05
        assert np.abs(drops[1:]).max() < drops[0] / 10


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


def test_the_screen_finds_what_an_exhaustive_search_finds():
    """Of the eight columns with the largest exact effect among all 256, the first 32 of the estimate hold at least six, and the first."""
    subject, rows = trained_lm(), facts().forget[:8]
    places = [(layer, column) for layer in (0, 1) for column in range(128)]
    added = value_columns.changes(subject, places, "remove", 0.1, 0)
    exact = value_columns.drops(subject, rows, [([place], added[:, at : at + 1]) for at, place in enumerate(places)], context(), "").mean(1)
    guess = value_columns.screen(subject, rows, "remove", 0.1, context()).ravel()
    best, first = np.argsort(-exact)[:8], set(np.argsort(-guess)[:32])
    assert best[0] in first and len(first & set(best)) >= 6
