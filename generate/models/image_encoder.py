"""Pictures to a CLIP's embeddings, for IP-Adapters: transformers' folders and open_clip's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from drspo.errors import UserError
from drspo.files.texts import read_json
from generate.models.load import freeze
from generate.models.quiet import quiet

MEAN = (0.48145466, 0.4578275, 0.40821073)
SPREAD = (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's own training pictures, where a folder says nothing else."""
OPEN_CLIP = "open_clip_config.json"


@dataclass(frozen=True)
class EncoderShape:
    """What an image tower gives, read from its settings before its weights."""

    folder: Path
    side: int
    """pixels of the square that it sees"""
    embedding: int
    """numbers of a picture's embedding"""
    hidden: int
    """numbers of each of its tokens"""
    mean: tuple[float, ...] = MEAN
    spread: tuple[float, ...] = SPREAD

    @property
    def is_open_clip(self) -> bool:
        """Whether open_clip opens the folder, and not transformers."""
        return (self.folder / OPEN_CLIP).is_file()

    @property
    def weights(self) -> Path:
        """The file that holds the tower."""
        return self.folder / ("open_clip_model.safetensors" if self.is_open_clip else "model.safetensors")


def encoder_shape(folder: Path) -> EncoderShape:
    """The shape of the tower in a folder; UserError for a folder without one, or without its weights."""
    try:
        found = _open_clip_shape(folder) if (folder / OPEN_CLIP).is_file() else _shape(folder)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the settings of the image encoder lack {error}", str(folder)) from error
    if not found.weights.is_file():
        raise UserError(f"the image encoder's {found.weights.name} is missing", str(folder))
    return found


def _shape(folder: Path) -> EncoderShape:
    if not (folder / "config.json").is_file():
        raise UserError(
            "there is no image encoder", str(folder), "It needs a config.json, or open_clip's settings."
        )
    config = read_json(folder / "config.json")
    vision = config.get("vision_config", config)
    return EncoderShape(
        folder=folder,
        side=int(vision["image_size"]),
        embedding=int(config["projection_dim"]),
        hidden=int(vision["hidden_size"]),
    )


def _open_clip_shape(folder: Path) -> EncoderShape:
    config = read_json(folder / OPEN_CLIP)
    model, shown = config["model_cfg"], config.get("preprocess_cfg", {})
    return EncoderShape(
        folder=folder,
        side=int(model["vision_cfg"]["image_size"]),
        embedding=int(model["embed_dim"]),
        hidden=int(model["vision_cfg"]["width"]),
        mean=tuple(shown.get("mean", MEAN)),
        spread=tuple(shown.get("std", SPREAD)),
    )


class ImageEncoder:
    """A CLIP's image tower. It is shown whole pictures, squeezed to its square: a crop would hide most of a
    scroll."""

    def __init__(self, shape: EncoderShape, tower: Any) -> None:
        self.shape, self.tower = shape, tower

    @property
    def device(self) -> torch.device:
        """Where the tower is."""
        found: torch.device = next(self.tower.parameters()).device
        return found

    def to(self, device: torch.device) -> None:
        """Puts the tower on a device."""
        self.tower.to(device)

    def pixels(self, pictures: Sequence[Image.Image]) -> Tensor:
        """The pictures as the tower is shown them: [n, 3, side, side]."""
        side = (self.shape.side, self.shape.side)
        small = [picture.convert("RGB").resize(side, Image.Resampling.BICUBIC) for picture in pictures]
        values = torch.from_numpy(np.stack([np.asarray(one) for one in small])).permute(0, 3, 1, 2) / 255
        mean, spread = (torch.tensor(v).view(3, 1, 1) for v in (self.shape.mean, self.shape.spread))
        parameter = next(self.tower.parameters())
        return ((values - mean) / spread).to(parameter.device, parameter.dtype)

    @torch.no_grad()
    def embeddings(self, pixels: Tensor) -> Tensor:
        """One embedding a picture [n, d], before it is brought to unit length."""
        seen: Tensor = self.tower(pixels) if self.shape.is_open_clip else self.tower(pixels).image_embeds
        return seen

    @torch.no_grad()
    def tokens(self, pixels: Tensor) -> Tensor:
        """The tokens [n, T, d] before the last block, the class's first: what "plus" adapters look at."""
        if not self.shape.is_open_clip:
            tokens: Tensor = self.tower(pixels, output_hidden_states=True).hidden_states[-2]
            return tokens
        blocks = len(self.tower.transformer.resblocks)
        found = self.tower.forward_intermediates(
            pixels, indices=[blocks - 2], intermediates_only=True, normalize_intermediates=False,
            output_fmt="NLC", output_extra_tokens=True,
        )  # fmt: skip
        return torch.cat([found["image_intermediates_prefix"][0], found["image_intermediates"][0]], 1)


def load_image_encoder(shape: EncoderShape, device: torch.device, dtype: torch.dtype) -> ImageEncoder:
    """The tower of a folder, frozen; UserError for files that are damaged."""
    try:
        return ImageEncoder(shape, freeze(_tower(shape, dtype), device))
    except (UserError, MemoryError):
        raise
    except Exception as error:  # of every kind: transformers', open_clip's, safetensors'
        said = f"{type(error).__name__}: {error}".partition("\n")[0][:300]
        raise UserError(f"the image encoder cannot be loaded: {said}", str(shape.folder)) from error


def _tower(shape: EncoderShape, dtype: torch.dtype) -> Any:
    if shape.is_open_clip:
        import open_clip

        model, _ = open_clip.create_model_from_pretrained(f"local-dir:{shape.folder}")
        return model.visual.to(dtype)
    from transformers import CLIPVisionModelWithProjection

    quiet("transformers")
    return CLIPVisionModelWithProjection.from_pretrained(shape.folder, dtype=dtype, use_safetensors=True)
