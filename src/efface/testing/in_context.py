"""Tiny language models that read their context, built and trained in memory: one that follows definitions, one that follows links.

A two-layer decoder over its own words. What it must know by heart stands in rows that repeat; what it must read from the prompt is drawn
anew for names that mean nothing, so that it cannot be learned by heart.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from efface.families.causal_lm import CausalLM
from efface.testing.tiny import SPECIAL

LR = 3e-3
Row = dict[str, object]
INVENTED = [f"X{letter}" for letter in "XABCDEFGHJKL"]
"""Names without a meaning of their own."""
Talk = tuple[str, ...]
"""What user and model say by turns."""


def lm(talks: Callable[[random.Random], list[Talk]], words: str, steps: int, seed: int = 0) -> CausalLM:
    """A tiny decoder over `words`, trained on the model's turns of the talks drawn at each step; each turn of its own ends with the end token."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {word: at for at, word in enumerate(dict.fromkeys([*SPECIAL.values(), *".?!,':\"", *words.split()]))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL["unk_token"]))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    kind: Any = transformers.PreTrainedTokenizerFast
    tokenizer = kind(tokenizer_object=core, model_max_length=256, clean_up_tokenization_spaces=False, **SPECIAL)
    config: Any = transformers.LlamaConfig
    shape = config(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4, intermediate_size=128, max_position_embeddings=256,
        vocab_size=len(vocabulary), tie_word_embeddings=False, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    builder: Any = transformers.AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = builder.from_config(shape, dtype=torch.float32)
    _fit(model, tokenizer, talks, steps, random.Random(seed))
    return CausalLM(model.requires_grad_(False), tokenizer)


def _fit(model: Any, tokenizer: Any, talks: Callable[[random.Random], list[Talk]], steps: int, source: random.Random) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 20, (steps - step) / (0.5 * steps), 1.0))
    for _ in range(steps):
        optimizer.zero_grad()
        drawn = talks(source)
        for alike in ([talk for talk in drawn if len(talk) == 2], [talk for talk in drawn if len(talk) > 2]):  # so that short ones are not padded
            if alike:
                ids, targets = _encoded(alike, tokenizer)
                torch.nn.functional.cross_entropy(model(input_ids=ids).logits.flatten(0, 1), targets.flatten(), ignore_index=-100).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def _encoded(talks: Sequence[Talk], tokenizer: Any) -> tuple[Tensor, Tensor]:
    """Token ids and what to say after each (both (B, T)): the model's own turns, and the end token after each of them."""
    rows: list[tuple[list[int], list[int]]] = []
    for said in talks:
        ids: list[int] = []
        targets: list[int] = []
        for at, text in enumerate(said):
            words = tokenizer(text, add_special_tokens=False)["input_ids"]
            if at % 2:
                targets[-1:] = words
                targets.append(tokenizer.eos_token_id)
            else:
                targets += [-100] * len(words)
            ids += words
        rows.append((ids, targets))
    length = max(len(ids) for ids, _ in rows)
    padded = [(ids + [tokenizer.pad_token_id] * (length - len(ids)), targets + [-100] * (length - len(ids))) for ids, targets in rows]
    return torch.tensor([ids for ids, _ in padded]), torch.tensor([targets for _, targets in padded])


# -- definitions ------------------------------------------------------------------------------------------------------------

ANIMALS = "tiger zebra panda otter falcon badger lizard salmon camel heron gecko bison".split()
TRAITS = {"striped": "stripes", "spotted": "spots", "winged": "wings", "horned": "horns", "furry": "fur", "scaly": "scales", "clawed": "claws", "finned": "fins"}
"""What is said of an animal, and what is asked: a definition must be understood, not just searched for the word."""
FORGOTTEN = ANIMALS[:3]
DEFINED = len(TRAITS) // 2
"""Traits that an animal has; it lacks as many."""
STEPS = 150


def traits(animal: str) -> list[str]:
    """What is true of an animal."""
    return random.Random(animal).sample(list(TRAITS), DEFINED)


def is_it(name: str, trait: str) -> str:
    """The question whether something has a trait."""
    return f"Has {name} {TRAITS[trait]}"


def defined(name: str, true: Sequence[str]) -> str:
    """The definition of a name by its traits."""
    return " ".join(f"{name} is {trait}." for trait in true)


def animal_rows(animals: Sequence[str]) -> list[Row]:
    """Eight questions about each animal, half of them answered yes, each with the animal's definition in a column of its own."""
    return [
        {"subject": animal, "question": is_it(animal, trait), "answer": "yes" if trait in traits(animal) else "no", "definition": defined(animal, traits(animal))}
        for animal in animals for trait in TRAITS
    ]


def _definition(source: random.Random) -> Talk:
    """A definition of an invented name, and questions about all traits."""
    name, true = source.choice(INVENTED), source.sample(list(TRAITS), DEFINED)
    said = [turn for trait in source.sample(list(TRAITS), len(TRAITS)) for turn in (is_it(name, trait), "yes" if trait in true else "no")]
    return (f"{defined(name, true)} {said[0]}", *said[1:])


@functools.cache
def animals_lm(known: tuple[str, ...] = tuple(ANIMALS), seed: int = 0) -> CausalLM:
    """A model that knows these animals by heart and answers questions about whatever is defined in its prompt."""
    by_heart: list[Talk] = [(str(row["question"]), str(row["answer"])) for row in animal_rows(known)]
    return lm(lambda source: [*(_definition(source) for _ in range(12)), *source.sample(by_heart, 20)], " ".join(["Has is yes no", *INVENTED, *ANIMALS, *TRAITS, *TRAITS.values()]), STEPS, seed)
