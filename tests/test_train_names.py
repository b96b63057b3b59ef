"""The original names of SDXL's layers, against the table that diffusers converts checkpoints by."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

from drspo.errors import UserError
from train.lora.names import original_name

SDXL = {
    "sample_size": 32,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (32, 64, 128),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 3),
    "attention_head_dim": (1, 2, 4),
    "cross_attention_dim": 64,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 32,
    "projection_class_embeddings_input_dim": 64 + 6 * 32,
}


@pytest.fixture(scope="module")
def unet():
    with torch.device("meta"):
        return UNet2DConditionModel(**SDXL)


def original_keys(unet):
    """Parameter name in diffusers -> in the original, by ours."""
    named = {}
    for name in unet.state_dict():
        module, _, kind = name.rpartition(".")
        if module in ("conv_norm_out",):  # outside any layer that a LoRA could sit on
            named[name] = f"out.0.{kind}"
        else:
            named[name] = f"{original_name(module, unet.config)}.{kind}"
    return named


def test_every_layer_of_sdxl_has_the_name_that_diffusers_converts_back(unet):
    named = original_keys(unet)
    assert len(set(named.values())) == len(named)
    marks = {original: torch.full((1,), float(i)) for i, original in enumerate(named.values())}
    checkpoint = {f"model.diffusion_model.{key}": value for key, value in marks.items()}
    back = convert_ldm_unet_checkpoint(checkpoint, dict(unet.config))
    assert back.keys() == named.keys()
    for name, original in named.items():
        assert back[name] is marks[original] or torch.equal(back[name], marks[original]), name


@pytest.mark.parametrize(
    "module", ["encoder_hid_proj", "down_blocks.0.resnets.0.nonlinearity", "mid_block.resnets.0.conv9"]
)
def test_a_layer_that_the_original_does_not_have_is_refused(unet, module):
    with pytest.raises(UserError, match="no name in the original"):
        original_name(module, unet.config)
