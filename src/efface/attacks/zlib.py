"""zlib attack on membership (arXiv:2012.07805): s(x) = -(mean loss of x) / bytes of the compressed text of x.

The text is the labeled part (the answer), as in open-unlearning; "hello world" compresses to 19 bytes. Dividing takes out
how easy a text is by itself.
"""

from __future__ import annotations

from efface.core.card import Card
from efface.core.config import Config
from efface.core.context import Context
from efface.core.types import Attack, Measurement, Request, Subject
from efface.families import membership
from efface.families.causal_lm import RowScore
from efface.ops import text_stats


class ZlibConfig(Config):
    """The attack has no settings."""


class Zlib(Attack[ZlibConfig]):
    """Takes rows for members whose loss is low for what their text compresses to."""

    card = Card(
        name="zlib", title="Membership by loss over compressed size", paper="arXiv:2012.07805", families=("causal-lm",), needs=("score",),
        uses=("forget", "unseen"), access="logits", better="as-reference", departs="compresses the answer, not the prompt",
    )

    def run(self, subject: Subject, request: Request, ctx: Context) -> Measurement:
        """Return the AUC of the forget rows against the unseen rows. Raises Unfit when the request lacks either."""
        return membership.attack(self.card, subject, request, ctx, per_byte)


def per_byte(row: RowScore) -> float | None:
    """-(mean loss) / compressed bytes, None for a row without tokens."""
    return -row.loss / text_stats.zlib_size(row.text) if len(row.log_probs) else None
