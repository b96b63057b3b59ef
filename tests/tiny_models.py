"""A ControlNet for the golden tiny SDXL: made here, since the golden data has none."""

from __future__ import annotations

from pathlib import Path

import torch


def make_controlnet(base: Path, folder: Path) -> Path:
    """Saves a copy of the UNet's encoder whose outputs, unlike those of a new ControlNet, are not zero."""
    from diffusers import ControlNetModel, UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(base / "unet")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16, 24, 32))
        outputs = (*network.controlnet_down_blocks, network.controlnet_mid_block)
        for layer in (*outputs, network.controlnet_cond_embedding.conv_out):
            torch.nn.init.normal_(layer.weight, std=0.3)
    network.save_pretrained(folder)
    return folder
