"""A merged model is the base with its LoRA, or with another denoiser, for whatever opens folders."""

import json
import shutil

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel

from drspo.cli import execute
from generate.models.family import load_family
from generate.program.merge import main
from generate.request import build_generator
from tests.small_scrolls import SMALL, distance, small_request
from train.lora.adapters import add_lora, named_lora_parameters
from train.lora.exports import lora_metadata, save_lora

FAMILIES = ("tiny-sd", "tiny-sdxl", "package:miniature/weights/sd3")


def source(golden, name: str) -> str:
    return name if ":" in name else str(golden / "models" / name)


def with_lora(folder, model: str) -> str:
    """A LoRA of that model that changes what it predicts."""
    family = load_family(model, device="cpu")
    targets = ["attn.to_q", "attn.to_v"] if family.unet is None else ["to_q", "to_v"]
    add_lora(family.network, rank=2, alpha=4, targets=targets, seed=5)
    for name, parameter in named_lora_parameters(family.network).items():
        if ".lora_B." in name:
            parameter.data = torch.randn(parameter.shape, generator=torch.manual_seed(len(name))) * 0.1
    facts = {"stage": "highres", "base_model": model, "base_fingerprint": family.fingerprint}
    save_lora(folder, family.network, lora_metadata(family.network, **facts))
    return str(folder)


def weights(family) -> torch.Tensor:
    return torch.cat([tensor.float().flatten() for _, tensor in sorted(family.network.state_dict().items())])


@pytest.mark.parametrize("name", FAMILIES[:2])
@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_a_merged_model_paints_what_the_model_with_its_lora_paints(golden, tmp_path, name, weight):
    model = source(golden, name)
    lora = with_lora(tmp_path / "lora", model)
    flags = ["--model", model, "--lora", lora, "--lora-weight", str(weight)]
    assert execute(main, [*flags, "--out", str(tmp_path / "m")]) == 0
    plain, worn, merged = (load_family(m, device="cpu") for m in (model, model, str(tmp_path / "m")))
    worn.load_lora(lora, weight)
    asked = small_request()
    painted = [
        build_generator("multidiffusion", family, SMALL).generate([asked])[0].latents
        for family in (plain, worn, merged)
    ]
    assert distance(painted[2], painted[1]) < 1e-4 < 1e-3 < distance(painted[1], painted[0])


def test_a_transformer_takes_a_lora_too(golden, tmp_path, repository):
    model = str(repository / "miniature" / "weights" / "sd3")
    lora = with_lora(tmp_path / "lora", model)
    assert execute(main, ["--model", model, "--lora", lora, "--out", str(tmp_path / "m")]) == 0
    before, after = load_family(model, device="cpu"), load_family(str(tmp_path / "m"), device="cpu")
    worn = load_family(model, device="cpu")
    worn.load_lora(lora)
    worn.network.fuse_lora()
    worn.network.unload_lora()
    change = (weights(after) - weights(before)).abs().max()
    # Weights are stored as precisely as the model's own, here in half precision.
    assert change > 1e-3 and (weights(after) - weights(worn)).abs().max() < 2e-3


def test_diffusers_opens_the_folder_and_it_says_what_was_merged(golden, tmp_path):
    model = source(golden, "tiny-sdxl")
    lora = with_lora(tmp_path / "lora", model)
    assert execute(main, ["--model", model, "--lora", lora, "--out", str(tmp_path / "m")]) == 0
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "m")
    assert isinstance(pipe.unet, UNet2DConditionModel) and not getattr(pipe.unet, "peft_config", None)
    facts = json.loads((tmp_path / "m" / "merged.json").read_text())
    assert facts["lora"] == "lora" and len(facts["base_fingerprint"]) == 12


@pytest.mark.parametrize("alone", [True, False])
def test_another_unet_takes_its_place(golden, tmp_path, alone):
    model = source(golden, "tiny-sdxl")
    shutil.copytree(model, tmp_path / "other")
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "other" / "unet")
    with torch.no_grad():
        unet.conv_out.bias += 0.25
    unet.save_pretrained(tmp_path / "other" / "unet")
    given = tmp_path / "other" / ("unet" if alone else ".")
    assert execute(main, ["--model", model, "--denoiser", str(given), "--out", str(tmp_path / "m")]) == 0
    merged, base = load_family(str(tmp_path / "m"), device="cpu"), load_family(model, device="cpu")
    assert torch.equal(merged.unet.conv_out.bias, base.unet.conv_out.bias + 0.25)
    assert merged.fingerprint != base.fingerprint


BAD = {
    "nothing asked": ([], "nothing to put into"),
    "another kind": (["--denoiser", "{golden}/models/tiny-sd"], "of another size or kind"),
    "no network": (["--denoiser", "{tmp}"], "config.json"),
    "a single file": (["--denoiser", "{tmp}/x.safetensors"], "there is no file"),
    "no LoRA": (["--lora", "{tmp}/nowhere"], "nowhere"),
    "no number": (["--lora", "{tmp}/nowhere", "--lora-weight", "nan"], "nan"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_message_and_no_folder(golden, tmp_path, capsys, name):
    flags, said = BAD[name]
    flags = [flag.format(golden=golden, tmp=tmp_path) for flag in flags]
    assert execute(main, ["--model", source(golden, "tiny-sdxl"), *flags, "--out", str(tmp_path / "m")]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert not (tmp_path / "m").exists() and not (tmp_path / "m.part").exists()


def test_a_folder_that_holds_something_is_left_alone(golden, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert execute(main, ["--denoiser", "x/y", "--out", str(tmp_path)]) == 2
    assert "there is something already" in capsys.readouterr().err and (tmp_path / "mine.txt").exists()
