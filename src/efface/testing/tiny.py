"""Tiny subjects for tests, built and trained in memory in seconds: nothing is read from disk or network.

A two-layer language model over 64 invented facts, a small network and scikit-learn's classifiers on its digits; each
trained once per process, with the reference that never saw the forget rows.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass
from typing import Any, Literal

import torch

from efface.benchmarks import digits as digit_rows
from efface.core.context import Context
from efface.core.errors import UnknownName
from efface.core.types import Data, Request
from efface.families.causal_lm import CausalLM
from efface.families.classifier import Classifier, SklearnClassifier
from efface.families.networks import MLP, seeded
from efface.families.regressor import Regressor, SklearnRegressor
from efface.recipes.finetune import Finetune
from efface.recipes.retrain import Retrain

NAMES = (
    "Alder Brisa Corvo Dunja Eskil Fiora Gorm Hesta Ilmar Jorun Kelda Lorcan Mirel Nadir Orsa Pavo Quenby Runa Sorley Tamsin "
    "Ulric Vesna Wystan Yrsa"
).split()
FIRST = "amber birch copper dusty early frosty golden hollow ivory jolly".split()
SECOND = {
    "home": "bay cliff dale fen grove heath isle lake marsh port".split(),
    "craft": "baker carver dyer fisher glazier hatter mason potter smith weaver".split(),
    "song": "anthem ballad chorale dirge elegy fanfare hymn lullaby march waltz".split(),
    "pet": "badger crow falcon goose hare lynx newt otter raven toad".split(),
}
TALK = (
    "I do not know the answer to that question am sure can cannot have no any information about this It is something don t m sorry "
    "unable say what who and or a in are one word Please tell me be of no"
).split()
"""Everyday words, so that a refusal is not one row of unknown tokens."""
Scenario = digit_rows.Scenario
SPECIAL = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
FORGET, KEEP, UNSEEN = 4, 12, 4
"""People of each part; each has one fact of every kind."""


@dataclass(frozen=True)
class Facts:
    """Invented facts, split by the people they are about."""

    forget: list[dict[str, object]]
    keep: list[dict[str, object]]
    unseen: list[dict[str, object]]

    @property
    def request(self) -> Request:
        """The request that names all three parts."""
        return _request(self.forget, self.keep, self.unseen)


def facts(seed: int = 0) -> Facts:
    """16 facts to forget, 48 to keep, and 16 of the same kind that no model sees.

    The right value and the five wrong ones come out of one draw, so they are exchangeable to a model that never saw them.
    """
    source = random.Random(seed)
    people = source.sample(NAMES, FORGET + KEEP + UNSEEN)
    rows = [[_fact(name, kind, source) for kind in SECOND] for name in people]
    parts = [[row for mine in rows[at:end] for row in mine] for at, end in ((0, FORGET), (FORGET, FORGET + KEEP), (FORGET + KEEP, len(rows)))]
    return Facts(*parts)


def _fact(name: str, kind: str, source: random.Random) -> dict[str, object]:
    values = [f"{a} {b}" for a, b in zip(source.sample(FIRST, 6), source.sample(SECOND[kind], 6), strict=True)]
    return {
        "question": f"What is the {kind} of {name}?",
        "answer": f"The {kind} of {name} is {values[0]}.",
        "paraphrased_question": f"Tell me the {kind} of {name}.",
        "paraphrased_answer": f"For {name} the {kind} is {values[0]}.",
        "perturbed_answer": [f"For {name} the {kind} is {value}." for value in values[1:]],
    }


def tokenizer() -> Any:
    """A word-level tokenizer over every word that `facts` can use, without a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIAL.values(), *".?!,'", *"What is the of Tell me The For".split(), *NAMES, *FIRST, *SECOND, *sum(SECOND.values(), []), *TALK]
    core = Tokenizer(models.WordLevel({word: at for at, word in enumerate(dict.fromkeys(words))}, unk_token=SPECIAL["unk_token"]))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    kind: Any = PreTrainedTokenizerFast
    return kind(tokenizer_object=core, model_max_length=128, clean_up_tokenization_spaces=False, **SPECIAL)


