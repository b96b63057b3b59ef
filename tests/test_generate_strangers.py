"""Weights from strangers: sibling folders open; what is broken or of another kind is said in one sentence."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from drspo.cli import execute
from drspo.errors import UserError
from generate.models.family import load_family
from generate.models.fingerprint import fingerprint
from generate.models.hub import at_revision
from generate.models.weights import locate
from generate.program.session import Setup, open_session, setup_like
from tests.small_scrolls import small_request
from tests.test_generate_models import write_lora
from tests.tiny_models import make_controlnet


@pytest.fixture
def folder(golden, tmp_path):
    """A copy of tiny-sdxl to change."""
    return shutil.copytree(golden / "models" / "tiny-sdxl", tmp_path / "model")


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("model", "pipeline"),
    [
        ("tiny-sdxl", "StableDiffusionXLImg2ImgPipeline"),
        ("tiny-sdxl", "StableDiffusionXLInpaintPipeline"),
        ("tiny-sdxl", "StableDiffusionXLControlNetPipeline"),
        ("tiny-sd", "StableDiffusionImg2ImgPipeline"),
        ("tiny-sd", "StableDiffusionControlNetPipeline"),
        ("tiny-sd", "LatentConsistencyModelPipeline"),
    ],
)
def test_folders_of_sibling_pipelines_hold_the_same_networks(golden, tmp_path, model, pipeline):
    folder = shutil.copytree(golden / "models" / model, tmp_path / "model")
    change(folder / "model_index.json", _class_name=pipeline)
    found, plain = locate(str(folder)), locate(str(golden / "models" / model))
    assert (found.kind, fingerprint(found)) == (plain.kind, fingerprint(plain))


def test_a_network_that_is_shown_a_picture_too_is_refused(folder):
    change(folder / "model_index.json", _class_name="StableDiffusionXLInpaintPipeline")
    change(folder / "unet" / "config.json", in_channels=9)
    with pytest.raises(UserError, match="takes 9 channels and latents have 4"):
        load_family(str(folder))


def test_a_checkpoint_in_one_file_says_how_it_becomes_a_folder(folder, tmp_path):
    file = shutil.copy(folder / "unet" / "diffusion_pytorch_model.safetensors", tmp_path / "one.safetensors")
    with pytest.raises(UserError, match="whole checkpoint in one file") as error:
        load_family(str(file))
    assert f"from_single_file('{file}').save_pretrained" in error.value.hint
    with pytest.raises(UserError, match="there is no file"):
        load_family(str(tmp_path / "gone.safetensors"))
    (tmp_path / "one.ckpt").write_bytes(b"x")
    with pytest.raises(UserError, match="can run code"):
        load_family(str(tmp_path / "one.ckpt"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"", "is damaged"),
        (None, "is damaged"),
    ],
)
def test_weights_that_are_not_whole_are_named_before_anything_loads(folder, content, message):
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-10] if content is None else content)
    with pytest.raises(UserError, match=f"{file.name} {message}"):
        load_family(str(folder))


@pytest.mark.parametrize("broken", ["{", "[]", '"text"'])
@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"])
def test_broken_settings_of_a_model_are_named(folder, file, broken):
    (folder / file).write_text(broken)
    with pytest.raises(UserError, match="is not JSON|are no JSON object") as error:
        load_family(str(folder))
    assert file.rpartition("/")[2] in str(error.value)


def test_a_controlnet_says_what_it_is_shown_or_its_user_does(golden, tmp_path):
    base = golden / "models" / "tiny-sdxl"
    plain, named = tmp_path / "mine", tmp_path / "my-canny-xl"
    make_controlnet(base, plain)
    shutil.copytree(plain, named)
    options = {"controlnet": True, "device": "cpu"}
    with pytest.raises(UserError, match="does not say what its ControlNet was trained to be shown") as error:
        load_family(str(base), controlnet_source=str(plain), **options)
    assert "--controlnet-conditioning canny" in error.value.hint
    with pytest.raises(UserError, match="ControlNet for depth"):
        load_family(str(base), controlnet_source=str(plain), conditioning="depth", **options)
    for source, word in ((plain, "canny"), (named, "")):
        model = load_family(str(base), controlnet_source=str(source), conditioning=word, **options)
        assert model.controlnet_id == str(source)


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(golden, tmp_path, monkeypatch):
    """A Hub with one repository, whose branch `v1` is at COMMIT; the revisions that were asked for."""
    import huggingface_hub

    snapshot = tmp_path / "snapshots" / COMMIT
    shutil.copytree(golden / "models" / "tiny-sdxl", snapshot)
    asked = []

    def download(name, *, revision=None, allow_patterns, local_files_only=False):
        assert name == "owner/tiny"
        asked.append(revision)
        if revision not in ("v1", COMMIT):
            raise FileNotFoundError("only v1 is here")
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


def test_a_revision_reaches_the_hub_and_its_commit_stands_in_the_record(hub):
    session = open_session(Setup(model="owner/tiny", method="sdxl", revision="v1"))
    assert hub == ["v1"]
    record = session.record(small_request())
    assert record.options["revision"] == COMMIT
    assert session.family.model_id == "owner/tiny"
    again = setup_like(record, Setup(model="", method=""))
    open_session(again)
    assert hub[-1] == COMMIT
    by_name = load_family("owner/tiny@v1")
    assert (by_name.commit, by_name.model_id, by_name.spec.base) == (COMMIT, "owner/tiny", "owner/tiny")


def test_a_folder_has_no_revision(folder):
    with pytest.raises(UserError, match="has no revisions"):
        at_revision(str(folder), "v1")
    assert at_revision("owner/tiny@v1", COMMIT) == f"owner/tiny@{COMMIT}"


@pytest.fixture(scope="module")
def tiny(golden):
    return load_family(str(golden / "models" / "tiny-sdxl"), device="cpu")


def broken_lora(kind, folder, tiny):
    """A LoRA's file with something wrong; what the error must say."""
    file = folder / "pytorch_lora_weights.safetensors"
    write_lora(folder, tiny)
    state = load_file(file)
    name = next(iter(state)).partition(".lora_")[0]
    if kind == "a LoHa":
        save_file({f"{name}.{part}": torch.zeros(4, 4) for part in ("hada_w1_a", "hada_w1_b")}, file)
        return "LoHa, which is no LoRA"
    if kind == "cut short":
        file.write_bytes(file.read_bytes()[:-100])
        return "is damaged"
    if kind == "a pointer":
        file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
        return "Git LFS pointer"
    if kind == "empty":
        file.write_bytes(b"")
        return "is damaged"
    if kind == "of something else":
        save_file({"transformer.blocks.0.lora_A.weight": torch.zeros(2, 4)}, file)
        return "LoRA"
    if kind == "half of a pair":
        save_file({key: value for key, value in state.items() if ".lora_A." in key}, file)
        return "LoRA"
    (folder / "drspo.json").write_text({"broken record": "{", "record of another kind": "[1]"}[kind])
    return {"broken record": "is not JSON", "record of another kind": "drspo.json is no JSON object"}[kind]


KINDS = [
    "a LoHa", "cut short", "a pointer", "empty", "of something else", "half of a pair", "broken record",
    "record of another kind",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_lora_is_one_sentence_and_leaves_the_model_as_it_was(golden, tiny, tmp_path, kind, capsys):
    message = broken_lora(kind, tmp_path, tiny)
    with pytest.raises(UserError, match=message):
        tiny.load_lora(tmp_path)
    assert tiny.loras == {}
    model = str(golden / "models" / "tiny-sdxl")
    argv = ["a", "--model", model, "--drspo.control.no-enabled", "--height", "1024", "--width", "4096"]
    out = ["--lora", str(tmp_path), "--out", str(tmp_path / "x.png")]
    assert execute("generate.program.command:main", [*argv, *out]) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said


def test_a_lora_weight_is_a_number(tiny, tmp_path):
    with pytest.raises(UserError, match="weight is a number"):
        tiny.load_lora(write_lora(tmp_path, tiny), float("nan"))
