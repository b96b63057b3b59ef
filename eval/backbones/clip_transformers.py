"""CLIPs in transformers' layout (`config.json`, `model.safetensors`), as PickScore publishes its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch

from drspo.errors import UserError
from drspo.registry import package_folder
from eval.backbones.files import Found, find
from generate.models.quiet import quiet

WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class TransformersClip:
    """A CLIP that transformers builds; pictures are normalised with CLIP's own mean and spread."""

    name: str
    weights: Found
    config: dict[str, Any]
    tokenizer_source: str
    mean: tuple[float, ...] = open_clip.OPENAI_DATASET_MEAN
    std: tuple[float, ...] = open_clip.OPENAI_DATASET_STD

    @property
    def size(self) -> int:
        """The side of the square that it reads, in pixels."""
        return int(self.config["vision_config"].get("image_size", 224))

    @property
    def dim(self) -> int:
        """The length of an embedding."""
        return int(self.config.get("projection_dim", 512))

    @property
    def text_limit(self) -> int:
        """The most tokens it reads, start and end included."""
        return int(self.config["text_config"].get("max_position_embeddings", 77))

    def load(self, device: torch.device) -> tuple[Any, Any]:
        """(encode_image, encode_text) of the loaded network; UserError when the weights do not fit."""
        model = self._model().eval().requires_grad_(False).to(device)
        return partial(_image_features, model), partial(_text_features, model)

    def logit_scale(self) -> float:
        """exp(logit_scale), read from the file alone."""
        return float(torch.as_tensor(_tensors(self.weights.path, "logit_scale")["logit_scale"]).float().exp())

    def tokenizer(self) -> Any:
        """Texts to token ids [n, text_limit], cut; UserError when its files are missing."""
        from transformers import AutoTokenizer

        quiet("transformers")
        try:
            loaded = AutoTokenizer.from_pretrained(self.tokenizer_source, trust_remote_code=False)
        except Exception as error:  # the Hub client and the readers share no class of errors
            raise UserError(
                f"{self.name}: cannot load the tokenizer",
                self.tokenizer_source,
                f"run: hf download {self.tokenizer_source} --include 'tokenizer*' vocab.json merges.txt; or "
                f"put these files beside {self.weights.path.name}",
            ) from error
        return _Tokenizer(loaded, self.text_limit)

    def count_tokens(self, tokenizer: Any, text: str) -> int:
        """How many tokens a text has before it is cut, start and end included."""
        return len(tokenizer.inner(text)["input_ids"])

    def _model(self) -> Any:
        from transformers import CLIPConfig, CLIPModel

        config = {key: value for key, value in self.config.items() if key not in ("dtype", "torch_dtype")}
        model = CLIPModel(CLIPConfig(**config))
        state = {
            name: value.float() if value.is_floating_point() else value
            for name, value in _tensors(self.weights.path).items()
            if not name.endswith("position_ids")
        }
        missing, unexpected = model.load_state_dict(state, strict=False)
        missing = [name for name in missing if not name.endswith("position_ids")]
        if missing or unexpected:
            raise UserError(
                f"{self.name}: this is not the CLIP that its configuration describes",
                str(self.weights.path),
                f"missing: {missing[:3]}; unknown: {list(unexpected)[:3]}",
            )
        return model


class _Tokenizer:
    """A transformers tokenizer that is called as open_clip's are: texts to ids of one length."""

    def __init__(self, inner: Any, limit: int) -> None:
        self.inner, self.limit = inner, limit

    def __call__(self, texts: list[str]) -> torch.Tensor:
        shape = {"padding": "max_length", "truncation": True, "max_length": self.limit}
        ids: torch.Tensor = self.inner(texts, return_tensors="pt", **shape)["input_ids"]
        return ids


def describe(source: str, tokenizer: str, metric: str) -> TransformersClip:
    """The CLIP at a Hub id, a folder or package:NAME/FOLDER; its own tokenizer wins over `tokenizer`'s."""
    config = find(source, ("config.json",), metric)
    weights = find(source, WEIGHTS, metric)
    folder = package_folder(source) if source.startswith("package:") else config.path.parent
    own = any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json"))
    try:
        settings = json.loads(config.path.read_text(encoding="utf-8"))
        assert isinstance(settings["vision_config"], dict) and isinstance(settings["text_config"], dict)
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise UserError(f"{metric}: this is not a CLIP's configuration", str(config.path)) from error
    return TransformersClip(source, weights, settings, str(folder) if own else tokenizer)


def features(output: Any) -> torch.Tensor:
    """The projected vectors of `get_*_features`: a tensor in transformers 4, an output object in 5."""
    tensor: torch.Tensor = output if isinstance(output, torch.Tensor) else output.pooler_output
    return tensor


def _image_features(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    return features(model.get_image_features(pixel_values=pixels))


def _text_features(model: Any, ids: torch.Tensor) -> torch.Tensor:
    return features(model.get_text_features(input_ids=ids))


def _tensors(path: Path, only: str = "") -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(str(path), framework="pt") as file:
                return {name: file.get_tensor(name) for name in ([only] if only else file.keys())}
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return {only: state[only]} if only else dict(state)
    except Exception as error:
        raise UserError("cannot read the weights", str(path), f"is the file whole? ({error})") from error
