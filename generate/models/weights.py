"""Where a checkpoint's files lie: packages, folders and the Hub; said clearly when they are missing."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from drspo.errors import UserError
from drspo.registry import package_folder

KINDS = {"StableDiffusionPipeline": "sd", "StableDiffusionXLPipeline": "sdxl"}
TEXT_PARTS = {"sd": ("text_encoder",), "sdxl": ("text_encoder", "text_encoder_2")}
SETTINGS = ("*.json", "*.txt")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's folder on this machine with all its files present."""

    source: str
    folder: Path
    kind: str
    """"sd", "sdxl", or "single" for one network such as a ControlNet."""
    files: dict[str, str] = field(default_factory=dict)
    """Weight file (relative) of each part; part "" is a single network's."""

    @cached_property
    def index(self) -> dict[str, Any]:
        return _read_json(self.folder / "model_index.json")

    @property
    def text_parts(self) -> tuple[str, ...]:
        return TEXT_PARTS[self.kind]

    @property
    def zero_empty_negative(self) -> bool:
        return self.kind == "sdxl" and bool(self.index.get("force_zeros_for_empty_prompt", True))

    def scheduler_config(self) -> dict[str, Any]:
        return _read_json(self.folder / "scheduler" / "scheduler_config.json")

    def config(self, part: str) -> dict[str, Any]:
        """The settings of one network: "unet", "vae", or "" of a single one."""
        return _read_json(self.folder / part / "config.json")

    def shards(self, part: str) -> list[Path]:
        """The files that hold a part's weights."""
        path = self.folder / self.files[part]
        if path.suffix != ".json":
            return [path]
        return [path.parent / name for name in sorted(set(_read_json(path)["weight_map"].values()))]

    def variant(self, part: str) -> str | None:
        return "fp16" if ".fp16." in self.files[part] else None


def locate(source: str, *, prefer_half: bool = False, single: str = "") -> Checkpoint:
    """The checkpoint that `source` names, fetched from the Hub when it is an id, with every file checked.

    `package:NAME/FOLDER` lies inside an installed package; an existing folder is taken as it is.
    `single` is the class of a lone network (ControlNetModel) instead of a pipeline. Raises UserError that
    names what is missing and how to get it.
    """
    if source.startswith("package:"):
        folder = package_folder(source)
    elif Path(source).expanduser().is_dir():
        folder = Path(source).expanduser()
    else:
        folder = _from_hub(source, prefer_half, single)
    return _checked(source, folder, prefer_half, single)


def _checked(source: str, folder: Path, prefer_half: bool, single: str) -> Checkpoint:
    if single:
        _require(source, folder, "config.json")
        _require_class(source, _read_json(folder / "config.json"), {single})
        return Checkpoint(source, folder, "single", {"": _weight_file(source, folder, "", prefer_half)})
    _require(source, folder, "model_index.json")
    index = _read_json(folder / "model_index.json")
    _require_class(source, index, set(KINDS))
    kind = KINDS[index["_class_name"]]
    files = {
        part: _weight_file(source, folder, part, prefer_half) for part in ("unet", "vae", *TEXT_PARTS[kind])
    }
    for part in TEXT_PARTS[kind]:
        _require(source, folder, part.replace("text_encoder", "tokenizer") + "/tokenizer_config.json")
    _require(source, folder, "scheduler/scheduler_config.json")
    return Checkpoint(source, folder, kind, files)


def _weight_file(source: str, folder: Path, part: str, prefer_half: bool) -> str:
    found = [name for name in _candidates(part, prefer_half) if (folder / name).exists()]
    if not found:
        raise _missing(source, folder, _candidates(part, False)[0])
    return found[0]


def _candidates(part: str, prefer_half: bool) -> list[str]:
    stem = "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"
    prefix = f"{part}/" if part else ""
    full = [f"{prefix}{stem}.safetensors", f"{prefix}{stem}.safetensors.index.json"]
    half = [f"{prefix}{stem}.fp16.safetensors", f"{prefix}{stem}.safetensors.index.fp16.json"]
    return half + full if prefer_half else full + half


