"""Small decoders with random weights over a given vocabulary of whole words: they learn a hundred short facts in seconds on a CPU."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from efface.core.types import Row
from efface.families.causal_lm import CausalLM

SPECIAL = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
LENGTH = 128


def words_of(rows: Sequence[Row]) -> list[str]:
    """Every word and mark in the rows' texts and lists of texts, in order, once each."""
    from tokenizers import pre_tokenizers

    cut = pre_tokenizers.Whitespace()
    texts: Iterable[str] = (
        text for row in rows for value in row.values() for text in (value if isinstance(value, list | tuple) else [value]) if isinstance(text, str)
    )
    return list(dict.fromkeys(word for text in texts for word, _ in cut.pre_tokenize_str(text)))


def tokenizer(words: Sequence[str]) -> Any:
    """A tokenizer that knows each of `words` as one token and nothing else, without a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = dict.fromkeys([*SPECIAL.values(), *words])
    core = Tokenizer(models.WordLevel({word: at for at, word in enumerate(known)}, unk_token=SPECIAL["unk_token"]))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    kind: Any = PreTrainedTokenizerFast
    return kind(tokenizer_object=core, model_max_length=LENGTH, clean_up_tokenization_spaces=False, **SPECIAL)


def small_lm(words: Sequence[str], seed: int = 0, width: int = 64, layers: int = 2) -> CausalLM:
    """A decoder of Llama's layout with random weights; global random state is put back."""
    from transformers import LlamaConfig, LlamaForCausalLM

    known = tokenizer(words)
    config = LlamaConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=4, intermediate_size=2 * width, max_position_embeddings=LENGTH,
        vocab_size=len(known), tie_word_embeddings=False, pad_token_id=known.pad_token_id, bos_token_id=known.bos_token_id, eos_token_id=known.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = LlamaForCausalLM(config)
    model.requires_grad_(False)
    return CausalLM(model, known)
