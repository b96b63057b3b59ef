"""Memory that published models need on a device, counted without weights: `python -m benchmarks.memory`.

Settings are those of the `config.json` files on the Hub (black-forest-labs/FLUX.1-dev, stabilityai's
stable-diffusion-3.5-large and -medium, PixArt-alpha/PixArt-Sigma-XL-2-1024-MS, stabilityai's
stable-diffusion-xl-base-1.0), as far as diffusers' defaults do not say them already. Everything in bfloat16.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
import transformers

from generate.canvas.plan import whole_canvas
from generate.images.perceptual import Lpips
from generate.images.vae import widest_bytes
from generate.models.denoisers.denoiser import Condition
from generate.models.family import ModelFamily
from generate.models.footprint import activation_bytes, weight_bytes
from generate.models.schedulers import make_schedule
from generate.models.specs import MODELS as SPECS
from generate.sampling.gradient_memory import gradient_bytes

GIB = 2**30
CARDS = (24, 48, 80)
RESERVED = 1.0
"""GiB of a card that the driver, the libraries and the allocator's gaps take: a round number, not counted."""
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
    """Networks on the meta device, and a forward of what denoises for (samples, height, width) in latents."""

    text: list[Any]
    network: Any
    vae: Any
    forward: Callable[[int, int, int], Any]
    samples: int
    """evaluated at once for one picture: two with guidance"""


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

    def forward(samples: int, height: int, width: int) -> Any:
        added = {"text_embeds": _empty(samples, 1280), "time_ids": _empty(samples, 6)}
        latents, text = _empty(samples, 4, height, width), _empty(samples, 77, 2048)
        return unet(latents, _empty(samples), text, added_cond_kwargs=added)

    return Model(
        [_clip(CLIP_L, 768), _clip(CLIP_G, 1280)], unet, diffusers.AutoencoderKL(**VAE), forward, samples=2
    )


def _sd3(**settings: Any) -> Model:
    network = diffusers.SD3Transformer2DModel(
        sample_size=128, in_channels=16, out_channels=16, attention_head_dim=64, joint_attention_dim=4096,
        pooled_projection_dim=2048, qk_norm="rms_norm", **settings,
    )  # fmt: skip

    def forward(samples: int, height: int, width: int) -> Any:
        text, pooled = _empty(samples, 333, 4096), _empty(samples, 2048)
        return network(_empty(samples, 16, height, width), text, pooled, _empty(samples))

    text = [_clip(CLIP_L, 768), _clip(CLIP_G, 1280), _t5()]
    return Model(text, network, diffusers.AutoencoderKL(**VAE, latent_channels=16), forward, samples=2)


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

    def forward(samples: int, height: int, width: int) -> Any:
        tokens = height * width // 4
        return network(
            _empty(samples, tokens, 64), _empty(samples, 512, 4096), _empty(samples, 768), _empty(samples),
            _empty(tokens, 3), _empty(512, 3), _empty(samples),
        )  # fmt: skip

    text = [_clip(CLIP_L, 768), _t5()]
    return Model(text, network, diffusers.AutoencoderKL(**VAE, latent_channels=16), forward, samples=1)


def pixart() -> Model:
    """PixArt-Sigma at 1024; alpha has the same sizes but for 120 tokens and two small embeddings."""
    network = diffusers.PixArtTransformer2DModel(
        sample_size=128, caption_channels=4096, use_additional_conditions=False
    )

    def forward(samples: int, height: int, width: int) -> Any:
        return network(
            _empty(samples, 4, height, width), _empty(samples, 300, 4096), _empty(samples),
            {"resolution": None, "aspect_ratio": None}, encoder_attention_mask=_empty(samples, 300),
        )  # fmt: skip

    return Model([_t5()], network, diffusers.AutoencoderKL(**VAE), forward, samples=2)


