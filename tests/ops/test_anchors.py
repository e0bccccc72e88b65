"""What is read of the frozen model: right, once, and the same whenever it is asked for."""

import pytest
import torch

from efface.families.causal_lm import CausalLM
from efface.ops import anchors
from efface.ops.anchors import Frozen, NextToken, drawn_first, sequence_log_probs
from efface.ops.logprobs import IGNORE
from efface.ops.loop import draw
from efface.testing.tiny import context, facts, tiny_lm, tokenizer

KEEP = facts().keep


@pytest.fixture
def counted(monkeypatch):
    """Rows of every forward pass of any language model."""
    seen: list[int] = []
    logits, score = CausalLM.logits, CausalLM.score
    monkeypatch.setattr(CausalLM, "logits", lambda self, batch: (seen.append(len(batch.index)), logits(self, batch))[1])
    monkeypatch.setattr(CausalLM, "score", lambda self, rows: (seen.append(len(rows)), score(self, rows))[1])
    return seen


def test_sequence_log_probs_are_those_of_a_plain_batch():
    subject = tiny_lm()
    found = sequence_log_probs(subject, KEEP, context())
    assert torch.allclose(found, subject.sequence_log_probs(subject.encode(KEEP)), rtol=1e-5)


def test_sequence_log_probs_are_computed_once(tmp_path, counted):
    """In a run, through its memory; after a kill, through its folder. Other rows or another model are other numbers."""
    subject, ctx = tiny_lm(), context(folder=tmp_path)
    first = sequence_log_probs(subject, KEEP, ctx)
    assert torch.equal(sequence_log_probs(subject, KEEP, ctx), first)
    assert torch.equal(sequence_log_probs(tiny_lm(), KEEP, context(folder=tmp_path)), first)
    assert counted == [48]
    assert len(sequence_log_probs(subject, KEEP[:5], context(folder=tmp_path))) == 5
    assert not torch.equal(sequence_log_probs(tiny_lm(1), KEEP, context(folder=tmp_path)), first)
    assert counted == [48, 5, 48]


def test_rows_are_read_in_the_order_of_the_loop():
    ctx = context(3)
    order = drawn_first(KEEP, "keep", ctx)
    assert sorted(order) == list(range(48))
    assert order[:16] == [*draw(48, 8, 0, ctx.seed_for("rows", "keep")), *draw(48, 8, 1, ctx.seed_for("rows", "keep"))]


def each_label(subject):
    """Hidden states standing in for a model's: the token itself, at every label."""
    return lambda batch: (batch.input_ids.unsqueeze(-1).float(), batch.labels != IGNORE)


def test_frozen_reads_a_row_once_and_puts_it_where_it_belongs():
    subject, read = tiny_lm(), []

    def counting(batch):
        read.append(batch.index.tolist())
        return each_label(subject)(batch)

    frozen = Frozen(subject.encode, KEEP, list(range(47, -1, -1)), counting)
    for places in ([47, 40], [16, 47], [0, 20, 15], [3, 3]):
        batch = subject.encode([KEEP[at] for at in places], places)
        mask = batch.labels != IGNORE
        assert torch.equal(frozen.at(batch, mask), (batch.input_ids * mask).unsqueeze(-1).float())
    assert read == [list(range(47, 15, -1)), list(range(15, -1, -1))]


def test_frozen_reads_again_what_it_has_no_room_for(monkeypatch):
    subject = tiny_lm()
    frozen = Frozen(subject.encode, KEEP, list(range(48)), each_label(subject))
    monkeypatch.setattr(anchors, "MOST", 0)
    for places in ([0, 1], [40, 2], [41]):
        batch = subject.encode([KEEP[at] for at in places], places)
        mask = batch.labels != IGNORE
        assert torch.equal(frozen.at(batch, mask), (batch.input_ids * mask).unsqueeze(-1).float())
    assert set(frozen.held) == set(range(32))


@pytest.mark.parametrize("layout", ["llama", "gpt2", "neox", "qwen2", "olmo2"])
def test_next_token_logits_are_the_models_own(layout, counted):
    """At every label, in whatever batch, from one reading of each row and one batch to see that the head is all there is."""
    subject = tiny_lm(layout=layout)
    frozen = NextToken(subject, KEEP, "keep", context())
    for places in ([5, 1, 44], [44, 9]):
        same(frozen, subject, places)
    assert frozen.head is not None
    assert sum(counted) <= 3 + 48 + 3 + 2  # a check, the pool, and what this test itself asks the model


def same(frozen, subject, places):
    batch = subject.encode([KEEP[at] for at in places], places)
    logits, labels = subject.logits(batch)
    found = frozen.logits(batch, labels)
    assert found.shape == logits.shape and not found.requires_grad
    assert torch.allclose(found[labels != IGNORE], logits[labels != IGNORE], atol=1e-5)


def test_logits_that_are_more_than_the_heads_output_are_read_each_time():
    """Granite divides its logits, so the head alone would tell something else."""
    from transformers import AutoModelForCausalLM, GraniteConfig

    words = tokenizer()
    config = GraniteConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, intermediate_size=64,
        logits_scaling=8.0, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )
    torch.manual_seed(0)
    subject = CausalLM(AutoModelForCausalLM.from_config(config).requires_grad_(False), words)
    frozen = NextToken(subject, KEEP, "keep", context())
    same(frozen, subject, [5, 1, 44])
    assert frozen.head is None
