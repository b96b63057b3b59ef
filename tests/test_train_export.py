"""LoRA files: real diffusers pipelines reload them to the bit, in both layouts, whatever alpha is."""

import json

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors import safe_open
from safetensors.torch import load_file

from train.lora.adapters import add_lora, lora_state, named_lora_parameters
from train.lora.exports import lora_metadata, save_kohya, save_lora

ALPHAS = [4, 8]


@pytest.fixture(scope="module")
def folder(golden):
    return golden / "models" / "tiny-sdxl"


@pytest.fixture(scope="module")
def pipe(folder):
    return StableDiffusionXLPipeline.from_pretrained(folder)


@pytest.fixture(scope="module", params=ALPHAS)
def trained(request, folder):
    """A UNet with a LoRA of rank 4 that changes its output, alpha equal to the rank and twice the rank."""
    unet = StableDiffusionXLPipeline.from_pretrained(folder).unet
    add_lora(unet, rank=4, alpha=request.param, seed=request.param)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in named_lora_parameters(unet).items():
        if ".lora_B." in name:
            parameter.data = torch.randn(parameter.shape, generator=generator)
    return unet


def output(unet):
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 16, 16, generator=generator)
    embeds = torch.randn(2, 7, unet.config.cross_attention_dim, generator=generator)
    pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
    extra = {
        "text_embeds": torch.randn(2, pooled, generator=generator),
        "time_ids": torch.full((2, 6), 128.0),
    }
    with torch.no_grad():
        return unet(latents, 500, embeds, added_cond_kwargs=extra, return_dict=False)[0]


def facts(unet):
    return lora_metadata(
        unet,
        stage="highres",
        base_model="tiny",
        base_fingerprint="abc",
        canvas=[1024, 4096],
        window=128,
        stride=32,
        time_ids="window",
    )


def reloaded(pipe, source, **more):
    pipe.unload_lora_weights()
    pipe.load_lora_weights(source, **more)
    try:
        return output(pipe.unet)
    finally:
        pipe.unload_lora_weights()


def test_diffusers_reloads_the_folder_to_the_bit(tmp_path, trained, pipe):
    base = output(pipe.unet)
    save_lora(tmp_path, trained, facts(trained))
    again = reloaded(pipe, str(tmp_path))
    assert torch.equal(again, output(trained))
    assert not torch.allclose(again, base, rtol=1e-2)


def test_a_pipeline_holds_both_loras_and_wears_one(tmp_path, trained, folder, pipe):
    other = StableDiffusionXLPipeline.from_pretrained(folder).unet
    add_lora(other, rank=2, alpha=2, seed=3)
    for name, parameter in named_lora_parameters(other).items():
        if ".lora_B." in name:
            parameter.data = torch.ones_like(parameter)
    for name, unet in {"blueprint": other, "highres": trained}.items():
        save_lora(tmp_path / name, unet, facts(unet))
        pipe.load_lora_weights(str(tmp_path / name), adapter_name=name)
    try:
        for name, unet in {"blueprint": other, "highres": trained}.items():
            pipe.set_adapters(name)
            assert torch.equal(output(pipe.unet), output(unet)), name
    finally:
        pipe.unload_lora_weights()


def test_diffusers_reloads_the_kohya_file_to_the_bit(tmp_path, trained, pipe):
    path = save_kohya(tmp_path / "lora.safetensors", trained, facts(trained))
    assert torch.equal(reloaded(pipe, str(tmp_path), weight_name=path.name), output(trained))


def test_the_kohya_file_names_modules_as_the_original_sdxl_does(tmp_path, trained):
    tensors = load_file(save_kohya(tmp_path / "lora.safetensors", trained, facts(trained)))
    settings = trained.peft_config["default"]
    # layers_per_block is 1 here: down block 1 is input block 3, up block 0 starts at output block 0.
    for name in (
        "input_blocks_3_1",
        "input_blocks_5_1",
        "middle_block_1",
        "output_blocks_0_1",
        "output_blocks_3_1",
    ):
        key = f"lora_unet_{name}_transformer_blocks_0_attn1_to_out_0"
        down, up = tensors[f"{key}.lora_down.weight"], tensors[f"{key}.lora_up.weight"]
        assert down.shape[0] == up.shape[1] == settings.r
        assert float(tensors[f"{key}.alpha"]) == settings.lora_alpha
    assert len(tensors) == 3 * len(named_lora_parameters(trained)) // 2


def test_without_its_metadata_a_lora_of_another_alpha_comes_back_wrong(tmp_path, trained, pipe):
    save_lora(tmp_path, trained, facts(trained))
    bare = load_file(tmp_path / "pytorch_lora_weights.safetensors")
    same = torch.equal(reloaded(pipe, bare), output(trained))
    assert same == (trained.peft_config["default"].lora_alpha == 4)


def test_the_facts_travel_beside_and_inside_the_files(tmp_path, trained):
    weights = save_lora(tmp_path, trained, facts(trained))
    kohya = save_kohya(tmp_path / "kohya.safetensors", trained, facts(trained))
    assert json.loads((tmp_path / "drspo.json").read_text()) == facts(trained)
    for path in (weights, kohya):
        with safe_open(path, framework="pt") as file:
            assert json.loads(file.metadata()["drspo"]) == facts(trained)


def test_an_average_can_be_exported_in_place_of_the_last_weights(tmp_path, trained, pipe):
    halved = {name: tensor / 2 for name, tensor in lora_state(trained).items()}
    save_lora(tmp_path, trained, facts(trained), state=halved)
    saved = load_file(tmp_path / "pytorch_lora_weights.safetensors")
    assert len(saved) == len(halved)
    for name, tensor in halved.items():
        assert torch.equal(saved[f"unet.{name.replace('.default.', '.')}"], tensor)
    with pytest.raises(ValueError, match="names"):
        save_lora(tmp_path, trained, facts(trained), state={"x": torch.zeros(1)})


def test_equal_weights_give_equal_files(tmp_path, trained):
    one = save_lora(tmp_path / "a", trained, facts(trained)).read_bytes()
    assert one == save_lora(tmp_path / "b", trained, facts(trained)).read_bytes()
    with safe_open(tmp_path / "a" / "pytorch_lora_weights.safetensors", framework="pt") as file:
        config = json.loads(file.metadata()["lora_adapter_metadata"])
    assert config["unet.lora_alpha"] == trained.peft_config["default"].lora_alpha
