"""The CLIP score with a real, tiny CLIP model."""


import pytest
import torch

from efface.core.context import Context
from efface.core.errors import Missing
from efface.metrics.clip_score import ClipScore
from efface.testing import tiny_images
from efface.testing.stand_ins import Painter


def test_clip_score_with_a_real_clip_class(tmp_path):
    """A tiny CLIPModel of random weights: the score is its own cosine; without a model it is skipped with the way out."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    with pytest.raises(Missing, match="model=FOLDER"):
        ClipScore().run(Painter(), tiny_images.request(), Context())
    tokenizer = tiny_images.pipeline().pipe.tokenizer
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(
            text_config={**shape, "vocab_size": len(tokenizer), "max_position_embeddings": 16, "bos_token_id": len(tokenizer) - 2, "eos_token_id": len(tokenizer) - 1},
            vision_config={**shape, "image_size": 16, "patch_size": 8}, projection_dim=8,
        ))
    model.save_pretrained(tmp_path)
    CLIPProcessor(CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}), tokenizer).save_pretrained(tmp_path)
    found = ClipScore.set({"model": str(tmp_path)}).run(Painter(), tiny_images.request(), Context())
    assert -1 <= found.value <= 1 and found.low <= found.value <= found.high and found.parts["forget"] is not None
