"""Concepts in what a model's head reads: their directions, a sparse head over them, and what they are worth to a class.

A concept activation vector is the normal of a linear support vector machine that tells rows with the concept from rows
without it. The margins to several of them are a description in words; a sparse linear head over the margins stands in for
the model's own (post-hoc concept bottleneck, arXiv:2205.15480, whose solver gives other weights at every draw of the rows), and integrated gradients (arXiv:1703.01365) say what each
concept adds to a class. Those come from captum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

COSTS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Values of the support vector machine's C that are tried."""
LEAST = 4
"""Fewest rows of a side: two to learn from, two to check with."""


class Concept(NamedTuple):
    """A direction in feature space, and how well it tells rows apart that it was not fitted on."""

    name: str
    normal: np.ndarray  # (d,), of length 1
    offset: float
    accuracy: float


class Head(NamedTuple):
    """A sparse linear classifier over standardized margins: logits = weights z + bias, z = (margins - mean) / scale."""

    weights: np.ndarray  # (classes, concepts)
    bias: np.ndarray  # (classes,)
    mean: np.ndarray  # (concepts,)
    scale: np.ndarray  # (concepts,)
    accuracy: float
    """Share of rows set aside that it gets right."""

    def standard(self, margins: np.ndarray) -> np.ndarray:
        """The margins as the head reads them: mean 0 and deviation 1 over its training rows."""
        return (margins - self.mean) / self.scale  # type: ignore[no-any-return]


def concept(name: str, present: np.ndarray, absent: np.ndarray, most: int, seed: int) -> Concept | None:
    """The direction of one concept from features (rows, d) of rows with and without it; None with too few rows.

    At most `most` rows of each side, and equally many, are drawn; half of them fit the machine, half choose C and give the accuracy.
    """
    from sklearn.svm import SVC

    count = min(len(present), len(absent), most)
    if count < LEAST:
        return None
    source = np.random.default_rng(seed)
    sides = [side[source.permutation(len(side))[:count]] for side in (absent, present)]
    half = count // 2
    x, held = (np.concatenate([side[part] for side in sides]) for part in (slice(half), slice(half, None)))
    y, wanted = np.repeat([0, 1], half), np.repeat([0, 1], count - half)
    best: Concept | None = None
    for cost in COSTS:
        machine = SVC(kernel="linear", C=cost, random_state=seed % 2**31).fit(x, y)
        accuracy = float((machine.predict(held) == wanted).mean())
        length = float(np.linalg.norm(machine.coef_[0]))
        if length and (best is None or accuracy > best.accuracy):
            best = Concept(name, machine.coef_[0] / length, float(machine.intercept_[0]) / length, accuracy)
    return best


def margins(features: np.ndarray, bank: Sequence[Concept]) -> np.ndarray:
    """Signed distance (rows, concepts) of each row from the boundary of each concept; positive where it is present."""
    return features @ np.stack([one.normal for one in bank]).T + np.array([one.offset for one in bank])  # type: ignore[no-any-return]


