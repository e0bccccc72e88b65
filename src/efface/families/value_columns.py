"""Value vectors of a language model, whatever its layout: reading them, and what a change of one does to the rows' log-probabilities.

A column of the MLP's output matrix (role "mlp.out") is what its neuron writes. An adapter counts as folded in, and GPT-2's
matrices, which are stored the other way round, are turned. Nothing here writes to a weight: a changed column is a hook
that adds activation * change to what the module gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from efface.core.context import Context
from efface.core.errors import Missing, Unfit, UnknownName
from efface.core.types import Request, Row
from efface.families.causal_lm import Batch
from efface.ops import logprobs, value_vectors

How = Literal["noise", "remove"]
Column = tuple[int, int]
"""Layer, and column in it."""
SIZE = 16
"""Rows in a pass."""
TEMPERATURE = 2.0


def bare(subject: Any) -> Any:
    """The subject without its shields; itself where it has none, so that what was computed of it is found again."""
    return subject.unguarded() if subject.shields else subject


def matrix(module: Any) -> Tensor:
    """The module's output matrix (d, n), its columns the value vectors, adapters folded in."""
    from transformers.pytorch_utils import Conv1D

    bare = getattr(module, "base_layer", module)
    weight = bare.weight.detach()
    for name in getattr(module, "active_adapters", ()):
        if name in module.lora_A and not module.merged:
            weight = weight + module.get_delta_weight(name).detach().to(weight.dtype)
    return weight.T if isinstance(bare, Conv1D) else weight


def matrices(subject: Any) -> Iterator[Tensor]:
    """The matrix of each layer, one at a time."""
    return map(matrix, subject.modules_of("mlp.out"))


def embedding(subject: Any) -> Tensor:
    """The output embedding (V, d). Raises Unfit for a model without one."""
    module = subject.model.get_output_embeddings()
    if module is None:
        raise Unfit(f"{type(subject.model).__name__} has no output embedding to read columns with")
    return matrix(module)


def vectors(subject: Any, columns: Sequence[Column]) -> Tensor:
    """The columns side by side (d, n). Raises UnknownName for one that the model does not have."""
    modules = subject.modules_of("mlp.out")
    held: dict[int, Tensor] = {}
    for layer, column in columns:
        if not 0 <= layer < len(modules):
            raise UnknownName(f"layer {layer} asked, the model has layers 0 to {len(modules) - 1}")
        held.setdefault(layer, matrix(modules[layer]))
        if not 0 <= column < held[layer].shape[1]:
            raise UnknownName(f"column {column} of layer {layer} asked, it has columns 0 to {held[layer].shape[1] - 1}")
    return torch.stack([held[layer][:, column] for layer, column in columns], dim=1)


def check_alike(subject: Any, original: Any) -> None:
    """Raise Unfit unless both models have the same layers, widths and vocabulary: a column means something for one checkpoint's kin only."""
    mine, other = (_shape(model) for model in (subject, original))
    if mine != other:
        raise Unfit(f"columns can be compared between a model and one made from it; the original has {other}, this one {mine}")


def _shape(subject: Any) -> str:
    modules = subject.modules_of("mlp.out")
    width, columns = matrix(modules[0]).shape
    return f"{len(modules)} layers of {columns} columns of {width} numbers and {len(embedding(subject))} tokens"


def word_list(subject: Any, request: Request, ctx: Context) -> set[int]:
    """W: the tokens of the forget rows' text, and of the row set "article" where there is one, minus stop words and what holds no letter."""
    rows = [*request.rows("forget"), *(ctx.sets["article"].read() if "article" in ctx.sets else [])]
    texts = [text for row in rows for text in _texts(row)]
    ids = {token for text in texts for token in subject.tokenizer(text, add_special_tokens=False)["input_ids"]} - set(subject.tokenizer.all_special_ids)
    found = value_vectors.content((token, str(subject.tokenizer.decode([token]))) for token in ids)
    if not found:
        raise Missing("the forget rows hold no word but stop words; there is nothing to look for among the columns' tokens")
    return found


def _texts(row: Row) -> Iterator[str]:
    """Question and answer, or the text, of a row, with a space before them as most vocabularies have words in the middle of a sentence."""
    for name in ("text", "prompt", "question", "answer", "completion", "response"):
        if isinstance(row.get(name), str):
            yield f" {row[name]}"
    messages = row.get("messages")
    yield from (f" {message['content']}" for message in messages) if isinstance(messages, list) else ()


# -- what a change of a column does --------------------------------------------------------------------------------------------


def changes(subject: Any, columns: Sequence[Column], how: How, deviation: float, seed: int) -> Tensor:
    """What is added to each column (d, n): noise, the same for every model, or minus the column itself."""
    found = vectors(subject, columns).float()
    if how == "remove":
        return -found
    return torch.stack([value_vectors.noise(*place, len(found), deviation, seed) for place in columns], dim=1).to(found.device)


