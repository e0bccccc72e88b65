"""A classifier whose only trained part is a convex head: regularized logistic regression on rows of norm 1, with its removal budget.

The head reads the rows themselves, or what a frozen network computes of them. Its weights, the gradient bound spent so far,
and a fingerprint of the rows that it still holds are tensors of the module and travel with it. The random term does not:
whoever knows it can undo what it hides, so it is drawn again from its seed where it is needed.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from efface.core.config import Config
from efface.core.errors import BadRows, Unfit
from efface.core.types import Row
from efface.families import module_files, tables
from efface.families.classifier import Classifier
from efface.families.module import chunks
from efface.ops import convex


class Terms(Config):
    """Terms of a convex head and of the removals from it."""

    lam: float = Field(0.1, gt=0)
    """L2 regularization per row; more allows more removals and fits less well."""
    sigma: float = Field(3.0, gt=0)
    """Standard deviation of the random linear term that hides what removals leave behind."""
    epsilon: float = Field(1.0, gt=0)
    """How far a removal may stay apart from retraining: odds change by at most e^epsilon."""
    delta: float = Field(1e-4, gt=0, lt=1)
    """Chance with which epsilon may fail."""
    features: Literal["body", "input"] = "body"
    """What the head reads: features of the frozen network, or the rows themselves."""
    independent: bool = False
    """Say so when the network never saw the rows (public data, or private training); a certificate on its features rests on it."""

    @property
    def budget(self) -> float:
        """The largest gradient norm, over all classes together, that removals may leave behind."""
        return convex.budget(self.sigma, self.epsilon, self.delta)


class ConvexHead(nn.Module):
    """Logits (B, classes) in double precision: a linear head on rows of norm 1, over a frozen body or over the rows themselves."""

    rows: Tensor
    spent: Tensor

    def __init__(
        self, inputs: int, classes: int, body: Any = "", body_arguments: Mapping[str, Any] | None = None, terms: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.terms = Terms(**(terms or {}))
        self.body: Any = (body if isinstance(body, nn.Module) else build_body(body, body_arguments or {})) if body else None
        self.head = nn.Linear(inputs, classes, bias=False, dtype=torch.float64)
        self.register_buffer("spent", torch.zeros(1 if classes == 2 else classes, dtype=torch.float64))
        self.register_buffer("rows", torch.zeros(5, dtype=torch.int64))  # count and fingerprint
        self.requires_grad_(False)

    def forward(self, *given: Any, **named: Any) -> Tensor:
        return self.head(convex.unit(self.features(*given, **named)))  # type: ignore[no-any-return]

    def features(self, *given: Any, **named: Any) -> Tensor:
        """What the head reads before it is scaled (B, inputs)."""
        if self.body is None:
            return given[0].flatten(1)  # type: ignore[no-any-return]
        linear = [module for module in self.body.modules() if isinstance(module, nn.Linear)]
        caught: list[Tensor] = []
        handle = linear[-1].register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
        try:
            self.body(*given, **named)
        finally:
            handle.remove()
        return caught[-1].flatten(1)

    def train(self, mode: bool = True) -> ConvexHead:
        """Sets the mode of the head; the body always stays as it is used, in evaluation."""
        super().train(mode)
        if self.body is not None:
            self.body.eval()
        return self

    @property
    def solution(self) -> Tensor:
        """Weights of the regressions (K, inputs): one for each class, or a single one for two classes."""
        weight = self.head.weight.detach()
        return weight[1:] - weight[:1] if len(weight) == 2 else weight.clone()

    @torch.no_grad()
    def take(self, solution: Tensor) -> None:
        """Use these weights of the regressions from now on."""
        self.head.weight.copy_(torch.cat([-solution / 2, solution / 2]) if len(self.head.weight) == 2 else solution)

    @property
    def spent_together(self) -> float:
        """The gradient bound over all classes: the norm of what each has spent, because their random terms are independent."""
        return float(self.spent.norm())


def build_body(arch: str, arguments: Mapping[str, Any]) -> nn.Module:
    """A module of the class "module:Class"; of transformers' classes, `arguments` are the configuration."""
    kind: Any = module_files.module_class(arch)
    if kind is None:
        raise Unfit(f"the body of this head is a {arch!r}, which cannot be imported; install the package that defines it")
    config = getattr(kind, "config_class", None)
    built = kind(config.from_dict(dict(arguments))) if config is not None else kind(**arguments)
    return built.requires_grad_(False).eval()  # type: ignore[no-any-return]


def head_of(subject: Any) -> ConvexHead | None:
    """The subject's convex head; None when it has none."""
    model = getattr(subject, "model", None)
    return model if isinstance(model, ConvexHead) else None


@torch.no_grad()
def rows_of(subject: Classifier, rows: Sequence[Row]) -> convex.Rows:
    """What the head reads of some rows (n, inputs), each of norm 1 or 0, and their signs in each regression."""
    head = head_of(subject)
    if head is None:
        raise Unfit(f"this {subject.family} has no convex head; train one: efface train --recipe convex_head")
    if not rows:
        return convex.Rows(head.head.weight.new_zeros(0, head.head.in_features), head.head.weight.new_zeros(len(head.spent), 0))
    found, labels = [], []
    for piece in chunks(rows):
        batch = subject.encode(piece)
        found.append(head.features(**batch.x) if isinstance(batch.x, Mapping) else head.features(batch.x))
        labels.append(batch.labels)
    return convex.Rows(convex.unit(torch.cat(found)), convex.signs(torch.cat(labels), head.head.out_features))


