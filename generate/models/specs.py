"""What a checkpoint is and the sizes it was made for, known before any weights are read."""

from __future__ import annotations

from dataclasses import dataclass

from generate.models.weights import Checkpoint

SDXL_CANNY = "diffusers/controlnet-canny-sdxl-1.0"
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
    factor: int = 8
    """Pixels per latent along each side, as the autoencoder has it."""


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
    ),
    "sdxl": ModelSpec(
        base="stabilityai/stable-diffusion-xl-base-1.0",
        controlnet=SDXL_CANNY,
    ),
}


def derived_spec(found: Checkpoint) -> ModelSpec:
    """The paper's geometry at a checkpoint's own size: window the training square, stride a quarter of it."""
    factor = 2 ** (len(found.config("vae").get("block_out_channels", (64,))) - 1)
    side = int(found.config("unet").get("sample_size") or SIDES[found.kind]) * factor
    return ModelSpec(
        base=found.plain,
        window=side,
        stride=side // 4,
        scroll=(side, 4 * side),
        blueprint=(side // 2, 2 * side),
        guidance_scale=7.5 if found.kind == "sd" else 5.0,
        factor=factor,
    )
