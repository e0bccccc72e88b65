"""Private rewriting of text, then fine-tuning on it: DP-MLM's idea in the form that DP2Unlearning uses (arXiv:2504.13774, route A).

Every word w that is to go is replaced by a word v of a fixed vocabulary, drawn by the exponential mechanism:

    P(v | w) ~ exp(epsilon u(w, v) / (2 sensitivity)),      u = cosine of the model's own input embeddings of w and v

u lies between -1 and 1, so another w can change it by 2 at most; raised to 0 where it is negative (`clipped`) it can by 1. Then the
chances of any v for any two words differ by a factor of at most e^epsilon, and a row of m rewritten words has m epsilon. The vocabulary
is every whole alphabetic word of the tokenizer, whatever the input.

What this promises. With words = "all" two rows with equally many words and the same punctuation and spacing are told apart by at most
e^(m epsilon); how many words there are, and the punctuation, stay visible. With words = "content" function words pass as they are, and
nothing is promised of a whole row: that is sanitization, and the notes say so. Neither is what the recipe `dp` promises. The model whose
embeddings are used must never have seen the rows.

Other columns of a row than prompt, answer, text, messages and system are dropped. The run's folder gets the text as rewritten.jsonl.

Paper: nouns alone, the ten alphabetic candidates of RoBERTa for a mask, P ~ exp(epsilon u): up to 4 epsilon a word, and candidates that
depend on the text, so no bound holds at all.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from efface.core import files
from efface.core import rows as row_files
from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import Unfit
from efface.core.types import Recipe, Request, Row
from efface.ops.loop import descend
from efface.ops.private import exponential, likeness

WORD = re.compile(r"\w+(?:['’]\w+)*")
FUNCTION_WORDS = frozenset((
    "a about above after again against all also although am among an and any are aren't as at be because been before being below between both but by can "
    "can't cannot could couldn't did didn't do does doesn't doing don't down during each either every few for from further had hadn't has hasn't have haven't "
    "having he her here hers herself him himself his how i i'm if in into is isn't it it's its itself just may me might mine more most must my myself neither no "
    "nor not of off on once only or other our ours ourselves out over own same shall she should shouldn't so some such than that that's the their theirs them "
    "themselves then there these they this those though through to too under until up upon very was wasn't we were weren't what when where whether which while "
    "who whom whose why will with within without won't would wouldn't yet you your yours yourself yourselves"
).split())
"""English words that carry grammar and name nothing."""
STARTS = ("Ġ", "▁")
"""How tokenizers mark a token that begins a word."""
PIECE = 64
"""Different words that are compared with the vocabulary at once."""


class DPRewriteConfig(Config):
    """Settings of private rewriting."""

    epsilon: float = Field(10.0, ge=0)
    """Privacy loss of one rewritten word; a row has as many times that as words are rewritten. 0 draws any word."""
    words: Literal["content", "all"] = "content"
    """Which words are rewritten: all but function words, or all. Numbers are words."""
    clipped: bool = True
    """Take negative likeness as 0: the sensitivity is then 1 and not 2."""
    fit: Fit = Fit(lr=2e-5, steps=500, batch=16, warmup=10, schedule="linear")
    """Optimizer settings of the training on the rewritten rows."""


class Vocabulary(NamedTuple):
    """Words to choose from, their embeddings and those of all tokens, and what stands before a word when it is looked up."""

    words: list[str]
    table: Tensor  # (V, d)
    tokens: Tensor  # (N, d)
    lead: str


class DPRewrite(Recipe[DPRewriteConfig]):
    """Rewrites the forget and keep rows word by word, and trains on what comes out."""

    card = Card(
        name="dp_rewrite", title="Private rewriting of words, then fine-tuning", paper="arXiv:2504.13774", families=("causal-lm",), needs=("losses",), uses=(),
        departs="the whole vocabulary and 2 x sensitivity, so that epsilon a word is true; all content words, for telling nouns needs a tagger; "
        "similarity of single words, not in context. Sanitization, not privacy of a row, as long as words pass unchanged",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject trained on rewritten rows; Unfit when there are none, or its tokenizer has no whole words."""
        config = self.config
        rows = [row for data in (request.forget, request.keep) if data is not None for row in data.read()]
        if not rows:
            raise Unfit("dp_rewrite reads forget and keep rows and the request has neither")
        rewritten = _rewrite(rows, _vocabulary(subject), subject, config, ctx)
        if ctx.folder is not None:
            files.write_text(ctx.folder / "rewritten.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rewritten))
        after = subject.trainable(config.fit.rank, ctx.seed_for("adapter"))
        return descend(after, {"all": rewritten}, lambda batch: {"loss": after.losses(batch["all"]).mean()}, config.fit, ctx)


def _rewrite(rows: Sequence[Row], vocabulary: Vocabulary, subject: Any, config: DPRewriteConfig, ctx: Context) -> list[dict[str, object]]:
    """The rows with words replaced; what it costs goes into the notes."""
    parts = row_files.layout(rows)
    texts = [_texts(row, parts) for row in rows]
    found = [[word for text in row for word in WORD.findall(text)] for row in texts]
    gone = [[word for word in row if _goes(word, config)] for row in found]
    draws = _draws(Counter(word for row in gone for word in row), vocabulary, subject, config, ctx)

    def replace(match: re.Match[str]) -> str:
        return next(draws[match[0]]) if _goes(match[0], config) else match[0]

    cost = [config.epsilon * len(row) for row in gone]
    passed = sum(map(len, found)) - sum(map(len, gone))
    ctx.note(
        epsilon_per_word=config.epsilon, words_rewritten=float(sum(map(len, gone))), words_passed=float(passed), vocabulary=float(len(vocabulary.words)),
        sensitivity=_sensitivity(config), epsilon_row_mean=sum(cost) / len(rows), epsilon_row_most=max(cost), epsilon_all_rows=sum(cost),
        guarantee="each row, among rows of as many words and the same punctuation: its rewritten words x epsilon per word" if config.words == "all"
        else f"sanitization: {passed} words passed unchanged, so nothing is promised of a whole row; each rewritten word has epsilon per word",
    )
    return [_built(row, parts, [WORD.sub(replace, text) for text in mine]) for row, mine in zip(rows, texts, strict=True)]


def _goes(word: str, config: DPRewriteConfig) -> bool:
    return config.words == "all" or word.lower().replace("’", "'") not in FUNCTION_WORDS


def _sensitivity(config: DPRewriteConfig) -> float:
    return 1.0 if config.clipped else 2.0


def _draws(counts: Counter[str], vocabulary: Vocabulary, subject: Any, config: DPRewriteConfig, ctx: Context) -> dict[str, Iterator[str]]:
    """For each word, as many replacements as it has occurrences, each drawn for itself."""
    generator = torch.Generator().manual_seed(ctx.seed_for("words") % 2**62)
    names, drawn = sorted(counts), dict[str, Iterator[str]]()
    starts = range(0, len(names), PIECE)
    for start in ctx.progress(starts, "rewriting", len(starts)):
        piece = names[start : start + PIECE]
        vectors = torch.stack([_vector(word, vocabulary, subject) for word in piece])
        chances = exponential(likeness(vectors, vocabulary.table, 0.0 if config.clipped else -1.0), config.epsilon, _sensitivity(config)).exp()
        for word, mine in zip(piece, chances, strict=True):
            picked = torch.multinomial(mine, counts[word], replacement=True, generator=generator)
            drawn[word] = iter([vocabulary.words[at] for at in picked.tolist()])
    return drawn


def _vector(word: str, vocabulary: Vocabulary, subject: Any) -> Tensor:
    """Mean embedding of a word's tokens."""
    ids = subject.tokenizer(vocabulary.lead + word, add_special_tokens=False)["input_ids"]
    return vocabulary.tokens[ids].mean(0) if ids else vocabulary.table.new_zeros(vocabulary.table.shape[1])


def _vocabulary(subject: Any) -> Vocabulary:
    """Every whole alphabetic word of two letters or more that is one token."""
    tokenizer = subject.tokenizer
    table = subject.model.get_input_embeddings().weight.detach().float().cpu()
    count = min(len(tokenizer), len(table))
    tokens = [str(token) for token in tokenizer.convert_ids_to_tokens(range(count))]
    marked = any(token.startswith(STARTS) for token in tokens)
    found: dict[str, int] = {}
    for at, token in enumerate(tokens):
        if at in tokenizer.all_special_ids or (not token.startswith(STARTS) if marked else token.startswith("##")):
            continue
        word = str(tokenizer.decode([at])).strip()
        if len(word) > 1 and word.isalpha():
            found.setdefault(word, at)
    if len(found) < 2:
        raise Unfit(f"the tokenizer of this {type(subject.model).__name__} has {len(found)} whole words to choose from; dp_rewrite needs a tokenizer of words or word pieces")
    return Vocabulary(list(found), table[list(found.values())], table, " " if marked else "")


def _columns(row: Row, parts: Mapping[str, str]) -> list[str]:
    return [*parts.values(), *(["system"] if isinstance(row.get("system"), str) and "prompt" in parts else [])]


def _texts(row: Row, parts: Mapping[str, str]) -> list[str]:
    """All text of a row that a model reads."""
    if "messages" in parts:
        return [str(message["content"]) for message in row["messages"]]  # type: ignore[attr-defined]
    return [str(row[column]) for column in _columns(row, parts)]


def _built(row: Row, parts: Mapping[str, str], texts: Sequence[str]) -> dict[str, object]:
    """A row of the same layout with other text, and nothing else."""
    if "messages" in parts:
        said: Any = row["messages"]
        return {"messages": [{"role": message["role"], "content": text} for message, text in zip(said, texts, strict=True)]}
    return dict(zip(_columns(row, parts), texts, strict=True))
