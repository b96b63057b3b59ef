"""What a checkpoint is and the sizes it was made for, known before any weights are read."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from generate.models.limits import Limits
from generate.models.weights import OTHER, Checkpoint

SDXL_CANNY = "diffusers/controlnet-canny-sdxl-1.0"
FLUX_CANNY = "InstantX/FLUX.1-dev-Controlnet-Canny"
SIDES = {"sd": 64, "sdxl": 128}
"""Of the training square in latents, where a checkpoint does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """What a checkpoint is and the geometry it was made for; all sizes in pixels, (height, width)."""

    base: str
    """A Hub id, a folder, or `package:NAME/FOLDER` for weights that ship inside an installed package."""
    controlnet: str = ""
    """The canny ControlNet that belongs to the base, in the same notation; "" when there is none."""
    window: int = 1024
    stride: int = 256
    scroll: tuple[int, int] = (1024, 4096)
    blueprint: tuple[int, int] = (512, 2048)
    steps: int = 50
    guidance_scale: float = 5.0
    strength: float = 0.7
    control_scale: float = 0.5
    upscaler: str = ""
    """The Real-ESRGAN network that belongs to the base, in the same notation."""
    perceptual: str = "vgg"
    """What tells how alike two pictures look: a network of LPIPS, or a folder in the same notation."""
    ip_adapter: str = ""
    """The IP-Adapter that belongs to the base, in the same notation; "": the published one of its kind."""
    image_encoder: str = ""
    """The image tower of that adapter; "": the one that lies beside it."""
    image_scale: float = 0.6
    """How much a picture counts beside the text; 1 would be as much."""
    factor: int = 8
    """Pixels per latent along each side, as the autoencoder has it."""
    scheduler: str = "ddim"
    """The schedule where none is chosen."""
    limits: Limits = field(default_factory=Limits)
    """Sizes that it can be asked for in one piece."""


SD3 = ModelSpec(
    base="",
    steps=28,
    guidance_scale=7.0,
    scheduler="checkpoint",
    limits=Limits(multiple=16, longest=192 * 16),
)
FLUX = ModelSpec(
    base="", steps=28, guidance_scale=3.5, scheduler="checkpoint", limits=Limits(multiple=16, rated=2 << 20)
)
"""Rated from 0.1 to 2 million pixels by its makers."""
PIXART = ModelSpec(
    base="", steps=20, guidance_scale=4.5, scheduler="checkpoint", limits=Limits(multiple=16, bins=128)
)
MINIATURE_SD3: dict[str, Any] = {
    "window": 128, "stride": 32, "scroll": (128, 512), "blueprint": (64, 256), "steps": 25,
    "guidance_scale": 3.0, "upscaler": "package:miniature/weights/upscaler",
    "perceptual": "package:miniature/weights/perceptual",
    "limits": Limits(multiple=16, longest=512),
}  # fmt: skip

MODELS: dict[str, ModelSpec] = {
    "miniature": ModelSpec(
        base="package:miniature/weights/sdxl",
        controlnet="package:miniature/weights/controlnet",
        window=128,
        stride=32,
        scroll=(128, 512),
        blueprint=(64, 256),
        steps=25,
        guidance_scale=3.0,
        strength=0.7,
        control_scale=1.0,
        upscaler="package:miniature/weights/upscaler",
        perceptual="package:miniature/weights/perceptual",
        ip_adapter="package:miniature/weights/ip_adapter",
        image_encoder="package:miniature/weights/clip",
    ),
    "sdxl": ModelSpec(
        base="stabilityai/stable-diffusion-xl-base-1.0",
        controlnet=SDXL_CANNY,
    ),
    "miniature-sd3": replace(SD3, base="package:miniature/weights/sd3", **MINIATURE_SD3),
    "sd3.5-large": replace(SD3, base="stabilityai/stable-diffusion-3.5-large"),
    "sd3.5-medium": replace(
        SD3, base="stabilityai/stable-diffusion-3.5-medium", limits=Limits(multiple=16, longest=384 * 16)
    ),
    "flux": replace(FLUX, base="black-forest-labs/FLUX.1-dev", controlnet=FLUX_CANNY),
    "flux-schnell": replace(FLUX, base="black-forest-labs/FLUX.1-schnell", steps=4, guidance_scale=1.0),
    "pixart-alpha": replace(PIXART, base="PixArt-alpha/PixArt-XL-2-1024-MS"),
    "pixart-sigma": replace(PIXART, base="PixArt-alpha/PixArt-Sigma-XL-2-1024-MS"),
}


def derived_spec(found: Checkpoint) -> ModelSpec:
    """The paper's geometry at a checkpoint's own size: window the training square, stride a quarter of it."""
    if found.kind == OTHER:
        return ModelSpec(base=found.plain, scheduler="checkpoint")
    factor = 2 ** (len(found.config("vae").get("block_out_channels", (64,))) - 1)
    settings = found.config(found.network)
    side = int(settings.get("sample_size") or SIDES.get(found.kind, 128)) * factor
    return ModelSpec(
        base=found.plain,
        window=side,
        stride=side // 4,
        scroll=(side, 4 * side),
        blueprint=(side // 2, 2 * side),
        factor=factor,
        **_published(found.kind, settings, factor),
    )


def _published(kind: str, settings: dict[str, Any], factor: int) -> dict[str, Any]:
    """Steps, guidance, schedule and limits as diffusers' pipelines and the network's settings have them."""
    if kind in ("sd", "sdxl"):
        return {"guidance_scale": 7.5 if kind == "sd" else 5.0}
    unit = factor * 2  # two latents a token
    limits = Limits(multiple=unit)
    if kind == "sd3":
        like, limits = SD3, replace(limits, longest=unit * int(settings.get("pos_embed_max_size") or 0))
    elif kind == "flux":
        dev = bool(settings.get("guidance_embeds"))
        like = FLUX if dev else replace(FLUX, steps=4, guidance_scale=1.0)
        limits = replace(limits, rated=FLUX.limits.rated)
    else:
        like, limits = PIXART, replace(limits, bins=int(settings.get("sample_size") or 128))
    told = {name: getattr(like, name) for name in ("steps", "guidance_scale", "scheduler")}
    return {**told, "limits": limits}
