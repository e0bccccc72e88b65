"""Diffusers folders in and out, and what is said of folders that are none."""

import json
import sys

import numpy as np
import pytest
import torch

from efface.core.errors import EffaceError, Missing, Unfit
from efface.families import diffusion_files
from efface.families.diffusion import Diffusion, Sampling
from efface.testing import tiny_images, tiny_pipelines


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("sd")
    Diffusion(tiny_pipelines.pipeline("sd"), Sampling(2, 3.0, 16)).save(place)
    return place


@pytest.fixture()
def broken(folder, tmp_path):
    """A copy to break."""
    import shutil

    return shutil.copytree(folder, tmp_path / "broken")


@pytest.mark.parametrize("kind", tiny_pipelines.KINDS)
def test_round_trip(kind, tmp_path, capfd):
    """Weights, sampling and pictures come back; no progress bar and no warning is shown, and no pickle written."""
    subject = tiny_pipelines.subject(kind)
    capfd.readouterr()
    subject.save(tmp_path)
    again = diffusion_files.load(str(tmp_path), device="cpu")
    shown = capfd.readouterr()
    assert shown.out == shown.err == ""
    assert again.digest == subject.digest and again.sampling == subject.sampling and again.layout is subject.layout
    assert type(again.pipe) is type(subject.pipe)
    assert np.array_equal(again.generate(["a cat", "a zebra"]), subject.generate(["a cat", "a zebra"]))
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} <= {".json", ".safetensors", ".txt", ".jinja"}


def test_it_is_an_ordinary_diffusers_folder(folder):
    from diffusers import StableDiffusionPipeline

    with diffusion_files.quiet():
        pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    assert Diffusion(pipe).digest == diffusion_files.load(str(folder), device="cpu").digest


def test_quiet_ends_with_its_block():
    from diffusers.utils import logging as ours
    from transformers.utils import logging as theirs

    def state():
        return [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in (ours, theirs)]

    before = state()
    with pytest.raises(ValueError, match="inside"), diffusion_files.quiet():
        assert state() != before
        raise ValueError("inside")
    assert state() == before


def test_what_is_a_pipeline(folder, tmp_path):
    assert diffusion_files.is_pipeline(str(folder)) and diffusion_files.is_pipeline("diffusers:some/name")
    assert not diffusion_files.is_pipeline(str(tmp_path)) and not diffusion_files.is_pipeline("some/name")


def test_half_precision(folder, tmp_path):
    """Refused on a CPU where it is asked for; weights stored in it are read as float32."""
    with pytest.raises(Unfit, match="float16 was asked for on a CPU.*--dtype float32"):
        diffusion_files.load(str(folder), "cpu", "float16")
    with pytest.raises(Unfit, match="no such precision: float7"):
        diffusion_files.load(str(folder), "cpu", "float7")
    tiny_pipelines.pipeline("sd").to(torch.float16).save_pretrained(tmp_path)
    assert {p.dtype for p in diffusion_files.load(str(tmp_path), "cpu").model.parameters()} == {torch.float32}
    assert {p.dtype for p in diffusion_files.load(str(folder), "cpu", "bfloat16").model.parameters()} == {torch.bfloat16}


def test_sampling_is_optional_and_checked(broken):
    (broken / "sampling.json").write_text('{"steps": 20, "guidance": 3.0}')
    assert diffusion_files.load(str(broken), "cpu").sampling == Sampling(20, 3.0)
    (broken / "sampling.json").unlink()
    assert diffusion_files.load(str(broken), "cpu").sampling == Sampling()
    (broken / "sampling.json").write_text('{"steps": "many"}')
    with pytest.raises(EffaceError, match="sampling.json must hold"):
        diffusion_files.load(str(broken), "cpu")


def one_line(error):
    return "\n" not in str(error.value)


def test_a_truncated_weight_file(broken):
    path = next((broken / "unet").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(EffaceError, match="broken could not be read as a diffusers pipeline") as error:
        diffusion_files.load(str(broken), "cpu")
    assert one_line(error)


def test_a_missing_part(broken):
    import shutil

    shutil.rmtree(broken / "unet")
    with pytest.raises(EffaceError, match="could not be read as a diffusers pipeline") as error:
        diffusion_files.load(str(broken), "cpu")
    assert one_line(error)


def test_pickled_weights_are_not_read(broken):
    path = next((broken / "unet").glob("*.safetensors"))
    path.rename(path.with_name("diffusion_pytorch_model.bin"))
    with pytest.raises(EffaceError, match="could not be read as a diffusers pipeline"):
        diffusion_files.load(str(broken), "cpu")


@pytest.mark.parametrize("index", ["not json", "{}", '{"_class_name": "NoSuchPipeline"}'])
def test_a_broken_index(broken, index):
    (broken / "model_index.json").write_text(index)
    with pytest.raises(EffaceError) as error:
        diffusion_files.load(str(broken), "cpu")
    assert one_line(error) and str(broken) in str(error.value)


def test_a_pipeline_that_draws_without_text(tmp_path):
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    unet = UNet2DModel(sample_size=8, block_out_channels=(32,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path)
    with pytest.raises(Unfit, match="UNet2DModel, which reads no text"):
        diffusion_files.load(str(tmp_path), "cpu")


def test_without_diffusers(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(Missing, match=r'needs diffusers; run: pip install "efface\[diffusion\]"'):
        diffusion_files.load(str(folder), "cpu")


def test_the_safety_checker_is_left_out(broken):
    """A folder that names one is read without it: what a model draws must be seen."""
    index = json.loads((broken / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (broken / "model_index.json").write_text(json.dumps(index))
    assert diffusion_files.load(str(broken), "cpu").pipe.safety_checker is None


def test_a_saved_folder_does_not_say_where_the_pipeline_came_from(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    tiny_images.pipeline().save(tmp_path / "first")
    diffusion_files.load(str(tmp_path / "first")).save(tmp_path / "second")
    assert not [path for path in (tmp_path / "second").rglob("*.json") if str(tmp_path) in path.read_text(encoding="utf-8")]
    assert diffusion_files.load(str(tmp_path / "second")).digest == tiny_images.pipeline().digest
