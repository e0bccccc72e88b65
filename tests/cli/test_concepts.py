"""Concepts on the command line: forget, guard, prove and attack on a pipeline's folder, and what is refused in one line."""

import json

import pytest
from PIL import Image

from efface.testing import tiny_images


@pytest.fixture
def folder(tmp_path):
    """A pipeline's folder, and a judge's."""
    (tmp_path / "pipe").mkdir()
    tiny_images.pipeline().save(tmp_path / "pipe")
    (tmp_path / "judge").mkdir()
    tiny_images.judges()["judge/object"].save(tmp_path / "judge")
    return tmp_path


def test_a_concept_is_forgotten_and_proven_from_its_folder_alone(efface, folder):
    said = ("--model", folder / "pipe", "--concept", "a cat", "--near", "a dog", "--judge", f"object={folder / 'judge'}")
    done = efface("forget", *said, "--method", "rece", "--out", folder / "run")
    assert done.code == 0, done.err
    done = efface("prove", folder / "run", "--suite", "metric/unlearn_canvas")
    assert done.code == 0 and done.out.startswith("Can't say: no reference") and "unlearn_canvas" in done.out
    with Image.open(folder / "run" / "pictures.png") as sheet:
        assert sheet.width > 200
    page = (folder / "run" / "report.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page and "img-src data:" in page
    done = efface("prove", folder / "run", "--suite", "metric/unlearn_canvas", "--reference", folder / "pipe")
    assert done.code == 0 and "no reference" not in done.out


def test_prompts_come_from_files_of_published_layouts(efface, folder):
    (folder / "forget.csv").write_text(",prompt,evaluation_seed\n0,a cat in plain style,7\n")
    (folder / "keep.jsonl").write_text('{"prompt": "a dog in plain style"}\n')
    done = efface("forget", "--model", folder / "pipe", "--concept", "a cat", "--forget", folder / "forget.csv", "--keep", folder / "keep.jsonl", "--method", "uce", "--out", folder / "run")
    assert done.code == 0, done.err
    (folder / "keep.jsonl").write_text('{"prompt": "a boat in plain style"}\n')
    assert "have changed since" in efface("prove", folder / "run").err


def test_a_guard_is_a_run_without_a_copy_of_the_weights(efface, folder):
    done = efface("guard", "--model", folder / "pipe", "--concept", "a cat", "--method", "negative_prompt", "--prompt", "a cat in plain style", "--out", folder / "run")
    assert done.code == 0, done.err
    assert not (folder / "run" / "model").exists() and (folder / "run" / "pictures.png").is_file()
    assert json.loads((folder / "run" / "run.json").read_text())["kind"] == "guard"
    done = efface("prove", folder / "run", "--reference", folder / "pipe", "--suite", "metric/unlearn_canvas")
    assert done.code == 0 and "Guarded" in done.out and "No method changed its weights" in done.out


def test_attack_on_a_pipeline_alone(efface, folder):
    done = efface("attack", folder / "pipe", "--concept", "a cat", "--judge", f"object={folder / 'judge'}", "--original", folder / "pipe", "--attack", "paraphrase")
    assert done.code == 0 and "paraphrase" in done.out
    assert "--concept" in efface("attack", folder / "pipe", "--attack", "paraphrase").line


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--concept", " "), "a concept is empty"),
        (("--concept", "a cat", "--near", "the cat"), "to be forgotten and to be kept"),
        (("--concept", "a cat", "--instead", "cat"), "in its own place"),
        (("--near", "a dog"), "none was given; use --concept"),
        (("--concept", "a cat", "--judge", "object"), "give the column and the classifier's folder"),
        (("--concept", "a cat", "--dtype", "float16"), "--dtype float32"),
    ],
)
def test_wrong_use_is_said_in_one_line(efface, folder, given, says):
    done = efface("forget", "--model", folder / "pipe", *given, "--method", "uce", "--out", folder / "run")
    assert done.code == 2 and says in done.line
    assert not (folder / "run").exists()


def test_a_broken_pipeline_and_a_language_model_are_refused(efface, folder, tmp_path):
    (folder / "pipe" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert "pipe" in efface("forget", "--model", folder / "pipe", "--concept", "a cat", "--method", "uce", "--out", folder / "run").line
    done = efface("forget", "--model", folder / "judge", "--concept", "a cat", "--method", "uce", "--out", folder / "run")
    assert done.code == 2 and "models that draw" in done.line
