"""Log-likelihoods by lm-evaluation-harness (package lm-eval, MIT), of a model that is already in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from efface.core.errors import Missing


def log_likelihoods(subject: Any, pairs: Sequence[tuple[str, str]], batch: int = 8) -> list[float]:
    """log p(continuation | context) of each pair, in order, by the harness's own code. Raises Missing where it is not installed."""
    try:
        from lm_eval.api.instance import Instance
        from lm_eval.models.huggingface import HFLM
    except ImportError:
        raise Missing("scoring through lm-evaluation-harness needs the package lm-eval; run: pip install lm-eval, or leave `through` as it is") from None
    # Whole, as the harness looks for attributes of a plain transformers model; the copy is let go of afterwards.
    model = subject.merged().model if subject.adapted else subject.model
    harness = HFLM(pretrained=model, tokenizer=subject.tokenizer, batch_size=batch)
    asked = [Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=at) for at, pair in enumerate(pairs)]
    return [float(found[0]) for found in harness.loglikelihood(asked, disable_tqdm=True)]
