"""A checkpoint's files to networks in memory; the only place that reads weights."""

from __future__ import annotations

from typing import Any

import torch

from generate.models.weights import Checkpoint


def load_networks(found: Checkpoint, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """unet, vae, tokenizers and text_encoders of a checkpoint, on the device and frozen.

    The autoencoder is never in float16, and in bfloat16 only where its configuration allows that.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(
        found.folder, subfolder="unet", dtype=dtype, use_safetensors=True, variant=found.variant("unet")
    )
    overflows = found.config("vae").get("force_upcast", True) or dtype == torch.float16
    vae_dtype = torch.float32 if overflows else dtype
    vae = AutoencoderKL.from_pretrained(
        found.folder, subfolder="vae", dtype=vae_dtype, use_safetensors=True, variant=found.variant("vae")
    )
    tokenizers, encoders = _load_text(found, dtype)
    for network in (unet, vae, *encoders):
        freeze(network, device)
    return {"unet": unet, "vae": vae, "tokenizers": tokenizers, "text_encoders": encoders}


def _load_text(found: Checkpoint, dtype: torch.dtype) -> tuple[list[Any], list[Any]]:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    classes = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
    tokenizers, encoders = [], []
    for part in found.text_parts:
        tokenizer = part.replace("text_encoder", "tokenizer")
        tokenizers.append(CLIPTokenizer.from_pretrained(found.folder / tokenizer))
        encoders.append(
            classes[part].from_pretrained(
                found.folder / part, dtype=dtype, use_safetensors=True, variant=found.variant(part)
            )
        )
    return tokenizers, encoders


def load_controlnet(found: Checkpoint, dtype: torch.dtype) -> Any:
    """A ControlNet, as it comes from its file."""
    from diffusers import ControlNetModel

    return ControlNetModel.from_pretrained(
        found.folder, dtype=dtype, use_safetensors=True, variant=found.variant("")
    )


def freeze(network: Any, device: torch.device) -> Any:
    """The network on its device, to be evaluated and not trained."""
    network.requires_grad_(False)
    network.eval()
    return network.to(device)
