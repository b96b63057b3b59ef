"""Published networks by the settings of their `config.json` files, to be built without weights.

From the Hub: black-forest-labs/FLUX.1-dev, stabilityai's stable-diffusion-3.5-large and -medium,
PixArt-alpha/PixArt-Sigma-XL-2-1024-MS, stabilityai's stable-diffusion-xl-base-1.0, as far as diffusers'
defaults do not say them already. `MODELS` builds each on whatever device and in whatever dtype are torch's
defaults.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
import transformers

CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
T5_XXL = {
    "vocab_size": 32128, "d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_layers": 24, "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}  # fmt: skip
VAE = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
SDXL_UNET = {
    "sample_size": 128, "block_out_channels": (320, 640, 1280), "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10), "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "use_linear_projection": True,
    "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    """Networks, and how what denoises is asked."""

    text: list[Any]
    network: Any
    vae: Any
    ask: Callable[[Any, int, int, int], Any]
    """a forward of a network of this shape for (samples, height, width) in latents"""
    samples: int
    """evaluated at once for one picture: two with guidance"""

    def forward(self, samples: int, height: int, width: int) -> Any:
        """A forward of its own network."""
        return self.ask(self.network, samples, height, width)


def _clip(settings: dict[str, int], width: int) -> Any:
    config = transformers.CLIPTextConfig(vocab_size=49408, projection_dim=width, **settings)
    return transformers.CLIPTextModelWithProjection(config)


def _t5() -> Any:
    return transformers.T5EncoderModel(transformers.T5Config(**T5_XXL))


def _empty(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.bfloat16)


def sdxl() -> Model:
    """SDXL."""
    unet = diffusers.UNet2DConditionModel(**SDXL_UNET)

    def ask(network: Any, samples: int, height: int, width: int) -> Any:
        added = {"text_embeds": _empty(samples, 1280), "time_ids": _empty(samples, 6)}
        latents, text = _empty(samples, 4, height, width), _empty(samples, 77, 2048)
        return network(latents, _empty(samples), text, added_cond_kwargs=added)

    vae = diffusers.AutoencoderKL(**VAE).float()  # it overflows in half precision, and is loaded in single
    return Model([_clip(CLIP_L, 768), _clip(CLIP_G, 1280)], unet, vae, ask, samples=2)


def _sd3(**settings: Any) -> Model:
    network = diffusers.SD3Transformer2DModel(
        sample_size=128, in_channels=16, out_channels=16, attention_head_dim=64, joint_attention_dim=4096,
        pooled_projection_dim=2048, qk_norm="rms_norm", **settings,
    )  # fmt: skip

    def ask(network: Any, samples: int, height: int, width: int) -> Any:
        text, pooled = _empty(samples, 333, 4096), _empty(samples, 2048)
        return network(_empty(samples, 16, height, width), text, pooled, _empty(samples))

    text = [_clip(CLIP_L, 768), _clip(CLIP_G, 1280), _t5()]
    return Model(text, network, diffusers.AutoencoderKL(**VAE, latent_channels=16), ask, samples=2)


def sd3_large() -> Model:
    """Stable Diffusion 3.5 Large."""
    return _sd3(num_layers=38, num_attention_heads=38, caption_projection_dim=2432, pos_embed_max_size=192)


def sd3_medium() -> Model:
    """Stable Diffusion 3.5 Medium."""
    return _sd3(
        num_layers=24, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=384,
        dual_attention_layers=tuple(range(13)),
    )  # fmt: skip


def flux() -> Model:
    """FLUX.1-dev; schnell has the same sizes but for the guidance embedding."""
    network = diffusers.FluxTransformer2DModel(guidance_embeds=True)

    def ask(network: Any, samples: int, height: int, width: int) -> Any:
        tokens = height * width // 4
        return network(
            _empty(samples, tokens, 64), _empty(samples, 512, 4096), _empty(samples, 768), _empty(samples),
            _empty(tokens, 3), _empty(512, 3), _empty(samples),
        )  # fmt: skip

    text = [_clip(CLIP_L, 768), _t5()]
    return Model(text, network, diffusers.AutoencoderKL(**VAE, latent_channels=16), ask, samples=1)


def pixart() -> Model:
    """PixArt-Sigma at 1024; alpha has the same sizes but for 120 tokens and two small embeddings."""
    network = diffusers.PixArtTransformer2DModel(
        sample_size=128, caption_channels=4096, use_additional_conditions=False
    )

    def ask(network: Any, samples: int, height: int, width: int) -> Any:
        return network(
            _empty(samples, 4, height, width), _empty(samples, 300, 4096), _empty(samples),
            {"resolution": None, "aspect_ratio": None}, encoder_attention_mask=_empty(samples, 300),
        )  # fmt: skip

    return Model([_t5()], network, diffusers.AutoencoderKL(**VAE), ask, samples=2)


MODELS = {
    "sdxl": sdxl, "sd3.5-medium": sd3_medium, "sd3.5-large": sd3_large, "flux": flux, "pixart-sigma": pixart,
}  # fmt: skip