@contextmanager
def changed(subject: Any, columns: Sequence[Column], added: Tensor) -> Iterator[None]:
    """Inside the block the model behaves as if `added` (d, n) had been added to its columns."""
    modules = subject.modules_of("mlp.out")
    with ExitStack() as stack:
        for layer in sorted({layer for layer, _ in columns}):
            places = [at for at, (where, _) in enumerate(columns) if where == layer]
            read, change = [columns[at][1] for at in places], added[:, places].T
            hook = partial(_written, read=read, change=change)
            stack.callback(modules[layer].register_forward_hook(hook).remove)
        yield


def _written(module: Any, inputs: tuple[Tensor, ...], out: Tensor, read: list[int], change: Tensor) -> Tensor:
    return out + inputs[0][..., read] @ change.to(out.dtype)


def drops(subject: Any, rows: Sequence[Row], sets: Sequence[tuple[Sequence[Column], Tensor]], ctx: Context, label: str) -> np.ndarray:
    """Fall of the mean log-probability per token of each row's answer (sets, rows) under each set of changed columns.

    Layers before the first changed one are not computed again: their outputs are kept from the pass without a change.
    """
    found = np.zeros((len(sets), len(rows)))
    batches = [subject.encode(rows[at : at + SIZE]) for at in range(0, len(rows), SIZE)]
    with torch.no_grad(), torch.autocast(subject.device.type, enabled=False):
        for number, batch in enumerate(batches):
            outputs = _outputs(subject, batch)
            base = outputs.pop()
            here = slice(number * SIZE, number * SIZE + len(base))
            for at, (columns, added) in enumerate(ctx.progress(sets, label, len(sets))):
                with _from_layer(subject, min(layer for layer, _ in columns), outputs), changed(subject, columns, added):
                    found[at, here] = (subject.losses(batch).float() - base).cpu().numpy()
    return found


def _outputs(subject: Any, batch: Batch) -> list[Any]:
    """What each layer gives for the batch, and last the losses of its rows."""
    caught: list[Any] = []
    with ExitStack() as stack:
        for layer in subject.layers():
            stack.callback(layer.register_forward_hook(lambda module, inputs, out: caught.append(out)).remove)
        losses = subject.losses(batch).float()
    return [*caught, losses]


@contextmanager
def _from_layer(subject: Any, first: int, outputs: Sequence[Any]) -> Iterator[None]:
    """Inside the block the layers before `first` give what they gave before, without computing."""
    skipped = list(subject.layers())[:first]
    wrapped = [vars(layer).get("forward") for layer in skipped]  # as accelerate leaves it where layers stand on several devices
    for layer, out in zip(skipped, outputs, strict=False):
        layer.forward = lambda *given, out=out, **more: out
    try:
        yield
    finally:
        for layer, before in zip(skipped, wrapped, strict=True):
            del layer.forward
            if before is not None:
                layer.forward = before


def screen(subject: Any, rows: Sequence[Row], how: How, deviation: float, ctx: Context) -> np.ndarray:
    """Estimated effect (layers, columns) of changing each column on the log-probability of the rows' answers: one pass and its gradient.

    Good for choosing candidates, not as a number: the gradient is that at temperature 2, since at 1 that of a known answer vanishes.
    """
    total: list[Tensor] = []
    modules = subject.modules_of("mlp.out")
    starts = range(0, len(rows), SIZE // 2)
    for start in ctx.progress(starts, "screening columns", len(starts)):
        batch = subject.encode(rows[start : start + SIZE // 2])
        with torch.enable_grad(), torch.autocast(subject.device.type, enabled=False), _graph(modules) as traced:
            logits, labels = subject.logits(batch)
            gradients = torch.autograd.grad(logprobs.nll_mean(logits / TEMPERATURE, labels).sum(), [out for _, out in traced])
        for layer, ((read, _), gradient) in enumerate(zip(traced, gradients, strict=True)):
            score = (
                value_vectors.noise_score(read, gradient, deviation) if how == "noise"
                else value_vectors.removal_score(read, gradient, matrix(modules[layer]))
            )
            total[layer : layer + 1] = [total[layer] + score] if layer < len(total) else [score]
    return np.stack([(part / len(rows)).double().cpu().numpy() for part in total])


@contextmanager
def _graph(modules: Sequence[Any]) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """A list that receives what each module reads and writes, in a graph that begins at the first of them: no weight needs a gradient."""
    caught: list[tuple[Tensor, Tensor]] = []

    def hook(module: Any, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
        out = out if out.requires_grad else out.detach().requires_grad_(True)
        caught.append((inputs[0].detach(), out))
        return out

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(hook).remove)
        yield caught
