"""Negative prompt: the concept's name takes the place of the empty prompt in guidance (folklore of Stable Diffusion, after
arXiv:2207.12598).

    e = e(x, t, concept) + s (e(x, t, prompt) - e(x, t, concept))

Every step moves away from the concept. Weights and prompts stay as they are. It is the plainest guard there is, and the one that
is left out when others are reported: SAFREE's released script has it switched on.

A negative prompt of the call's own stays, with the concept behind it. FLUX has its guidance built in and compares nothing; it is
made to compare (true_cfg_scale), which takes a second pass a step. Without guidance (scale 1 or less) it raises: it would do nothing.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.types import Guard, Request
from efface.families import asking, shields


class NegativePromptConfig(Config):
    """Settings of the negative prompt."""

    prompt: str = ""
    """What to move away from; empty: the names of the concepts, with commas between them."""
    true_guidance: float = Field(4.0, gt=1)
    """Guidance against the negative prompt for models with guidance built in (FLUX), unless the call says one."""


class NegativePrompt(Guard[NegativePromptConfig]):
    """Puts the concept into the negative prompt of every picture."""

    card = Card(
        name="negative_prompt", title="Negative prompt", paper="arXiv:2207.12598", families=("diffusion",), needs=("generate",), uses=("names",),
        technique="in-context", intent="suppress", touches=("input",), locality="none", data=("names",), operator="outputs",
        sequence="accumulates", reversible=True, guarantee="none",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject behind the negative prompt. Raises Unfit for a concept without words."""
        phrase = self.config.prompt or ", ".join(request.names)
        asking.check([phrase] if self.config.prompt else request.names, (), None)
        return subject.guarded(NegativeShield(phrase, self.config.true_guidance))


class NegativeShield(shields.Shield):
    """Writes a phrase into every negative prompt."""

    def __init__(self, phrase: str, true_guidance: float) -> None:
        self.phrase, self.true_guidance = phrase, true_guidance

    def arrange(self, subject: Any, call: shields.Call) -> dict[str, Any]:
        """The call with the phrase in its negative prompts. Raises Unfit without guidance."""
        return shields.with_negative(subject, call, self.phrase, self.true_guidance, "negative_prompt")
