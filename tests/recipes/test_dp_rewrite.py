"""Private rewriting: what is drawn and how often, what it costs, what it is called, and that training sees nothing but rewritten text."""

import json
import math
from collections import Counter

import pytest
import torch

from efface.core.errors import Unfit
from efface.core.types import Data, Request
from efface.recipes.dp_rewrite import DPRewrite
from efface.recipes.finetune import Finetune
from efface.testing import tiny

FACTS = tiny.facts()
QUICK = {"fit.steps": 0, "fit.batch": 4, "fit.precision": "no"}


def rewrite(folder, rows, settings=None, subject=None, seed=0):
    """What the rows become, and the notes."""
    ctx = tiny.context(seed, folder=folder)
    DPRewrite.set({**QUICK, **(settings or {})}).run(subject or tiny.tiny_lm(), Request(keep=Data.inline(rows)), ctx)
    return [json.loads(line) for line in (folder / "rewritten.jsonl").read_text().splitlines()], ctx.notes


def letters(tokenizer):
    return {word for word in tokenizer.get_vocab() if word.isalpha() and len(word) > 1}


@pytest.mark.parametrize(("clipped", "low", "sensitivity"), [(True, 0.0, 1.0), (False, -1.0, 2.0)])
def test_draws_follow_the_mechanism(tmp_path, clipped, low, sensitivity):
    """3000 replacements of "baker" come as often as P(v) ~ exp(epsilon max(low, cos(baker, v)) / (2 sensitivity)) says, itself included."""
    subject, count, epsilon = tiny.tiny_lm(), 3000, 12.0
    found, notes = rewrite(tmp_path, [{"text": "baker " * (count // 100)} for _ in range(100)], {"epsilon": epsilon, "clipped": clipped})
    drawn = Counter(word for row in found for word in str(row["text"]).split())
    ids, table = subject.tokenizer.get_vocab(), subject.model.get_input_embeddings().weight
    words = sorted(letters(subject.tokenizer))
    cosines = torch.nn.functional.cosine_similarity(table[ids["baker"]][None], table[[ids[word] for word in words]])
    weights = [math.exp(epsilon * max(low, float(cosine)) / (2 * sensitivity)) for cosine in cosines]
    chance = dict(zip(words, (weight / sum(weights) for weight in weights), strict=True))
    assert sum(drawn.values()) == count and set(drawn) <= set(words) and notes["vocabulary"] == len(words) and notes["sensitivity"] == sensitivity
    for word in words:
        assert abs(drawn[word] / count - chance[word]) < 4.5 * math.sqrt(chance[word] * (1 - chance[word]) / count), word
    assert drawn["baker"] == max(drawn.values())


def test_accounting(tmp_path):
    """"What is the home of Yrsa?" has the content words home and Yrsa, and "It is grove." has grove: 3 words, so 3 epsilon; all words are 9."""
    rows = [{"question": "What is the home of Yrsa?", "answer": "It is grove."}, {"question": "home?", "answer": "bay, 7 times"}]
    found, notes = rewrite(tmp_path, rows, {"epsilon": 2.0})
    assert notes["words_rewritten"] == 7 and notes["words_passed"] == 6 and notes["epsilon_per_word"] == 2.0
    assert notes["epsilon_row_most"] == 8.0 and notes["epsilon_row_mean"] == 7.0 and notes["epsilon_all_rows"] == 14.0
    assert str(notes["guarantee"]).startswith("sanitization: 6 words passed unchanged, so nothing is promised of a whole row")
    assert "7" not in str(found[1]["answer"]).split() and str(found[0]["question"]).startswith("What is the ") and str(found[0]["question"]).endswith("?")
    found, notes = rewrite(tmp_path, rows, {"epsilon": 2.0, "words": "all"})
    assert notes["words_rewritten"] == 13 and notes["words_passed"] == 0 and notes["epsilon_row_most"] == 18.0
    assert "same punctuation" in str(notes["guarantee"]) and "sanitization" not in str(notes["guarantee"])
    assert "Sanitization, not privacy of a row" in DPRewrite.card.departs


def test_epsilon_at_both_ends(tmp_path):
    """A very large epsilon leaves every word that the vocabulary holds; 0 draws any, whatever the word."""
    rows = [{"text": "Yrsa the baker"}] * 50
    assert rewrite(tmp_path, rows, {"epsilon": 1e5})[0] == rows
    found, notes = rewrite(tmp_path, rows, {"epsilon": 0.0})
    assert len({row["text"] for row in found}) > 40 and notes["epsilon_all_rows"] == 0.0


def test_the_vocabulary_is_the_same_for_every_input(tmp_path):
    """Words that the tokenizer does not know are rewritten too, into the same vocabulary."""
    known = letters(tiny.tokenizer())
    found, notes = rewrite(tmp_path, [{"text": "Zebulon"}] * 30, {"epsilon": 0.0})
    other, same = rewrite(tmp_path, [{"text": "baker"}] * 30, {"epsilon": 0.0})
    assert {row["text"] for row in found} <= known and notes["vocabulary"] == same["vocabulary"] == len(known)
    assert found == other, "at epsilon 0 and one seed the word itself makes no difference"


def test_word_pieces(tmp_path):
    """With a byte-level tokenizer whole words are the tokens that begin with a space."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<eos>", "Ġbay", "Ġdale", "Ġfen", "ing", "Ġ12", "Ġb", "b", "a", "y", "Ġ"]
    core = Tokenizer(models.BPE(vocab={word: at for at, word in enumerate(words)}, merges=[]))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    subject = tiny.tiny_lm().fork()
    subject.tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<eos>")
    found, notes = rewrite(tmp_path, [{"text": "bay"}] * 20, {"epsilon": 0.0}, subject)
    assert notes["vocabulary"] == 3 and {row["text"] for row in found} == {"bay", "dale", "fen"}


def test_layouts(tmp_path):
    """Chats and system prompts are rewritten; columns that no model reads are dropped, for they may hold the text again."""
    chat = [{"messages": [{"role": "user", "content": "home of Yrsa"}, {"role": "assistant", "content": "grove"}], "id": 3}]
    found, notes = rewrite(tmp_path, chat, {"epsilon": 0.0})
    assert [m["role"] for m in found[0]["messages"]] == ["user", "assistant"] and set(found[0]) == {"messages"} and notes["words_rewritten"] == 3
    found, notes = rewrite(tmp_path, [{"system": "baker", "prompt": "Yrsa", "answer": "grove", "note": "Yrsa"}], {"epsilon": 0.0})
    assert set(found[0]) == {"prompt", "answer", "system"} and notes["words_rewritten"] == 3


def test_formula(tmp_path):
    """It is fine-tuning on the rewritten rows and nothing else; another seed draws other words."""
    settings = {"fit.steps": 3, "fit.batch": 4, "fit.precision": "no", "fit.lr": 1e-3}
    ctx = tiny.context(folder=tmp_path)
    request = Request(forget=Data.inline(FACTS.forget[:4]), keep=Data.inline(FACTS.keep[:8]))
    after = DPRewrite.set({**settings, "epsilon": 15.0}).run(tiny.tiny_lm(), request, ctx)
    rows = [json.loads(line) for line in (tmp_path / "rewritten.jsonl").read_text().splitlines()]
    assert len(rows) == 12 and all(set(row) == {"question", "answer"} for row in rows)
    plain = Finetune.set(settings).run(tiny.tiny_lm(), Request(keep=Data.inline(rows)), tiny.context())
    assert after.digest == plain.digest != tiny.tiny_lm().digest
    assert rewrite(tmp_path, FACTS.keep[:8], seed=1)[0] != rewrite(tmp_path, FACTS.keep[:8], seed=2)[0]


def test_limits():
    with pytest.raises(Unfit, match="dp_rewrite reads forget and keep rows and the request has neither"):
        DPRewrite.set(QUICK).run(tiny.tiny_lm(), Request(), tiny.context())
