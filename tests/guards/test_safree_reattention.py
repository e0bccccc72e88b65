"""SAFREE's latent re-attention on the U-Nets: a third row, damped skip features, and nothing where there is nothing to damp."""

import numpy as np
import pytest
import torch

from efface.core.types import Request
from efface.guards.safree import Safree
from efface.ops import text_filter
from efface.testing import tiny, tiny_pipelines

PROMPTS = ["a cat in plain style", "a red dog"]
BROKEN = (RuntimeError, ValueError, TypeError, IndexError)
"""What denoisers raise at latents of no shape."""
REQUEST = Request(kind="concept", names=("a cat", "a boat"))
ALL = {"steps": "all", "negative": False}


def guarded(subject, **settings):
    return Safree.set(settings).run(subject, REQUEST, tiny.context())


@pytest.fixture(scope="module", params=["sd", "sdxl", "video-unet"])
def subject(request):
    return tiny_pipelines.subject(request.param)


def rows_seen(subject, *given, **more):
    """Rows of the latents in each call of the denoiser's first convolution, over frames."""
    heard = []
    handle = subject.denoiser.conv_in.register_forward_pre_hook(lambda module, args: heard.append(len(args[0])))
    try:
        subject.generate(*given, **more)
    finally:
        handle.remove()
    return [rows // (5 if subject.layout.frames else 1) for rows in heard]


@pytest.mark.parametrize("where", ["low", "high"])
def test_it_works(subject, where):
    """Other pictures than without it, with either set of frequencies; switching it off gives those of before."""
    without = guarded(subject, **ALL).generate(PROMPTS)
    assert not np.array_equal(guarded(subject, **ALL, reattention=where).generate(PROMPTS), without)
    assert np.array_equal(guarded(subject, **ALL).generate(PROMPTS), without)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_third_row_is_drawn_while_a_prompt_is_filtered(subject, guidance):
    """Rows for two prompts: 2 more than without, until validation switches back (t' = 1 here)."""
    settings = {"negative": False, "steps": "validated", "midpoint": -100.0, "most": 1, "reattention": "low"}
    usual = 4 if guidance > 1 else 2
    assert rows_seen(guarded(subject, **settings), PROMPTS, guidance_scale=guidance, num_inference_steps=4) == [usual + 2] * 2 + [usual] * 2


def test_multiplying_by_one_changes_nothing(subject):
    """The third row is then carried along in vain; sums of larger batches may differ in their last bits."""
    made = guarded(subject, **ALL, reattention="low", replace=False, sizes=[1.0, 1.0]).generate(PROMPTS)
    assert np.abs(made.astype(int) - guarded(subject, **ALL).generate(PROMPTS).astype(int)).max() <= 1


def test_a_prompt_without_triggers_is_drawn_as_ever(subject):
    after = guarded(subject, **ALL, alpha=10.0, reattention="low")
    assert np.array_equal(after.generate(PROMPTS), subject.generate(PROMPTS))
    assert rows_seen(after, PROMPTS) == [4, 4]


def test_only_filtered_rows_are_damped():
    """Beside a filtered prompt, one that is plain already keeps its picture."""
    sd = tiny_pipelines.subject("sd")
    after = guarded(sd, **ALL, reattention="low")
    after.shields[0]._last = lambda subject, told: {PROMPTS[0]: 1, PROMPTS[1]: -1}[told.prompt]
    made, plain = after.generate(PROMPTS), sd.generate(PROMPTS)
    assert np.abs(made[1].astype(int) - plain[1].astype(int)).max() <= 1
    assert np.abs(made[0].astype(int) - plain[0].astype(int)).max() > 1


def test_skip_features_are_damped_as_written(monkeypatch):
    """Each skip feature of the two widths (32 and 16), in the filtered rows alone, at every up block of every call."""
    sd, seen = tiny_pipelines.subject("sd"), []
    honest = text_filter.reattended

    def watch(filtered, plain, size, where, replace):
        seen.append((filtered.shape[1], len(filtered), size, where, replace))
        return honest(filtered, plain, size, where, replace)

    monkeypatch.setattr("efface.guards.safree.reattended", watch)
    guarded(sd, **ALL, reattention="high", sizes=[0.7, 0.3]).generate(PROMPTS, num_inference_steps=1)
    skips = [(32, 2, 0.7, "high", True)] * 1 + [(16, 2, 0.3, "high", True)] * 3
    assert sorted(seen) == sorted(skips), "skips of a U-Net with one layer a block: 16 (first convolution), 16, 16 (smaller), 32"


def test_weights_and_hooks_are_left_alone(subject):
    digest = subject.digest
    after = guarded(subject, **ALL, reattention="low")
    after.generate(PROMPTS)
    modules = list(subject.denoiser.modules())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in modules)
    with pytest.raises(BROKEN):
        after.generate(PROMPTS, latents=torch.zeros(1))
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in modules)
    assert subject.digest == digest and torch.equal(after.embed_text(["a"]).states, subject.embed_text(["a"]).states)
