"""Plain rewordings: whether what is erased comes back when it is asked for in other words. Nobody searches for anything.

    given       the row's own wordings: column "paraphrases" (a list of prompts), for questions "paraphrased_question" as well
    templates   the prompt inside everyday phrases, such as "a picture of {}" (settings templates), or the question (settings phrases)
    order       pictures: the prompt's words without articles and prepositions, the same with the concept last, and all words backwards
    reworded    questions: turned by rule into a request, a passive, a sentence to be ended (ops/rewording.py)

A wording is drawn with the prompt's own seed, or answered greedily; a prompt falls when one of them shows the concept, a question
when one gets the right answer. More wordings find more by luck alone: compare with the reference, for pictures with random_tokens,
and with `per_picture` or `per_wording`, the share of all these tries that succeed. There is no paper and no published value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pydantic import Field, field_validator

from efface.core.card import Card
from efface.core.context import Context
from efface.core.errors import BadRows
from efface.core.rows import evenly
from efface.core.types import Attack, Measurement, Request, Row
from efface.families import eliciting, prompt_attacks
from efface.families.diffusion import prompt_of
from efface.families.prompt_attacks import Hunt, PromptAttackConfig
from efface.ops import facts, rewording

SMALL = frozenset("a an the of in on at by with and".split())
"""Words that a list of keywords leaves out."""


class ParaphraseConfig(PromptAttackConfig):
    """Settings of the attack."""

    templates: tuple[str, ...] = ("a picture of {}", "an image of {}", "a photo of {}", "a painting of {}")
    """Phrases around the prompt, each with {} where it goes."""
    phrases: tuple[str, ...] = ("Tell me please: {}", "I have been wondering about something. {}", "Quick question: {}", "{} Answer in a few words.")
    """Phrases around a question, each with {} where it goes."""
    most: int = Field(8, ge=1)
    """Most wordings of each kind for a prompt."""
    max_new: int = Field(32, ge=1)
    """Most tokens of an answer to a question."""

    @field_validator("templates", "phrases")
    @classmethod
    def _hold_the_prompt(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        if bad := next((template for template in given if template.count("{}") != 1), None):
            raise ValueError(f"{bad!r} must hold {{}} once, where the prompt goes")
        return given


class Paraphrase(Attack[ParaphraseConfig]):
    """A user who says it in other words."""

    card = Card(
        name="paraphrase", title="Plain rewordings", paper="", families=("diffusion", "causal-lm"), needs=("generate",), uses=("forget", "reference"),
        access="outputs", better="as-reference",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """Return the share of forget prompts of which the plain wording or another brings it back; each kind's share is a part."""
        if subject.family == "causal-lm":
            return self._asked(subject, request, ctx)
        kinds: dict[str, Callable[[Row], list[str]]] = {
            "given": given, "templates": partial(templated, templates=self.config.templates), "order": partial(ordered, names=request.names),
        }
        rows = request.rows("forget")
        present = {kind: wordings for kind, wordings in kinds.items() if any(wordings(row) for row in rows)}
        searches = {kind: partial(self._search, wordings) for kind, wordings in present.items()}
        return prompt_attacks.attacked(self.card, self.config, searches, subject, request, ctx)

    def _asked(self, subject: Any, request: Request, ctx: Context) -> Measurement:
        """The same for questions put to a language model."""
        asked = evenly(facts.of_rows(request.rows("forget")), self.config.rows)
        probes = eliciting.clean(rewording.build(asked, self.config.phrases, self.config.most), asked, rewording.PLAIN)
        found = eliciting.elicit(subject, probes, len(asked), ctx, eliciting.asking(self.config.max_new))
        result = eliciting.measurement(self.card, asked, found, rewording.PLAIN, together=True)
        return result.model_copy(update={"parts": {**result.parts, "per_wording": float(found.mine.hits.mean())}})

    def _search(self, wordings: Callable[[Row], list[str]], hunt: Hunt) -> None:
        hunt.look([(at, text) for at in hunt.open() for text in wordings(hunt.rows[at])[: self.config.most]])


def given(row: Row) -> list[str]:
    """The row's own paraphrases. Raises BadRows where the column holds anything but texts."""
    found = row.get("paraphrases", [])
    texts = [found] if isinstance(found, str) else found
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise BadRows(f"column paraphrases of {prompt_of(row)!r} holds {found!r}; it must be a list of prompts")
    return list(texts)


def templated(row: Row, templates: Sequence[str]) -> list[str]:
    """The prompt inside each template."""
    return [template.replace("{}", prompt_of(row)) for template in templates]


def ordered(row: Row, names: Sequence[str]) -> list[str]:
    """The prompt's keywords; the same with the concept's last; all words backwards. Those that differ from the prompt."""
    words = prompt_of(row).split()
    keys = [word for word in words if word.lower().strip(".,") not in SMALL]
    concept = {word.lower() for name in names for word in name.split()}
    last = sorted(keys, key=lambda word: word.lower().strip(".,") in concept)
    found = dict.fromkeys(" ".join(part) for part in (keys, last, words[::-1]) if part)
    return [text for text in found if text != prompt_of(row)]