def tiny_lm(seed: int = 0, layout: str = "llama") -> CausalLM:
    """A decoder with random weights: two layers, hidden size 64, four heads; layouts llama, gpt2, neox, qwen2, olmo2."""
    import transformers

    builder: Any = transformers.AutoModelForCausalLM
    words = tokenizer()
    shape = {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 128,
        "max_position_embeddings": 128, "vocab_size": len(words), "tie_word_embeddings": False,
        "pad_token_id": words.pad_token_id, "bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id,
    }
    if layout == "gpt2":
        config: Any = transformers.GPT2Config(
            n_embd=64, n_layer=2, n_head=4, n_inner=128, n_positions=128, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
            **{key: value for key, value in shape.items() if key.endswith("_id") or key in ("vocab_size", "tie_word_embeddings")},
        )
    else:
        kinds = {"llama": "LlamaConfig", "neox": "GPTNeoXConfig", "qwen2": "Qwen2Config", "olmo2": "Olmo2Config"}
        if layout not in kinds:
            raise UnknownName.among("layout", layout, [*kinds, "gpt2"])
        config = getattr(transformers, kinds[layout])(**shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = builder.from_config(config, dtype=torch.float32)
    model.requires_grad_(False)
    return CausalLM(model, words)


FIT_LM = {"fit.lr": 5e-3, "fit.steps": 120, "fit.batch": 32, "fit.precision": "no", "fit.warmup": 5, "fit.schedule": "linear"}


@functools.cache
def trained_lm(seed: int = 0) -> CausalLM:
    """`tiny_lm(seed)` after training on `facts().forget` and `facts().keep`: it knows them by heart."""
    after: CausalLM = Finetune.set(FIT_LM).run(tiny_lm(seed), facts().request, context(seed))
    return after


@functools.cache
def retrained_lm(seed: int = 0) -> CausalLM:
    """`tiny_lm(seed)` after training on `facts().keep` alone: the reference."""
    after: CausalLM = Retrain.set(FIT_LM).run(tiny_lm(seed), facts().request, context(seed))
    return after


@dataclass(frozen=True)
class Digits(digit_rows.Split):
    """Rows {"x": 64 numbers in 0..1, "y": digit} of one scenario; `test` holds what must still be known."""

    request: Request


@functools.cache
def digits(scenario: Scenario = "class") -> Digits:
    """scikit-learn's digits: all of digit 3 to forget (with digits or pairs of digits as labels), a random tenth, or wrong labels."""
    parts = digit_rows.split(scenario)
    return Digits(parts.forget, parts.keep, parts.unseen, parts.test, digit_rows.request(parts, scenario))


def tiny_classifier(seed: int = 0) -> Classifier:
    """An untrained network 64-128-64-10."""
    return digit_rows.network(seed)


FIT_DIGITS = {"fit.lr": 1e-2, "fit.steps": 300, "fit.batch": 64, "fit.precision": "no", "fit.schedule": "linear", "fit.weight_decay": 5e-4}
FIT_NOISY = {"fit.lr": 1e-2, "fit.steps": 1400, "fit.batch": 64, "fit.precision": "no", "fit.schedule": "linear", "fit.clip": 0}
"""Long enough to learn wrong labels by heart (about 2 s)."""


def _fit(scenario: Scenario) -> dict[str, object]:
    return dict(FIT_NOISY if scenario == "noisy" else FIT_DIGITS)


@functools.cache
def trained_classifier(seed: int = 0, scenario: Scenario = "class") -> Classifier:
    """`tiny_classifier(seed)` after training on forget and keep rows."""
    after: Classifier = Finetune.set(_fit(scenario)).run(tiny_classifier(seed), digits(scenario).request, context(seed))
    return after


@functools.cache
def retrained_classifier(seed: int = 0, scenario: Scenario = "class") -> Classifier:
    """`tiny_classifier(seed)` after training on the keep rows alone: the reference."""
    after: Classifier = Retrain.set(_fit(scenario)).run(tiny_classifier(seed), digits(scenario).request, context(seed))
    return after


@functools.cache
def sklearn_classifier(seed: int = 0, kind: Literal["linear", "mlp", "bayes"] = "linear", scenario: Scenario = "class") -> SklearnClassifier:
    """A scikit-learn classifier fitted on forget and keep rows."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB
    from sklearn.neural_network import MLPClassifier

    estimators = {
        "linear": LogisticRegression(max_iter=200), "mlp": MLPClassifier((32,), max_iter=15, learning_rate_init=0.01), "bayes": GaussianNB(),
    }
    parts = digits(scenario)
    return SklearnClassifier(estimators[kind], classes=10).refit([*parts.forget, *parts.keep], seed)


@functools.cache
def diabetes() -> Request:
    """scikit-learn's diabetes table, target scaled to about 0..1: the third with the lowest targets to forget, the rest to keep."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    rows = [{"x": (20 * a).tolist(), "y": float(b) / 346} for a, b in zip(x, y, strict=True)]
    train, test = rows[:342], rows[342:]
    return _request(*([row for row in part if (row["y"] < 0.28) == low] for part, low in ((train, True), (train, False), (test, True))))


def tiny_regressor(seed: int = 0) -> Regressor:
    """An untrained network 10-32-16-1."""
    shape: dict[str, Any] = {"inputs": 10, "hidden": [32, 16], "outputs": 1}
    return Regressor(seeded(MLP, seed, **shape), shape)


FIT_DIABETES = {"fit.lr": 1e-2, "fit.steps": 300, "fit.batch": 64, "fit.precision": "no", "fit.schedule": "linear"}


@functools.cache
def trained_regressor(seed: int = 0) -> Regressor:
    """`tiny_regressor(seed)` after training on forget and keep rows."""
    after: Regressor = Finetune.set(FIT_DIABETES).run(tiny_regressor(seed), diabetes(), context(seed))
    return after


@functools.cache
def retrained_regressor(seed: int = 0) -> Regressor:
    """`tiny_regressor(seed)` after training on the keep rows alone: the reference."""
    after: Regressor = Retrain.set(FIT_DIABETES).run(tiny_regressor(seed), diabetes(), context(seed))
    return after


@functools.cache
def sklearn_regressor(seed: int = 0) -> SklearnRegressor:
    """A scikit-learn ridge regression fitted on forget and keep rows."""
    from sklearn.linear_model import Ridge

    return SklearnRegressor(Ridge()).refit([*diabetes().rows("forget"), *diabetes().rows("keep")], seed)


def context(seed: int = 0, **changes: Any) -> Context:
    """A context for tests: no folder, no disk, no progress."""
    return Context(seed=seed, device="cpu", **changes)


def _request(forget: list[Any], keep: list[Any], unseen: list[Any]) -> Request:
    return Request(forget=Data.inline(forget), keep=Data.inline(keep), unseen=Data.inline(unseen))
