"""Pixels to latents and back, for scrolls of any width, in strips that give the same numbers as one piece.

A strip is not a tile: nothing is blended, because nothing differs. See `streaming.py` for how.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from generate.images.ring import closed
from generate.images.streaming import (
    Strips,
    stream_decoder,
    stream_encoder,
    strip_bounds,
    supports_streaming,
)

WRAP_MARGIN = 8
"""Latent columns of the other end shown to the decoder on each side of a wrapped scroll."""
STRIP = 64
"""Latent columns of one strip on a canvas 128 latents high; lower canvases get wider strips of the same
area."""


@torch.no_grad()
def encode_images(vae: Any, images: torch.Tensor, *, strip: int = STRIP, store: str = "auto") -> torch.Tensor:
    """Scaled latents [B, C, H/8, W/8] float32 of images [B, 3, H, W] in -1..1: the mode of the posterior.

    `strip` is the width in latent columns that is worked on at once (0: the whole canvas); `store` is where
    the activations of the other strips wait: "device", "cpu" or "auto". The result does not depend on
    either beyond the rounding of float sums. The mode, not a sample, so that the same picture always gives
    the same latents.
    """
    _require_safe_dtype(vae)
    factor = scale_factor(vae)
    out = []
    for image in images.to(vae.device, vae.dtype).split(1):
        bounds = _bounds(vae, image.shape[2] // factor, image.shape[3] // factor, strip)
        if bounds is None:
            moments = _moments(vae, image)
        else:
            pieces = Strips.cut(
                image,
                [(a * factor, b * factor) for a, b in bounds],
                _store(vae, store, image.shape[2] * image.shape[3]),
            )
            moments = stream_encoder(vae, pieces).join(vae.device)
        mode, _ = moments.float().chunk(2, dim=1)
        out.append(_scale(vae, mode))
    return torch.cat(out)


@torch.no_grad()
def decode_latents(
    vae: Any, latents: torch.Tensor, *, strip: int = STRIP, store: str = "auto"
) -> torch.Tensor:
    """Images [B, 3, 8H, 8W] float32 on the CPU, nominally in -1..1, of scaled latents [B, C, H, W].

    Arguments as in `encode_images`. Peak memory is that of one strip, two canvases of the widest activation
    in `store`, and the image.
    """
    _require_safe_dtype(vae)
    factor = scale_factor(vae)
    out = []
    for latent in _unscale(vae, latents.float().to(vae.device)).to(vae.dtype).split(1):
        bounds = _bounds(vae, latent.shape[2], latent.shape[3], strip)
        if bounds is None:
            image = vae.decode(latent).sample
        else:
            image = stream_decoder(
                vae, Strips.cut(latent, bounds, _store(vae, store, latent[0, 0].numel() * factor**2))
            ).join("cpu")
        out.append(image.float().cpu())
    return torch.cat(out)


def decode_windows(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Images [n, 3, H, W], nominally in -1..1, of the scaled latents of windows; gradient where it is on.

    In one piece and on the autoencoder's device, so for windows and not for scrolls.
    """
    _require_safe_dtype(vae)
    images: torch.Tensor = vae.decode(_unscale(vae, latents.float().to(vae.device)).to(vae.dtype)).sample
    return images.float()


def decode_scroll(vae: Any, latents: torch.Tensor, *, wrap: bool = False) -> Image.Image:
    """The picture of final latents [1, C, h, w]; a wrapped scroll is decoded with its other end beside it."""
    margin = min(WRAP_MARGIN, latents.shape[-1]) if wrap else 0
    padded = F.pad(latents, (margin, margin, 0, 0), mode="circular") if margin else latents
    images = decode_latents(vae, padded)
    cut = margin * scale_factor(vae)
    return to_pil(images[..., cut : images.shape[-1] - cut])[0]


def encode_scroll(vae: Any, image: Image.Image, *, wrap: bool = False) -> torch.Tensor:
    """The scaled latents [1, C, h, w] of a picture; a wrapped one is encoded with its other end beside it."""
    margin = min(WRAP_MARGIN, image.width // scale_factor(vae)) if wrap else 0
    padded = closed(image, margin * scale_factor(vae)) if margin else image
    latents = encode_images(vae, from_pil([padded]))
    return latents[..., margin : latents.shape[-1] - margin]


def to_pil(images: torch.Tensor) -> list[Image.Image]:
    """RGB pictures of images [B, 3, H, W] in -1..1 (values outside are clipped), rounded to 8 bits."""
    pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return [Image.fromarray(array) for array in pixels.permute(0, 2, 3, 1).cpu().numpy()]


def from_pil(images: list[Image.Image]) -> torch.Tensor:
    """Images [B, 3, H, W] float32 in -1..1 of pictures of one size."""
    pixels = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def scale_factor(vae: Any) -> int:
    """Pixels per latent along each side."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def _bounds(vae: Any, height: int, width: int, strip: int) -> list[tuple[int, int]] | None:
    """The strips' columns, or None where one piece will do. A function of the shape alone, never of free
    memory: the same request must give the same bytes."""
    if not strip or not supports_streaming(vae):
        return None
    bounds = strip_bounds(width, max(8, strip * 128 // height))
    return bounds if len(bounds) > 1 else None


def _store(vae: Any, store: str, pixels: int) -> torch.device:
    """Where strips wait. Free memory may decide this, because it changes no number."""
    if store == "cpu" or vae.device.type != "cuda":
        return torch.device("cpu") if store != "device" else vae.device
    if store == "device":
        return vae.device
    free, _ = torch.cuda.mem_get_info(vae.device)
    return vae.device if widest_bytes(vae, pixels) < 0.8 * free else torch.device("cpu")


def widest_bytes(vae: Any, pixels: int) -> int:
    """Bytes of the canvases alive at the widest place of the network: the last block's input, which has twice
    its output's channels, beside that output; one more for the strip at work and for what sums need."""
    channels = vae.config.block_out_channels
    return pixels * (channels[min(1, len(channels) - 1)] + 2 * channels[0]) * vae.dtype.itemsize


def _moments(vae: Any, image: torch.Tensor) -> torch.Tensor:
    hidden = vae.encoder(image)
    return vae.quant_conv(hidden) if vae.quant_conv is not None else hidden


def _scale(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    shift, spread = _statistics(vae, latents)
    return (latents - shift) * vae.config.scaling_factor / spread


def _unscale(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    shift, spread = _statistics(vae, latents)
    return latents * spread / vae.config.scaling_factor + shift


def _statistics(vae: Any, latents: torch.Tensor) -> tuple[Any, Any]:
    """What is subtracted from clean latents, and what they are divided by, beside the scaling factor.

    One number for all channels (shift_factor), or one for each (latents_mean and latents_std).
    """
    mean, std = vae.config.get("latents_mean"), vae.config.get("latents_std")
    if mean is None or std is None:
        return vae.config.get("shift_factor") or 0.0, 1.0
    shaped = [torch.tensor(value, device=latents.device).view(1, -1, 1, 1) for value in (mean, std)]
    return shaped[0], shaped[1]


def _require_safe_dtype(vae: Any) -> None:
    if vae.dtype == torch.float16:
        raise ValueError("SDXL's autoencoder overflows in float16: load it in float32 or bfloat16")
