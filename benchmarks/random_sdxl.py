"""SDXL's architecture with random weights: for timing without a download."""

from __future__ import annotations

from dataclasses import replace

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from benchmarks.shapes import SDXL_UNET, VAE
from generate.models.family import ModelFamily, choose_device, choose_dtype
from generate.models.prompts import PromptEmbeddings
from generate.models.specs import MODELS

SMALL_UNET = SDXL_UNET | {
    "sample_size": 16,
    "block_out_channels": (32, 32, 64),
    "layers_per_block": 1,
    "attention_head_dim": (1, 2, 4),
    "cross_attention_dim": 64,
    "transformer_layers_per_block": (1, 1, 2),
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 32,
}
SDXL_VAE = VAE | {"sample_size": 1024, "scaling_factor": 0.13025}
SMALL_VAE = SDXL_VAE | {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1}
SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
}


def random_family(size: str, device: str, dtype: str) -> ModelFamily:
    """SDXL's networks ("full") or a few channels of the same blocks ("small"), initialised on the device."""
    target = choose_device(device)
    kind = choose_dtype(dtype, target)
    unet_config, vae_config = (SDXL_UNET, SDXL_VAE) if size == "full" else (SMALL_UNET, SMALL_VAE)
    torch.manual_seed(0)
    unet = _built(UNet2DConditionModel, unet_config, target, kind)
    vae = _built(AutoencoderKL, vae_config, target, torch.float32)
    side = 8 * unet_config["sample_size"]
    spec = replace(MODELS["sdxl"], window=side, stride=side // 4, scroll=(side, 4 * side))
    return ModelFamily(
        kind="sdxl",
        spec=spec,
        model_id="random SDXL",
        fingerprint="random",
        unet=unet,
        vae=vae,
        tokenizers=[],
        text_encoders=[],
        scheduler_config=dict(SCHEDULER),
        device=target,
        dtype=kind,
        zero_empty_negative=True,
    )


def _built(cls: type, config: dict, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            network = cls(**config)
    finally:
        torch.set_default_dtype(before)
    return network.requires_grad_(False).eval()


def random_embeddings(family: ModelFamily) -> PromptEmbeddings:
    """Stand-ins for both encoders' output, of the UNet's own sizes."""
    config = family.unet.config
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    generator = torch.Generator().manual_seed(0)
    embeds = [torch.randn(1, 77, config.cross_attention_dim, generator=generator) for _ in range(2)]
    pools = [torch.randn(1, pooled, generator=generator) for _ in range(2)]
    return PromptEmbeddings(embeds[0], embeds[1], pools[0], pools[1])