def random_term(head: ConvexHead, seed: int) -> Tensor:
    """The random linear term (K, inputs) that belongs to a seed."""
    shape, generator = (len(head.spent), head.head.in_features), torch.Generator().manual_seed(seed % 2**62)
    return (head.terms.sigma * torch.randn(shape, generator=generator, dtype=torch.float64)).to(head.head.weight)


def with_head(subject: Classifier, rows: Sequence[Row], terms: Terms, seed: int, tolerance: float) -> Classifier:
    """A new subject with a convex head fitted to `rows` on top of the subject's features (or on the rows themselves)."""
    after = _headed(subject, rows, terms)
    head: Any = after.model
    held = rows_of(after, rows)
    fitted = convex.fit(held, terms.lam, random_term(head, seed), tolerance)
    head.take(fitted.weights)
    head.spent.copy_(fitted.residual)
    head.rows.copy_(fingerprint(rows))
    return after


def fingerprint(rows: Sequence[Row]) -> Tensor:
    """Count and four sums of SHA-256 words over the rows (5,): of two sets together it is the sum, whatever the order."""
    words = row_words(rows)
    total = np.concatenate([np.array([len(words)], np.uint64), words.sum(0, dtype=np.uint64)])
    return torch.from_numpy(total.view(np.int64).copy())


def row_words(rows: Sequence[Row]) -> np.ndarray:
    """SHA-256 of each row's input and label as four numbers (n, 4); equal for rows that a classifier cannot tell apart."""
    texts = [row["text"] for row in rows if isinstance(row.get("text"), str)]
    inputs = texts if len(texts) == len(rows) else list(tables.inputs(rows)) if rows else []
    found = np.zeros((len(rows), 4), dtype=np.uint64)
    for place, (x, row) in enumerate(zip(inputs, rows, strict=True)):
        raw = x.encode() if isinstance(x, str) else np.ascontiguousarray(x).tobytes()
        found[place] = np.frombuffer(hashlib.sha256(f"{row['y']}|".encode() + raw).digest(), dtype="<u8")
    return found


def check_rows(head: ConvexHead, rows: Sequence[Row]) -> None:
    """Raise BadRows unless these are, in any order, the very rows that the head holds."""
    found, held = fingerprint(rows), head.rows.cpu()
    if int(found[0]) != int(held[0]):
        raise BadRows(f"the head holds {int(held[0])} rows, and forget and keep rows together are {int(found[0])}; give every row that it still holds")
    if not torch.equal(found, held):
        raise BadRows("forget and keep rows together are not the rows that the head was trained on; give those rows, less the ones removed before")


def _headed(subject: Classifier, rows: Sequence[Row], terms: Terms) -> Classifier:
    """The subject with an untrained convex head, and what rebuilds it."""
    old = head_of(subject)
    body = None if terms.features == "input" else old.body if old is not None else (subject.merged() if subject.adapted else subject).model
    if terms.features == "input" and subject.tokenizer is not None:
        raise Unfit("a text's words are no numbers; use features = body")
    if terms.features == "body" and body is None:
        raise Unfit("this head reads the rows themselves and has no network below it; use features = input")
    with torch.no_grad():
        batch = subject.encode(rows[:2])
        width = batch.x.flatten(1).shape[1] if body is None else subject.features(batch).shape[1]
    classes = subject.classes
    if classes is None or classes < 2:
        raise Unfit(f"{type(subject.model).__name__} has {classes or 'an unknown number of'} classes; a convex head needs at least 2")
    shape: dict[str, Any] = {"inputs": width, "classes": classes, "terms": terms.model_dump()}
    after = copy.copy(subject)
    with torch.random.fork_rng(devices=[]):  # a linear layer draws weights, which are replaced at once
        after.model = ConvexHead(**shape, body=copy.deepcopy(body).requires_grad_(False).eval() if body is not None else "")
    described = {} if body is None else _describe(subject)
    after.arguments = None if described is None else {**shape, **described}
    after.model.to(subject.device).eval()
    after.origin = ""
    return after


def _describe(subject: Classifier) -> dict[str, Any] | None:
    """What builds the subject's module, or the body below its head, as arguments of ConvexHead; None when that is not known."""
    if head_of(subject) is not None:
        return None if subject.arguments is None else {name: subject.arguments[name] for name in ("body", "body_arguments")}
    model: Any = subject.merged().model if subject.adapted else subject.model
    arch = f"{type(model).__module__}:{type(model).__qualname__}"
    if hasattr(model, "config") and hasattr(model, "save_pretrained"):
        return {"body": arch, "body_arguments": json.loads(model.config.to_json_string(use_diff=False))}
    return None if subject.arguments is None else {"body": arch, "body_arguments": dict(subject.arguments)}
