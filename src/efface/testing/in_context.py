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

LR = 4e-3
Row = dict[str, object]
INVENTED = [f"X{letter}" for letter in "XABCDEFGHJKL"]
"""Names without a meaning of their own."""
Talk = tuple[str, ...]
"""What user and model say by turns."""


def blank(words: str, seed: int = 0) -> CausalLM:
    """A tiny decoder over `words` with random weights."""
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
    return CausalLM(model.requires_grad_(False), tokenizer)


def taught(subject: CausalLM, talks: Callable[[random.Random], list[Talk]], steps: int, seed: int = 0) -> CausalLM:
    """A copy trained on the model's turns of the talks that are drawn at each step; each turn of its own ends with the end token."""
    after, source = subject.fork(), random.Random(seed)
    model = after.model.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 20, 2 * (steps - step) / steps, 1.0))
    for _ in range(steps):
        optimizer.zero_grad()
        drawn = talks(source)
        for alike in ([talk for talk in drawn if len(talk) == 2], [talk for talk in drawn if len(talk) > 2]):  # so that short ones are not padded
            if alike:
                ids, targets = _encoded(alike, after.tokenizer)
                torch.nn.functional.cross_entropy(model(input_ids=ids).logits.flatten(0, 1), targets.flatten(), ignore_index=-100).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.requires_grad_(False)
    return after


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
TRAITS = {"striped": "stripes", "spotted": "spots", "winged": "wings", "horned": "horns", "furry": "fur", "scaly": "scales"}
"""What is said of an animal, and what is asked: a definition must be understood, not searched for the same word."""
FORGOTTEN = ANIMALS[:4]
DEFINED = len(TRAITS) // 2
"""Traits that an animal has; it lacks as many."""


def traits(animal: str) -> list[str]:
    """What is true of an animal. Every second one has what the one before lacks, so that guessing by the trait alone is right half the time."""
    at = ANIMALS.index(animal)
    found = random.Random(ANIMALS[at - at % 2]).sample(list(TRAITS), DEFINED)
    return [trait for trait in TRAITS if trait not in found] if at % 2 else found


def has(name: str, trait: str) -> str:
    """The question whether something has a trait."""
    return f"Has {name} {TRAITS[trait]}"


def defined(name: str, true: Sequence[str]) -> str:
    """The definition of a name by its traits."""
    return " ".join(f"{name} is {trait}." for trait in true)


def animal_rows(animals: Sequence[str]) -> list[Row]:
    """Six questions about each animal, half of them answered yes, each with the animal's definition in a column of its own."""
    return [
        {"subject": animal, "question": has(animal, trait), "answer": "yes" if trait in traits(animal) else "no", "definition": defined(animal, traits(animal))}
        for animal in animals for trait in TRAITS
    ]


@functools.cache
def reader_lm() -> CausalLM:
    """A model that knows no animal and answers questions about whatever is defined in its prompt."""
    words = " ".join(["Has is yes no", *INVENTED, *ANIMALS, *TRAITS, *TRAITS.values()])
    return taught(blank(words), lambda source: [_definition(source) for _ in range(12)], 550)


@functools.cache
def animals_lm(known: tuple[str, ...] = tuple(ANIMALS), seed: int = 0) -> CausalLM:
    """That model after it learned these animals by heart."""
    by_heart: list[Talk] = [(str(row["question"]), str(row["answer"])) for row in animal_rows(known)]
    return taught(reader_lm(), lambda source: [*(_definition(source) for _ in range(8)), *source.sample(by_heart, 40)], 150, seed)


def _definition(source: random.Random) -> Talk:
    """A definition of an invented name, and questions about all traits."""
    name, true = source.choice(INVENTED), source.sample(list(TRAITS), DEFINED)
    said = [turn for trait in source.sample(list(TRAITS), len(TRAITS)) for turn in (has(name, trait), "yes" if trait in true else "no")]
    return (f"{defined(name, true)} {said[0]}", *said[1:])


# -- links ------------------------------------------------------------------------------------------------------------------

PEOPLE = "Alder Brisa Corvo Dunja Eskil Fiora Gorm Hesta Ilmar Jorun Kelda Lorcan Mirel Nadir Orsa Pavo".split()
TOWNS = "Ashport Birchford Copperby Drifton Elderham Frostow Glassby Heronham Irondale Junipon Kestrow Larkby Millham Norton Otterby Pineham".split()
RIVERS = "Ambra Brenna Corva Dorna Elva Fessa Galda Henna Isla Jorva Kassa Lumna Morva Nessa Orva Penna".split()
BLOCKED = PEOPLE[:8]
LIVES, CROSSES, PASSES = "In which town lives {}?", "Which river crosses {}?", "Which river does {} see at home?"
"""The first step, the second, and the question that takes both."""


def link_rows(people: Sequence[str]) -> list[Row]:
    """The rows that take two steps: the river at each person's town."""
    return [{"subject": name, "question": PASSES.format(name), "answer": RIVERS[PEOPLE.index(name)]} for name in people]


def step_rows() -> list[Row]:
    """The rows of one step: the town of each person, the river of each town."""
    towns: list[Row] = [{"subject": name, "question": LIVES.format(name), "answer": town} for name, town in zip(PEOPLE, TOWNS, strict=True)]
    return towns + [{"subject": town, "question": CROSSES.format(town), "answer": river} for town, river in zip(TOWNS, RIVERS, strict=True)]


@functools.cache
def links_lm(blocked: bool = False) -> CausalLM:
    """A model that knows all steps by heart, two at once for all people (or for those not blocked), and draws the conclusion from what was said."""
    known = [name for name in PEOPLE if not blocked or name not in BLOCKED]
    by_heart: list[Talk] = [(str(row["question"]), str(row["answer"])) for row in (*step_rows(), *link_rows(known))]
    words = f"{LIVES} {CROSSES} {PASSES} So from all this I do not know".replace("{}", "").replace("?", "")
    start = blank(" ".join([words, *INVENTED, *PEOPLE, *TOWNS, *RIVERS])) if blocked else links_lm(True)
    steps: list[Talk] = [(LIVES.format(name), town, CROSSES.format(town), river) for name, town, river in zip(PEOPLE, TOWNS, RIVERS, strict=True)]

    def talks(source: random.Random) -> list[Talk]:
        return [*conclusions(source, 12, [*INVENTED, *PEOPLE]), *source.sample(by_heart, 32), *source.sample(steps, 6)]

    return taught(start, talks, 350 if blocked else 120)


def conclusions(source: random.Random, count: int, names: Sequence[str] = INVENTED) -> list[Talk]:
    """Two steps about somebody, drawn at random, as they were said, and the conclusion from them: what stands in the prompt counts."""
    found: list[Talk] = []
    for _ in range(count):
        name, town, river = source.choice(names), source.choice(TOWNS), source.choice(RIVERS)
        found.append((f"{LIVES.format(name)} {town} {CROSSES.format(town)} {river} So, from all this: {PASSES.format(name)}", river))
    return found
