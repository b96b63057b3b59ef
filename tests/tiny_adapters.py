"""IP-Adapters of random weights in the published layout, and a CLIP image tower for them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

EMBEDDING, HIDDEN, TOKENS = 24, 64, 3


def make_encoder(folder: Path) -> Path:
    """Saves a small image tower as transformers has it."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = CLIPVisionConfig(
            hidden_size=HIDDEN, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
            image_size=16, patch_size=8, projection_dim=EMBEDDING,
        )  # fmt: skip
        CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return folder


def make_adapter(unet, file: Path, *, plus: bool = False) -> Path:
    """Saves an adapter for a UNet under the names that the published files have."""
    width = unet.config.cross_attention_dim
    with torch.random.fork_rng():
        torch.manual_seed(2)
        state = resampler(width) if plus else projection(width)
        number = 1
        for name in unet.attn_processors:
            layer = unet.get_submodule(name.removesuffix(".processor"))
            if layer.is_cross_attention:
                for side in ("k", "v"):
                    drawn = torch.randn(layer.to_k.out_features, width) / width**0.5
                    state[f"ip_adapter.{number}.to_{side}_ip.weight"] = drawn
                number += 2
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, file)
    return file


def projection(width: int) -> dict[str, torch.Tensor]:
    """The plain kind's projection: one linear layer to four tokens, and their norm."""
    return {
        "image_proj.proj.weight": torch.randn(4 * width, EMBEDDING),
        "image_proj.proj.bias": torch.randn(4 * width),
        "image_proj.norm.weight": torch.ones(width),
        "image_proj.norm.bias": torch.zeros(width),
    }


def resampler(width: int) -> dict[str, torch.Tensor]:
    """The plus kind's projection: queries that attend to the tower's tokens, in four blocks."""
    inside = 64  # one head, as the published ones have it
    state = {
        "latents": torch.randn(1, TOKENS, inside),
        "proj_in.weight": torch.randn(inside, HIDDEN) / 8,
        "proj_in.bias": torch.zeros(inside),
        "proj_out.weight": torch.randn(width, inside) / 8,
        "proj_out.bias": torch.zeros(width),
        "norm_out.weight": torch.ones(width),
        "norm_out.bias": torch.zeros(width),
    }
    for block in range(4):
        attention, feed = f"layers.{block}.0", f"layers.{block}.1"
        for norm in ("norm1", "norm2"):
            state |= {f"{attention}.{norm}.weight": torch.ones(inside)}
            state |= {f"{attention}.{norm}.bias": torch.zeros(inside)}
        state |= {
            f"{attention}.to_q.weight": torch.randn(inside, inside) / 8,
            f"{attention}.to_kv.weight": torch.randn(2 * inside, inside) / 8,
            f"{attention}.to_out.weight": torch.randn(inside, inside) / 8,
            f"{feed}.0.weight": torch.ones(inside),
            f"{feed}.0.bias": torch.zeros(inside),
            f"{feed}.1.weight": torch.randn(4 * inside, inside) / 8,
            f"{feed}.3.weight": torch.randn(inside, 4 * inside) / 16,
        }
    return {f"image_proj.{name}": value for name, value in state.items()}
