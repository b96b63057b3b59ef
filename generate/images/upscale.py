"""Real-ESRGAN behind a scroll (Wang et al. 2021), in strips that give the same numbers as one piece.

A strip is not a tile: nothing is blended. Strips go through the network block by block together, and each
block is shown as many columns of the neighbours as it looks at, so that there is no seam to hide.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from drspo.errors import UserError
from drspo.registry import package_folder

SCALES = (2, 4)
DENSE = 15
"""Columns that a residual-in-residual dense block looks to either side: three blocks of five convolutions."""
TAIL = 3
"""The same for the convolutions after it, in its columns: one, and less than two of the enlarged ones."""
STRIP = 256
"""Columns of the picture that are worked on at once."""
SOURCES = "Real-ESRGAN's x2plus and x4plus (.pth or .safetensors) from its authors' releases work."


@dataclass(frozen=True)
class Upscaler:
    """A Real-ESRGAN network, ready to enlarge pictures."""

    network: Any
    """spandrel's RRDBNet"""
    scale: int
    """of the network itself"""
    sha256: str
    device: torch.device

    def facts(self, scale: int) -> dict[str, Any]:
        """What a record says of an enlargement by `scale`."""
        how = "" if scale == self.scale else f", then {scale}/{self.scale} by Lanczos"
        network, sha256 = f"x{self.scale}{how}", self.sha256
        return {"upscale": scale, "upscaler_network": network, "upscaler_sha256": sha256}

    def enlarge(self, picture: Image.Image, scale: int) -> Image.Image:
        """The picture `scale` times as large; a network of 4 makes it 4 times and Lanczos brings it to 2.

        As Real-ESRGAN's own program does it: the larger picture is rounded to bytes first.
        """
        import cv2

        pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None].float() / 255
        large = enlarge_pixels(self.network, pixels.to(self.device, _dtype(self.network)))
        array = (large[0].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        if scale != self.scale:
            size = (picture.width * scale, picture.height * scale)
            array = cv2.resize(array, size, interpolation=cv2.INTER_LANCZOS4)
        return Image.fromarray(array)


def load_upscaler(source: str, scale: int, device: torch.device) -> Upscaler:
    """The network of a .safetensors or .pth file, or of the one inside `package:NAME/FOLDER`.

    In bfloat16 on CUDA, in float32 elsewhere. UserError for what is no Real-ESRGAN network, and for one that
    cannot enlarge that much. A .pth file can hold tensors only: nothing in it is run.
    """
    if scale not in SCALES:
        raise UserError(f"pictures are enlarged by 2 or 4, not {scale}", where="--upscale")
    file = _file(source)
    network = _network(file, _state(file))
    own = int(network.scale) // int(network.shuffle_factor or 1)
    if own < scale or own not in SCALES:
        raise UserError(
            f"{file.name} enlarges by {own}, and {scale} is asked for",
            where="--upscaler",
            hint="x4plus serves 4, and 2 by halving; x2plus serves 2.",
        )
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    network = network.to(device, dtype).eval().requires_grad_(False)
    return Upscaler(network, own, hashlib.sha256(file.read_bytes()).hexdigest(), device)


@torch.no_grad()
def enlarge_pixels(network: Any, pixels: Tensor, *, strip: int = STRIP) -> Tensor:
    """The network's output [1, 3, sH, sW], float32 on the CPU, of pictures [1, 3, H, W] in 0..1.

    `strip` is the width in columns that is worked on at once (0: all). The result does not depend on it
    beyond the rounding of float sums. Between blocks the feature maps wait on the CPU.
    """
    shuffle = int(network.shuffle_factor or 1)
    if shuffle > 1:
        pixels, height, width = _unshuffled(pixels, shuffle)
    else:
        height, width = pixels.shape[-2:]
    first, middle, *tail = network.model
    columns = max(strip // shuffle, 1) if strip else pixels.shape[-1]
    walk = _Walk(pixels.device, columns)
    start = walk(first, pixels.cpu(), 1)
    *blocks, closing = middle.sub
    features = start
    for block in blocks:
        features = walk(block, features, DENSE)
    features = start + walk(closing, features, 1)
    large = walk(torch.nn.Sequential(*tail), features, TAIL)
    scale = int(network.scale) // shuffle
    return large[..., : height * scale, : width * scale].float()


@dataclass(frozen=True)
class _Walk:
    """Applies a part of a network to a canvas on the CPU, strip by strip."""

    device: torch.device
    columns: int

    def __call__(self, part: Callable[[Tensor], Tensor], canvas: Tensor, halo: int) -> Tensor:
        width, made = canvas.shape[-1], []
        for start in range(0, width, self.columns):
            stop = min(start + self.columns, width)
            left, right = max(start - halo, 0), min(stop + halo, width)
            answer = part(canvas[..., left:right].to(self.device))
            scale = answer.shape[-1] // (right - left)
            kept = answer[..., (start - left) * scale : (stop - left) * scale]
            made.append(kept.cpu())
        return torch.cat(made, dim=-1)


def _unshuffled(pixels: Tensor, factor: int) -> tuple[Tensor, int, int]:
    """Pixels folded into channels, mirrored at the ends where a side is no multiple; and the old sides."""
    height, width = pixels.shape[-2:]
    padded = torch.nn.functional.pad(pixels, (0, -width % factor, 0, -height % factor), mode="reflect")
    return torch.pixel_unshuffle(padded, factor), height, width


def _dtype(network: Any) -> torch.dtype:
    dtype: torch.dtype = next(network.parameters()).dtype
    return dtype


def _file(source: str) -> Path:
    path = package_folder(source) if source.startswith("package:") else Path(source).expanduser()
    if path.is_dir():
        path = path / "upscaler.safetensors"
    if not path.is_file():
        raise UserError(f"there is no upscaler at {source}", where="--upscaler", hint=SOURCES)
    if path.suffix not in (".safetensors", ".pth"):
        raise UserError(f"{path.name} is neither .safetensors nor .pth", where="--upscaler", hint=SOURCES)
    return path


def _state(file: Path) -> dict[str, Tensor]:
    """The tensors of a file; of a .pth, whatever else it holds is refused by torch."""
    from safetensors.torch import load_file

    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of every kind: pickle's, zip's, safetensors'
        said = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
        raise UserError(f"{file.name} cannot be read as weights: {said}", "--upscaler", SOURCES) from error
    for key in ("params_ema", "params"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{file.name} holds no table of weights", "--upscaler", SOURCES)
    return state


def _network(file: Path, state: dict[str, Tensor]) -> Any:
    from spandrel import ModelLoader

    try:
        found = ModelLoader(device="cpu").load_from_state_dict(dict(state))
    except Exception as error:  # spandrel's own, and whatever misshapen tensors raise inside it
        said = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
        raise UserError(f"{file.name} is no network that is known: {said}", "--upscaler", SOURCES) from error
    if found.architecture.id != "ESRGAN" or found.input_channels != 3 or found.output_channels != 3:
        raise UserError(
            f"{file.name} is a network of the kind {found.architecture.name}, not Real-ESRGAN's",
            where="--upscaler",
            hint=SOURCES,
        )
    return found.model
