"""CLIPs in open_clip's words: a tag, a file, a folder, a Hub id; described without loading them."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch

from drspo.errors import UserError
from drspo.registry import package_folder
from eval.backbones.files import Found, find

BACKBONES = {
    "openai-vit-l-14": "ViT-L-14:openai",
    "openai-vit-b-32": "ViT-B-32:openai",
    "openai-vit-b-16": "ViT-B-16:openai",
    "miniature": "package:miniature/weights/clip",
}
"""Short names. Anything else is ARCHITECTURE:TAG, ARCHITECTURE:FILE, a folder in open_clip's format, a Hub id
(hf-hub:OWNER/NAME) or package:NAME/FOLDER."""
CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


@dataclass(frozen=True)
class OpenClip:
    """A CLIP that open_clip builds: which network, which weights, how pictures are normalised."""

    name: str
    architecture: str
    """open_clip's model name, or local-dir:FOLDER; with -quickgelu where the weights need that activation."""
    tag: str
    """open_clip's tag when the weights are known by one, else empty."""
    weights: Found
    config: dict[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    tokenizer_source: str

    @property
    def size(self) -> int:
        """The side of the square that it reads, in pixels."""
        size = self.config["vision_cfg"].get("image_size", 224)
        return int(size[0] if isinstance(size, (list, tuple)) else size)

    @property
    def dim(self) -> int:
        """The length of an embedding."""
        return int(self.config["embed_dim"])

    @property
    def text_limit(self) -> int:
        """The most tokens it reads, start and end included."""
        return int(self.config["text_cfg"].get("context_length", 77))

    @property
    def shape(self) -> tuple[Any, ...]:
        """What tells one vision tower from another: layers, width and patch, as open_clip writes them."""
        return tower_shape(self.config)

    def load(self, device: torch.device) -> tuple[Any, Any]:
        """(encode_image, encode_text) of the loaded network; UserError when the weights do not fit."""
        logging.getLogger().addFilter(_quiet)
        try:
            model = open_clip.create_model(
                self.architecture,
                pretrained=None if self.architecture.startswith("local-dir:") else str(self.weights.path),
                device=device,
                require_pretrained=True,
            )
        except Exception as error:  # open_clip raises anything from RuntimeError to pickle's own classes
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"cannot load the CLIP {self.name}: {reason}",
                str(self.weights.path),
                "check that the file is whole and of this architecture; convert a pickle that holds more "
                "than tensors to safetensors first",
            ) from error
        finally:
            logging.getLogger().removeFilter(_quiet)
        model = model.eval().requires_grad_(False)
        return model.encode_image, model.encode_text

    def tokenizer(self) -> Any:
        """Texts to token ids [n, text_limit], cut; UserError when its files are missing."""
        logging.getLogger().addFilter(_quiet)
        try:
            return open_clip.get_tokenizer(self.tokenizer_source)
        except Exception as error:
            raise UserError(
                f"cannot load the tokenizer of {self.name}",
                self.tokenizer_source,
                "put its tokenizer.json beside the weights, or fetch the checkpoint while there is a network",
            ) from error
        finally:
            logging.getLogger().removeFilter(_quiet)

    def count_tokens(self, tokenizer: Any, text: str) -> int:
        """How many tokens a text has before it is cut, start and end included."""
        inner = getattr(tokenizer, "tokenizer", None)
        if inner is not None:
            return len(inner(text)["input_ids"])
        return len(tokenizer.encode(text)) + 2


def describe(name: str, metric: str = "backbone") -> OpenClip:
    """The CLIP called `name`, its files found; UserError for an unknown name or a missing file."""
    source = BACKBONES.get(name, name)
    source = source.removeprefix("local-dir:")
    if source.startswith("package:"):
        return _folder(name, package_folder(source), source, metric)
    if Path(source).expanduser().is_dir():
        return _folder(name, Path(source).expanduser(), source, metric)
    if source.startswith("hf-hub:"):
        repo = source.removeprefix("hf-hub:")
        found = find(repo, (CONFIG,), metric, setting="backbone")
        weights = find(repo, WEIGHTS, metric, setting="backbone")
        config = _read(found.path)
        return _described(name, f"local-dir:{found.path.parent}", "", weights, config, source)
    architecture, colon, pretrained = source.partition(":")
    if colon and open_clip.get_model_config(architecture) is not None:
        return _built_in(name, architecture, pretrained, metric)
    raise UserError(
        f"unknown backbone {name!r}",
        f"{metric}.backbone",
        f"name one of {', '.join(BACKBONES)}, a folder in open_clip's format, hf-hub:OWNER/NAME, "
        "ARCHITECTURE:TAG or ARCHITECTURE:FILE",
    )


def needs_quick_gelu(architecture: str, pretrained: str) -> str:
    """`architecture` with -quickgelu where `pretrained` is OpenAI's: a file of it loads silently wrong."""
    openai = pretrained == "openai" or "openai" in Path(pretrained).name.lower()
    if not openai or "quickgelu" in architecture:
        return architecture
    return f"{architecture}-quickgelu"


def tower_shape(config: dict[str, Any]) -> tuple[Any, ...]:
    """Layers, width and patch of a vision tower, from open_clip's `model_cfg`."""
    vision = config["vision_cfg"]
    return vision.get("layers"), vision.get("width"), vision.get("patch_size")


def _folder(name: str, folder: Path, source: str, metric: str) -> OpenClip:
    found = find(str(folder), (CONFIG,), metric, setting="backbone")
    weights = find(str(folder), WEIGHTS, metric, setting="backbone")
    return _described(
        name, f"local-dir:{folder}", "", Found(source, weights.path), _read(found.path), f"local-dir:{folder}"
    )


def _built_in(name: str, architecture: str, pretrained: str, metric: str) -> OpenClip:
    known = open_clip.get_pretrained_cfg(architecture, pretrained)
    if known:
        repo, _, file = str(known.get("hf_hub", "")).rpartition("/")
        weights = find(repo, (file,) if file else WEIGHTS, metric, setting="backbone")
    elif Path(pretrained).expanduser().is_file():
        weights = Found(pretrained, Path(pretrained).expanduser())
    else:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture))
        raise UserError(
            f"{pretrained!r} is neither a file nor a tag of {architecture}",
            f"{metric}.backbone",
            f"one of {tags}",
        )
    tag = pretrained if known else ""
    full = needs_quick_gelu(architecture, pretrained)
    config = {"model_cfg": open_clip.get_model_config(full), "preprocess_cfg": known or {}}
    return _described(name, full, tag, weights, config, full)


def _described(
    name: str, architecture: str, tag: str, weights: Found, config: dict[str, Any], tokenizer: str
) -> OpenClip:
    looks = config.get("preprocess_cfg", {})
    mean = tuple(looks.get("mean") or open_clip.OPENAI_DATASET_MEAN)
    std = tuple(looks.get("std") or open_clip.OPENAI_DATASET_STD)
    return OpenClip(name, architecture, tag, weights, config["model_cfg"], mean, std, tokenizer)


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        tower_shape(config["model_cfg"])
        return dict(config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError("this is not open_clip's configuration", str(path), f"{error!r}") from error


def _quiet(record: logging.LogRecord) -> bool:
    """Whether a line of the root logger is worth a reader's time: open_clip tells its every step there."""
    return record.levelno >= logging.WARNING
