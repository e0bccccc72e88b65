"""What guards of models that draw have in common: a shield that lets everything pass, negative prompts, callbacks, and rows of calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from efface.core.errors import EffaceError, Unfit
from efface.families.denoisers import Text

Call = Mapping[str, Any]
"""A pipeline's keyword arguments."""


class Shield:
    """A shield that changes nothing; guards override what they need. One generation at a time goes through a shield."""

    def screen(self, prompts: Sequence[str]) -> Sequence[str]:
        """The prompts, as they are to be drawn."""
        return prompts

    def arrange(self, subject: Any, call: Call) -> dict[str, Any]:
        """The pipeline's arguments, as it is to be called."""
        return dict(call)

    @contextmanager
    def steer(self, subject: Any) -> Iterator[None]:
        """Inside the block, the modules are steered."""
        yield

    def review(self, outputs: Any) -> Any:
        """The pictures, as they are to be shown."""
        return outputs


def count_of(call: Call) -> int:
    """Number of prompts of a call."""
    given = call.get("prompt") if call.get("prompt") is not None else call.get("prompt_embeds")
    if given is None or isinstance(given, str):
        raise Unfit("a guarded call needs its prompts as a list, or as embeddings")
    return len(given)


def refuse_unguided(subject: Any, call: Call, guard: str) -> None:
    """Raise Unfit where nothing compares the prompt with another one, so that a guard by guidance would do nothing."""
    if subject.layout.guided == "outside" and float(call.get("guidance_scale", subject.sampling.guidance)) <= 1:
        raise Unfit(f"{guard} works through guidance, which is off at guidance_scale = {call.get('guidance_scale')}; set it above 1")


def with_negative(subject: Any, call: Call, phrase: str, true_guidance: float, guard: str) -> dict[str, Any]:
    """The call with `phrase` in every negative prompt, behind what stands there already.

    A denoiser with guidance built in (FLUX) is made to compare two answers, with `true_guidance`.
    """
    refuse_unguided(subject, call, guard)
    if call.get("negative_prompt_embeds") is not None:
        raise Unfit(f"{guard} writes the negative prompt, and the call gives it as negative_prompt_embeds; give it as text")
    given = call.get("negative_prompt")
    texts = given if isinstance(given, list) else [given] * count_of(call)
    changed = {**call, "negative_prompt": [f"{text}, {phrase}" if text else phrase for text in texts]}
    if subject.layout.guided == "inside" and float(call.get("true_cfg_scale", 1.0)) <= 1:
        changed["true_cfg_scale"] = true_guidance
    return changed


def after_each_step(call: Call, names: Sequence[str], work: Callable[[int, dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """The call with `work(step, tensors)` at the end of each step, behind whatever the call does there already."""
    other = call.get("callback_on_step_end")
    seen = list(getattr(other, "tensor_inputs", None) or call.get("callback_on_step_end_tensor_inputs") or ["latents"])

    def both(pipe: Any, step: int, t: Any, given: dict[str, Any]) -> dict[str, Any]:
        changed = dict(given)
        if other is not None:
            changed.update(other(pipe, step, t, {name: given[name] for name in seen}) or {})
        return work(step, changed)

    return {**call, "callback_on_step_end": both, "callback_on_step_end_tensor_inputs": list(dict.fromkeys([*seen, *names]))}


def rows_in(args: Sequence[Any], kwargs: Call) -> int:
    """Rows of one call of a denoiser: those of its latents."""
    latents = args[0] if args else kwargs.get("hidden_states", kwargs.get("sample"))
    if not isinstance(latents, Tensor):
        raise EffaceError("the denoiser was called in a way that no guard can follow: its latents are not its first argument")
    return len(latents)


def picked(value: Any, rows: int, change: Callable[[Tensor], Tensor]) -> Any:
    """The arguments of a denoiser's call with every tensor of `rows` rows changed, in lists and dictionaries too."""
    if isinstance(value, Tensor):
        return change(value) if value.dim() and len(value) == rows else value
    if isinstance(value, Mapping):
        return {name: picked(inner, rows, change) for name, inner in value.items()}
    if isinstance(value, tuple | list) and not isinstance(value, torch.Size):
        return type(value)(picked(inner, rows, change) for inner in value)
    return value


def with_text(kwargs: Call, text: Text) -> dict[str, Any]:
    """A denoiser's keyword arguments with another text in them."""
    changed = {**kwargs, "encoder_hidden_states": text.states}
    if text.pooled is None:
        return changed
    if "pooled_projections" in kwargs:
        changed["pooled_projections"] = text.pooled
    else:
        changed["added_cond_kwargs"] = {**kwargs["added_cond_kwargs"], "text_embeds": text.pooled}
    return changed


def answer(output: Any) -> Tensor:
    """The tensor in what a denoiser gives back."""
    return output[0]  # type: ignore[no-any-return]


def answered(output: Any, tensor: Tensor) -> Any:
    """What a denoiser gave back, with another tensor in it."""
    return (tensor, *output[1:]) if isinstance(output, tuple) else type(output)(sample=tensor)
