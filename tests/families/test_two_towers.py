"""Image-text encoders: unit vectors, words, any callables, CLIP's own class, and a folder that loads again."""

import numpy as np
import pytest
import torch

import efface
from efface.core.errors import BadRows, Missing, Unfit
from efface.families import shapes
from efface.families.two_towers import ImageText, TwoTowers, captions_of, encoder, untrained, vocabulary, words_of
from efface.testing.tiny import context

PIXELS = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def eyes():
    return untrained(shapes.rows(9), 0)


def test_unit_vectors(eyes):
    images, texts = eyes.images(PIXELS), eyes.texts(["a red circle", "square"])
    assert images.shape == (3, 32) and texts.shape == (2, 32)
    assert torch.allclose(images.norm(dim=1), torch.ones(3), atol=1e-5) and torch.allclose(texts.norm(dim=1), torch.ones(2), atol=1e-5)
    drawn = (PIXELS.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    assert np.allclose(eyes.fits(drawn, ["a red circle", "square"]), (images @ texts.T).detach(), atol=0.02)
    assert eyes.images(torch.rand(1, 3, 40, 40)).shape == (1, 32), "other sizes are brought to its own"
    assert [tuple(found.shape[1:]) for found in eyes.maps(PIXELS)] == [(24, 8, 8), (48, 4, 4), (48, 2, 2)]


def test_pictures_carry_gradients(eyes):
    pixels = PIXELS.clone().requires_grad_(True)
    eyes.images(pixels)[:, 0].sum().backward()
    assert pixels.grad.abs().sum() > 0


def test_words(eyes):
    assert words_of("A Red, red circle!") == ["a", "red", "red", "circle"]
    assert vocabulary([{"prompt": "b a"}, {"prompts": ["c", "a"]}]) == ["a", "b", "c"]
    assert captions_of({"prompt": "x"}) == ["x"]
    assert torch.allclose(eyes.texts(["red circle"]), eyes.texts(["circle RED unheard"])), "a bag of the words that it knows"
    with pytest.raises(BadRows, match="knows no word of 'purple'"):
        eyes.texts(["red", "purple"])


def test_saved_and_loaded(eyes, tmp_path):
    eyes.save(tmp_path)
    found = efface.load(str(tmp_path))
    assert found.family == "image-text" and found.digest == eyes.digest
    assert torch.equal(found.images(PIXELS), eyes.images(PIXELS)) and torch.equal(found.texts(["red"]), eyes.texts(["red"]))


def test_a_fork_is_its_own(eyes):
    other = eyes.fork()
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.add_(0.1)
    assert other.digest != eyes.digest and not torch.equal(other.images(PIXELS), eyes.images(PIXELS))
    with pytest.raises(Unfit, match="as a whole"):
        eyes.fork(("image",))


def test_any_two_callables():
    """Mean color as an image encoder, and a table as a text encoder: cosine 1 for the color that a word names."""
    table = {"red": [1.0, 0, 0], "green": [0, 1.0, 0]}
    eyes = ImageText(lambda pixels: pixels.mean((2, 3)), lambda texts: torch.tensor([table[text] for text in texts]), name="mean color")
    pure = torch.zeros(2, 3, 4, 4)
    pure[0, 0], pure[1, 1] = 0.3, 0.9
    assert (eyes.images(pure) @ eyes.texts(["red", "green"]).T).tolist() == [[1, 0], [0, 1]]
    assert eyes.maps(pure) is None and eyes.digest != ImageText(eyes.image_encoder, eyes.text_encoder, name="other").digest
    with pytest.raises(Unfit, match="without weights"):
        eyes.fork()
    with pytest.raises(Unfit, match="need a name"):
        ImageText(eyes.image_encoder, eyes.text_encoder)
    with pytest.raises(Unfit, match="one vector each for 2 pictures"):
        ImageText(lambda pixels: pixels, eyes.text_encoder, name="bad").images(pure)


def test_clip():
    """A CLIPModel with random weights: its own projected features, through its own resizing and normalization, with gradients."""
    from transformers import CLIPConfig, CLIPModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        model = CLIPModel(CLIPConfig(
            text_config={**shape, "vocab_size": 20, "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1},
            vision_config={**shape, "image_size": 32, "patch_size": 8}, projection_dim=12,
        ))

    class Tokens(dict):
        def to(self, device):
            return self

    def tokenizer(texts, padding, truncation, return_tensors):
        ids = torch.tensor([[0, 2 + len(text) % 10, 1] for text in texts])
        return Tokens(input_ids=ids, attention_mask=torch.ones_like(ids))

    eyes = ImageText.of_clip(model, tokenizer)
    pixels = PIXELS.clone().requires_grad_(True)
    images, texts = eyes.images(pixels), eyes.texts(["red", "green"])
    assert images.shape == (3, 12) and texts.shape == (2, 12)
    sized = torch.nn.functional.interpolate(PIXELS, (32, 32), mode="bicubic", antialias=True)
    normal = (sized - torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)) / torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    scores = model(input_ids=tokenizer(["red", "green"], True, True, "pt")["input_ids"], pixel_values=normal).logits_per_image
    assert torch.allclose(images @ texts.T * model.logit_scale.exp(), scores, atol=1e-4)
    images.sum().backward()
    assert pixels.grad.abs().sum() > 0
    with pytest.raises(Unfit, match="saved by the library"):
        eyes.save(None)


def test_the_encoder_of_a_run(eyes):
    assert encoder(context(baselines={"encoder": eyes})) is eyes
    with pytest.raises(Missing, match='as the baseline "encoder"'):
        encoder(context())
    from efface.testing.tiny import tiny_classifier

    with pytest.raises(Unfit, match="this one is a classifier"):
        encoder(context(baselines={"encoder": tiny_classifier()}))


def test_module_is_plain():
    assert TwoTowers(["a"]).texts(["a"]).shape == (1, 32)