def _require(source: str, folder: Path, name: str) -> None:
    if not (folder / name).exists():
        raise _missing(source, folder, name)


def _require_class(source: str, config: dict[str, Any], allowed: set[str]) -> None:
    name = config.get("_class_name", "")
    if name not in allowed:
        raise UserError(
            f"{source} holds a {name or 'model without a class name'}, which cannot be used here.",
            hint=f"What works: {', '.join(sorted(allowed))}.",
        )


def _missing(source: str, folder: Path, name: str) -> UserError:
    hint = f"hf download {source} {name}" if HUB_ID.fullmatch(source) else f"Put the file at {folder / name}."
    return UserError(f"The file {name} of the model {source} is missing.", where=str(folder), hint=hint)


def _from_hub(source: str, prefer_half: bool, single: str) -> Path:
    if not HUB_ID.fullmatch(source):
        raise UserError(
            f"{source!r} is neither a model's name, nor a folder, nor a Hub id of the form owner/name.",
            hint=_known_names(source),
        )
    from huggingface_hub import snapshot_download

    patterns = _patterns(prefer_half, single)
    cached = _cached_folder(source, prefer_half, single, patterns)
    if cached is not None:
        return cached
    try:
        return Path(snapshot_download(source, allow_patterns=_choose_files(source, prefer_half, single)))
    except Exception as error:  # the client's connection errors share no base class
        raise _unreachable(source, patterns, error) from error


def _known_names(source: str) -> str:
    from drspo.errors import did_you_mean
    from generate.models.family import MODELS

    return did_you_mean(source, MODELS)


def _cached_folder(source: str, prefer_half: bool, single: str, patterns: list[str]) -> Path | None:
    """The Hub cache's folder when everything is there already: no network is asked in that case."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(source, allow_patterns=patterns, local_files_only=True))
        _checked(source, folder, prefer_half, single)
    except (OSError, ValueError, UserError):
        return None
    return folder


def _parts(single: str) -> list[str]:
    return [""] if single else ["unet", "vae", "text_encoder", "text_encoder_2"]


def _patterns(prefer_half: bool, single: str) -> list[str]:
    if single:
        return ["config.json", *_candidates("", prefer_half)]
    folders = [*_parts(single), "tokenizer", "tokenizer_2", "scheduler"]
    settings = [f"{folder}/{pattern}" for folder in folders for pattern in SETTINGS]
    return ["model_index.json", *settings, *(c for p in _parts(single) for c in _candidates(p, prefer_half))]


def _choose_files(source: str, prefer_half: bool, single: str) -> list[str]:
    """The files to fetch: all settings, and of each part's weights only the first candidate that exists."""
    from huggingface_hub import HfApi

    present = {
        file.rfilename for file in HfApi().model_info(source).siblings or []
    }  # one request, no retries
    chosen = [p for p in _patterns(prefer_half, single) if "safetensors" not in p]
    for part in _parts(single):
        name = next((c for c in _candidates(part, prefer_half) if c in present), "")
        if name.endswith(".json"):
            half = ".fp16" if ".fp16." in name else ""
            chosen.append(f"{name.partition('.safetensors')[0]}{half}-*.safetensors")
        if name:
            chosen.append(name)
    return chosen


def _unreachable(source: str, patterns: list[str], error: Exception) -> UserError:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    weight = next(p for p in patterns if p.endswith(".safetensors"))
    fetch = f"hf download {source}"
    if isinstance(error, GatedRepoError):
        return UserError(
            f"{source} asks for its licence to be accepted first.",
            hint=f"Accept it at https://huggingface.co/{source}, then `hf auth login`.",
        )
    if isinstance(error, RepositoryNotFoundError):
        return UserError(
            f"The Hub has no model {source}, or your token may not see it.",
            hint=f"{_known_names(source)} A folder on disk works too: give its path.",
        )
    return UserError(
        f"The weights of {source} (for example {weight}) are not on this machine and could not be fetched: "
        f"{type(error).__name__}.",
        hint=f"With a connection: `{fetch}`. Without: copy the model's folder here and give its path.",
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"Cannot read the model's settings: {error}", where=str(path)) from error
    return content
