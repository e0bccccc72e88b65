"""Unified concept editing, UCE (arXiv:2308.14761): cross-attention reads a concept as if it were its guide, by one closed form.

    W' = [lam W + a sum (W g_i) c_i^T + p sum (W r_j) r_j^T] [lam I + a sum c_i c_i^T + p sum r_j r_j^T]^-1

over all projections W that read text. c_i is the state of a concept's text at its last token (today's script; the older one
and RECE take everything from there to the end), g_i that of the guide, "" by default (an artist's style takes "art"), and r_j
that of a text to keep. lam .5, a = p = 1. The bracket does not hold W: W' = W M with one M for all, solved in float64.

What the concept was read as can be undone by whoever holds M, or both models (attack inverse_edit): this is no removal.

technique "tensor" is the older target: W g less its part along W c, so that nothing of the concept's own direction is left.
It is not linear in W, and every projection is solved by itself.

Stable Diffusion 3 and FLUX read text through a projection with a bias, and pooled text through another; both are edited, each
by a map of its own. The bias is added after the map, so the target leaves it out; the paper's code leaves it in and is off by it.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from efface.core.card import Card
from efface.core.context import Context
from efface.core.types import Method, Request
from efface.families import concept_states, text_edit
from efface.ops import closed_form


class UCEConfig(concept_states.ClosedForm):
    """Settings of unified concept editing."""

    technique: Literal["replace", "tensor"] = "replace"
    """Read the concept as the guide, or as the guide less what points along the concept."""


class UCE(Method[UCEConfig]):
    """Maps concepts to a guide in all projections that read text, in one solve."""

    card = Card(
        name="uce", title="Unified concept editing", paper="arXiv:2308.14761", families=("diffusion",), needs=("weights",), uses=("names", "near", "instead"),
        technique="closed form", intent="suppress", touches=("weights",), locality="selected parameters", data=("names",), operator="weights",
        sequence="accumulates", reversible=False, guarantee="empirical",
        departs="solved in float64 without an explicit inverse; the bias of SD3's and FLUX's projections is left out of the target; expansions "
        "also apply to what is kept, where the code repeats the concept there; no debiasing",
    )

    def run(self, subject: Any, request: Request, ctx: Context) -> Any:
        """Return the subject with edited projections, everything else shared; keep rows' prompts are held where the request has some.

        Raises Unfit for a concept that is empty or also kept, and for a pipeline without text cross-attention.
        """
        texts = concept_states.asked(subject, request, self.config, ctx)
        if self.config.technique == "tensor":
            return self._tensor(subject, concept_states.moves(subject, texts, self.config), ctx)
        return concept_states.applied(subject, concept_states.edits(subject, texts, self.config, ctx), ctx)

    def _tensor(self, subject: Any, moves: closed_form.Moves, ctx: Context) -> Any:
        """The older technique, projection by projection."""
        concept_states.solved(moves, self.config.lam, ctx)  # the same system for all: whether it is rank-deficient is said once
        lam = self.config.lam + float(ctx.notes["added_to_lam"])
        names = [f"{name}.weight" for name in text_edit.text_layers(subject)]
        after = subject.trainable(names)
        weights = dict(after.model.named_parameters())
        contexts, scale = _rows(moves)
        with torch.no_grad():
            for name in names:
                values = closed_form.away(weights[name], moves.contexts, moves.targets)
                if moves.kept is not None:
                    values = torch.cat([values, moves.kept.double().cpu() @ weights[name].double().cpu().T])
                weights[name].copy_(closed_form.fitted(weights[name], contexts, values * scale, lam))
        after.model.requires_grad_(False)
        return after


def _rows(moves: closed_form.Moves) -> tuple[Tensor, Tensor]:
    """States of all that is moved and held (n, d), each times the root of its weight, and those roots (n, 1)."""
    states = moves.contexts if moves.kept is None else torch.cat([moves.contexts, moves.kept])
    weights = [part for part in (moves.weights, moves.kept_weights) if part is not None]
    roots = torch.cat(weights).double().cpu().sqrt()[:, None]
    return states.double().cpu() * roots, roots
