"""The CLIP score with a real, tiny CLIP model."""


import numpy as np
import pytest
import torch

from efface.core.context import Context
from efface.core.errors import Missing
from efface.metrics.clip_score import ClipScore, cosines
from efface.testing import tiny_images
from efface.testing.stand_ins import Painter


def test_clip_score_with_a_real_clip_class(tmp_path):
    """A tiny CLIPModel of random weights: the score is a cosine; without a model it is skipped with the way out."""
    from transformers import CLIPConfig, CLIPModel

    with pytest.raises(Missing, match="no encoder model"):
        ClipScore().run(Painter(), tiny_images.request(), Context())
    with pytest.raises(Missing, match="no CLIP model in"):
        ClipScore.set({"model": str(tmp_path)}).run(Painter(), tiny_images.request(), Context())
    tokenizer = tiny_images.pipeline().pipe.tokenizer
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(
            text_config={**shape, "vocab_size": len(tokenizer), "max_position_embeddings": 16, "bos_token_id": len(tokenizer) - 2, "eos_token_id": len(tokenizer) - 1},
            vision_config={**shape, "image_size": 16, "patch_size": 8}, projection_dim=8,
        ))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = ClipScore.set({"model": str(tmp_path)}).run(Painter(), tiny_images.request(), Context())
    assert -1 <= found.value <= 1 and found.low <= found.value <= found.high and found.parts["forget"] is not None


def test_the_cosine_by_hand():
    """Red pictures and the word that means red: cosine of (1, 0) and (3, 4) = .6; the other order of captions swaps the numbers."""

    class Encoder:
        image_encoder = staticmethod(lambda pixels: torch.stack([pixels[:, 0].mean((1, 2)), pixels[:, 1].mean((1, 2))], 1))
        text_encoder = staticmethod(lambda prompts: torch.tensor([[3.0, 4.0] if prompt == "a" else [0.0, 2.0] for prompt in prompts]))

    red = np.zeros((2, 4, 4, 3), np.uint8)
    red[..., 0] = 200
    assert cosines(Encoder, red, ["a", "b"]) == pytest.approx([0.6, 0.0])
    assert cosines(Encoder, red, ["b", "a"]) == pytest.approx([0.0, 0.6])