MODELS = {
    "sdxl": sdxl, "sd3.5-medium": sd3_medium, "sd3.5-large": sd3_large, "flux": flux, "pixart-sigma": pixart,
}  # fmt: skip


@dataclass(frozen=True)
class Need:
    """GiB of each part."""

    text: float
    network: float
    vae: float
    activations: float
    decoding: float

    @property
    def resident(self) -> float:
        """With all networks on the device."""
        return self.text + self.network + self.vae + max(self.activations, self.decoding) + RESERVED

    @property
    def offloaded(self) -> float:
        """With networks in host memory while they rest (`--offload`)."""
        return max(self.text, self.network + self.activations, self.vae + self.decoding) + RESERVED


def need(name: str, height: int, width: int) -> Need:
    """What a model needs for one picture of this size in pixels, as one piece or as one window."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            model = MODELS[name]()
            alive = activation_bytes(lambda: model.forward(model.samples, height // 8, width // 8))
    finally:
        torch.set_default_dtype(before)
    return Need(
        text=sum(map(weight_bytes, model.text)) / GIB,
        network=weight_bytes(model.network) / GIB,
        vae=weight_bytes(model.vae) / GIB,
        activations=alive / GIB,
        decoding=widest_bytes(model.vae, 1024 * 4096) / GIB,
    )


def gradient(side: int, recompute: bool) -> float:
    """GiB that the gradient of one SDXL window of `side` pixels keeps in SyncDiffusion, with LPIPS by VGG.

    The network in float16, the autoencoder and VGG in float32.
    """
    import lpips

    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(**SDXL_UNET).half()
        vae = diffusers.AutoencoderKL(**VAE)
        distance = Lpips(lpips.LPIPS(net="vgg", pnet_rand=True, pretrained=False, verbose=False))
        told = Condition(
            torch.empty(2, 77, 2048).half(), torch.empty(2, 1280).half(), sizes=torch.empty(2, 6).half()
        )
    for network in (unet, vae, distance):
        network.requires_grad_(False)
    family = ModelFamily(
        kind="sdxl", spec=SPECS["sdxl"], model_id="", fingerprint="", unet=unet, vae=vae, tokenizers=[],
        text_encoders=[], scheduler_config={"_class_name": "DDIMScheduler"}, device=torch.device("cpu"),
        dtype=torch.float16,
    )  # fmt: skip
    canvas, schedule = whole_canvas(side, side, 8), make_schedule(family, "ddim", 50)
    return gradient_bytes(family, schedule, distance, canvas, told, recompute=recompute) / GIB


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--sizes", nargs="+", default=["1024x1024"], help="height x width")
    parser.add_argument("--gradient", action="store_true", help="of SyncDiffusion's windows, instead")
    chosen = parser.parse_args(arguments)
    if chosen.gradient:
        print("| SDXL window | everything kept | gradient checkpointing |\n|---|---|---|")
        for side in (512, 1024):
            kept, again = (gradient(side, recompute) for recompute in (False, True))
            print(f"| {side} | {kept:.1f} GiB | {again:.1f} GiB |", flush=True)
        return
    print("| model | size | text | network | activations | all on the device | with --offload | cards (GB) |")
    print("|---|---|---|---|---|---|---|---|")
    for name in chosen.models:
        for size in chosen.sizes:
            height, width = map(int, size.split("x"))
            found = need(name, height, width)
            cells = (found.text, found.network, found.activations, found.resident, found.offloaded)
            row = " | ".join(f"{value:.1f}" for value in cells)
            print(f"| {name} | {size} | {row} | {_cards(found)} |", flush=True)


def _cards(found: Need) -> str:
    """The smallest card for either way; cards are sold in units of 10^9 bytes."""
    smallest = [
        next((str(card) for card in CARDS if value * GIB <= card * 1e9), "none")
        for value in (found.resident, found.offloaded)
    ]
    return f"{smallest[0]}, offloaded {smallest[1]}"


if __name__ == "__main__":
    main()
