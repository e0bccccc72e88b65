"""What guards of models that draw have in common."""

import pytest
import torch

from efface.core.errors import EffaceError, Unfit
from efface.families import shields
from efface.families.denoisers import Text
from efface.testing import tiny_pipelines


@pytest.fixture(scope="module")
def sd():
    return tiny_pipelines.subject("sd")


def test_negative_prompts_are_written_behind_others(sd):
    call = shields.with_negative(sd, {"prompt": ["a", "b"], "guidance_scale": 3.0}, "a cat", 4.0, "guard")
    assert call["negative_prompt"] == ["a cat", "a cat"] and "true_cfg_scale" not in call
    more = shields.with_negative(sd, {**call, "negative_prompt": ["blurry", ""]}, "a cat", 4.0, "guard")
    assert more["negative_prompt"] == ["blurry, a cat", "a cat"]
    assert shields.with_negative(sd, {**call, "negative_prompt": "blurry"}, "a cat", 4.0, "guard")["negative_prompt"] == ["blurry, a cat"] * 2
    assert shields.with_negative(sd, {"prompt_embeds": torch.zeros(3, 4, 4)}, "a cat", 4.0, "guard")["negative_prompt"] == ["a cat"] * 3


def test_negative_prompts_that_would_do_nothing_are_refused(sd):
    with pytest.raises(Unfit, match="guard works through guidance, which is off at guidance_scale = 1.0"):
        shields.with_negative(sd, {"prompt": ["a"], "guidance_scale": 1.0}, "a cat", 4.0, "guard")
    with pytest.raises(Unfit, match="negative_prompt_embeds; give it as text"):
        shields.with_negative(sd, {"prompt": ["a"], "negative_prompt_embeds": torch.zeros(1)}, "a cat", 4.0, "guard")
    with pytest.raises(Unfit, match="prompts as a list"):
        shields.with_negative(sd, {"prompt": "a"}, "a cat", 4.0, "guard")


def test_built_in_guidance_is_made_to_compare():
    flux = tiny_pipelines.subject("flux")
    call = {"prompt": ["a"], "guidance_scale": 1.0}
    assert shields.with_negative(flux, call, "a cat", 4.0, "guard")["true_cfg_scale"] == 4.0
    assert shields.with_negative(flux, {**call, "true_cfg_scale": 2.0}, "a cat", 4.0, "guard")["true_cfg_scale"] == 2.0


def test_callbacks_come_behind_each_other(sd):
    """The caller's own sees what it asked for, alone, and what it changes is what the guard sees and the pipeline gets."""
    seen = []

    def theirs(pipe, step, t, given):
        seen.append(set(given))
        return {"latents": given["latents"] * 0}

    def ours(step, given):
        seen.append((step, set(given), float(given["latents"].abs().max())))
        return given

    call = shields.after_each_step({"callback_on_step_end": theirs}, ["prompt_embeds"], ours)
    assert call["callback_on_step_end_tensor_inputs"] == ["latents", "prompt_embeds"]
    made = sd.generate(["a cat"], num_inference_steps=2, **{name: value for name, value in call.items()})
    assert seen == [{"latents"}, (0, {"latents", "prompt_embeds"}, 0.0), {"latents"}, (1, {"latents", "prompt_embeds"}, 0.0)]
    assert (made == sd.pictures(torch.zeros(1, *sd.latent_shape))).all()


def test_a_callback_may_give_nothing_back():
    call = shields.after_each_step({"callback_on_step_end": lambda *given: None}, ["prompt_embeds"], lambda step, given: given)
    given = {"latents": torch.ones(1), "prompt_embeds": torch.ones(1)}
    assert set(call["callback_on_step_end"](None, 0, 0, dict(given))) == set(given)


def test_rows_are_picked_wherever_they_are():
    whole = {"states": torch.arange(4), "more": {"pooled": torch.arange(4), "ids": torch.arange(3)}, "t": torch.tensor(7), "list": (torch.arange(4),), "flag": False}
    found = shields.picked(whole, 4, lambda rows: rows[2:])
    assert found["states"].tolist() == found["more"]["pooled"].tolist() == found["list"][0].tolist() == [2, 3]
    assert found["more"]["ids"].tolist() == [0, 1, 2] and found["t"].item() == 7 and found["flag"] is False
    assert whole["states"].tolist() == [0, 1, 2, 3]


def test_text_goes_where_each_denoiser_reads_it():
    text = Text(torch.ones(1, 2, 3), torch.ones(1, 3))
    assert shields.with_text({"encoder_hidden_states": 0, "pooled_projections": 0}, text)["pooled_projections"] is text.pooled
    added = shields.with_text({"encoder_hidden_states": 0, "added_cond_kwargs": {"text_embeds": 0, "time_ids": 1}}, text)
    assert added["added_cond_kwargs"]["text_embeds"] is text.pooled and added["added_cond_kwargs"]["time_ids"] == 1
    assert shields.with_text({"encoder_hidden_states": 0}, Text(text.states))["encoder_hidden_states"] is text.states


def test_a_call_that_cannot_be_followed_raises():
    assert shields.rows_in((torch.zeros(3, 1),), {}) == shields.rows_in((), {"hidden_states": torch.zeros(3, 1)}) == 3
    with pytest.raises(EffaceError, match="no guard can follow"):
        shields.rows_in((), {})