def sparse_head(scores: np.ndarray, labels: np.ndarray, classes: int, sparsity: float, seed: int) -> Head:
    """An elastic-net softmax regression over margins (rows, concepts); a fifth of the rows is set aside to check it.

    A class without rows has weights 0. Needs rows of at least two classes. `sparsity` is the weight of the penalty beside the
    mean loss, nearly all of it on absolute values.
    """
    from sklearn.linear_model import LogisticRegression

    mean, scale = scores.mean(0), scores.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    order = np.random.default_rng(seed).permutation(len(scores))
    held, used = order[: len(order) // 5], order[len(order) // 5 :]
    if len(np.unique(labels[used])) < 2:
        held, used = order[:0], order
    z = (scores - mean) / scale
    machine = LogisticRegression(C=1 / (sparsity * len(used)), l1_ratio=0.99, solver="saga", max_iter=2000, tol=1e-3, random_state=seed % 2**31)
    if machine.get_params().get("penalty", "deprecated") != "deprecated":  # before scikit-learn 1.8 the penalty had to be named
        machine.set_params(penalty="elasticnet")
    machine.fit(z[used], labels[used])
    weights, bias = np.zeros((classes, scores.shape[1])), np.zeros(classes)
    two = len(machine.classes_) == 2  # then there is one row: the difference of the two
    weights[machine.classes_] = np.concatenate([-machine.coef_, machine.coef_]) / 2 if two else machine.coef_
    bias[machine.classes_] = np.concatenate([-machine.intercept_, machine.intercept_]) / 2 if two else machine.intercept_
    return Head(weights, bias, mean, scale, float(machine.score(z[held], labels[held])) if len(held) else float("nan"))


def integrated_gradients(function: Callable[..., Tensor], x: Tensor, target: int, steps: int, baseline: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What each number of `x` (B, ...) adds to output `target` on the way from the baseline (0), and what is missing in each row's sum (B,).

    Gauss-Legendre nodes; `function` gives (B, outputs).
    """
    from captum.attr import IntegratedGradients

    found, missing = IntegratedGradients(function).attribute(
        x, baselines=baseline, target=target, n_steps=steps, method="gausslegendre", internal_batch_size=max(len(x), 256),
        return_convergence_delta=True,
    )
    return found.detach(), missing.detach()


def token_gradients(
    function: Callable[..., Tensor], table: torch.nn.Module, tokens: tuple[Tensor, Tensor, Tensor], target: int, steps: int
) -> tuple[Tensor, Tensor]:
    """What each token (B, L) adds to output `target`, and what is missing in each row's sum (B,).

    `tokens` = (token numbers, those of the baseline, attention mask), each (B, L); `table` is the layer of token embeddings and
    `function` maps token numbers and mask to outputs (B, outputs).
    """
    from captum.attr import LayerIntegratedGradients

    numbers, baseline, mask = tokens
    found, missing = LayerIntegratedGradients(function, table).attribute(
        numbers, baselines=baseline, target=target, additional_forward_args=(mask,), n_steps=steps, method="gausslegendre",
        internal_batch_size=max(len(numbers), 32), return_convergence_delta=True,
    )
    return found.detach().sum(-1), missing.detach()


def worth(head: Head, scores: np.ndarray, target: int, steps: int) -> np.ndarray:
    """What each concept adds to a class's logit (concepts,): integrated gradients of the head from the mean row, averaged over rows."""
    weights, bias = torch.from_numpy(head.weights), torch.from_numpy(head.bias)
    found, _ = integrated_gradients(lambda z: z @ weights.T + bias, torch.from_numpy(head.standard(scores)), target, steps)
    return found.mean(0).numpy()  # type: ignore[no-any-return]


def ink(pictures: np.ndarray) -> Mapping[str, np.ndarray]:
    """How much of each of six plain concepts every picture (rows, ..., height, width) has (rows,).

    Ink is a pixel's distance from the picture set's most frequent gray, its background; five concepts are the share of the
    ink that lies in the top, bottom, left, right and center, and the sixth is symmetry left to right.
    """
    gray = pictures.reshape(len(pictures), -1, *pictures.shape[-2:]).mean(1) if pictures.ndim > 3 else pictures
    values, counts = np.unique(np.round(gray, 2), return_counts=True)
    dark = np.abs(gray - values[counts.argmax()])
    total = np.maximum(dark.sum((1, 2)), 1e-9)
    high, wide = dark.shape[1:]
    a, b = high // 4, wide // 4
    parts = {
        "top ink": dark[:, : high // 2], "bottom ink": dark[:, high - high // 2 :], "left ink": dark[:, :, : wide // 2],
        "right ink": dark[:, :, wide - wide // 2 :], "center ink": dark[:, a : high - a, b : wide - b],
    }
    shares: dict[str, Any] = {name: part.sum((1, 2)) / total for name, part in parts.items()}
    return {**shares, "symmetry": -np.abs(dark - dark[:, :, ::-1]).sum((1, 2)) / total}


def groups(features: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The group (rows,) of each row, 0 .. count - 1: k-means over standardized features."""
    from sklearn.cluster import KMeans

    z = (features - features.mean(0)) / np.maximum(features.std(0), 1e-6)
    return KMeans(min(count, len(features)), n_init=4, random_state=seed % 2**31).fit_predict(z)  # type: ignore[no-any-return]
