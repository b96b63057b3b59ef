"""Where a checkpoint's files lie: packages, folders and the Hub; said clearly when they are missing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from drspo.errors import UserError, did_you_mean
from drspo.files.texts import read_json
from drspo.registry import package_folder

KINDS = {
    "StableDiffusionPipeline": "sd",
    "StableDiffusionImg2ImgPipeline": "sd",
    "StableDiffusionInpaintPipeline": "sd",
    "StableDiffusionControlNetPipeline": "sd",
    "StableDiffusionControlNetImg2ImgPipeline": "sd",
    "StableDiffusionPanoramaPipeline": "sd",
    "LatentConsistencyModelPipeline": "sd",
    "LatentConsistencyModelImg2ImgPipeline": "sd",
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusionXLImg2ImgPipeline": "sdxl",
    "StableDiffusionXLInpaintPipeline": "sdxl",
    "StableDiffusionXLControlNetPipeline": "sdxl",
    "StableDiffusionXLControlNetImg2ImgPipeline": "sdxl",
}
"""Pipelines whose folders hold these networks; what the pipeline does with them is not asked."""
TEXT_PARTS = {"sd": ("text_encoder",), "sdxl": ("text_encoder", "text_encoder_2")}
SETTINGS = ("*.json", "*.txt")
CONVERT = """Make a folder of it once, where the Hub can be reached, and give that folder:
  python -c "from diffusers import StableDiffusionXLPipeline as P; \
    P.from_single_file('{path}').save_pretrained('FOLDER')"
  (StableDiffusionPipeline for SD 1 and 2; without a connection, config='A FOLDER OF THE SAME KIND' too)."""
HUB_ID = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
"""owner/name, or owner/name@revision: a branch, a tag or a commit."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's folder on this machine with all its files present."""

    source: str
    folder: Path
    kind: str
    """"sd", "sdxl", or "single" for one network such as a ControlNet."""
    files: dict[str, str] = field(default_factory=dict)
    """Weight file (relative) of each part; part "" is a single network's."""
    commit: str = ""
    """of the Hub's repository, where it comes from there"""

    @property
    def plain(self) -> str:
        """What was asked for, without a revision."""
        return self.source.partition("@")[0] if self.commit else self.source

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


def locate(
    source: str, *, prefer_half: bool = False, single: str = "", known: Iterable[str] = ()
) -> Checkpoint:
    """The checkpoint that `source` names, fetched from the Hub when it is an id, with every file checked.

    `package:NAME/FOLDER` lies inside an installed package; an existing folder is taken as it is; a Hub id may
    end in @revision.
    `single` is the class of a lone network (ControlNetModel) instead of a pipeline. Raises UserError that
    names what is missing and how to get it; `known` are the names that a mistyped one may have meant.
    """
    if source.startswith("package:"):
        folder = package_folder(source)
    elif Path(source).expanduser().is_dir():
        folder = Path(source).expanduser()
    else:
        _refuse_single_file(source)
        folder = _from_hub(source, prefer_half, single, known)
        # The Hub's cache names its folders by the commit.
        return replace(_checked(source, folder, prefer_half, single), commit=folder.name)
    return _checked(source, folder, prefer_half, single)


def at_revision(source: str, revision: str) -> str:
    """A Hub id with this revision, a branch, a tag or a commit, instead of its own; "" leaves it as it is.

    UserError for what has no revisions: folders and packages.
    """
    if not revision:
        return source
    asked = None if Path(source).expanduser().exists() else HUB_ID.fullmatch(source)
    if asked is None:
        raise UserError(f"{source} has no revisions: it is no Hub id", hint="Leave out the revision.")
    return f"{asked['id']}@{revision}"


def _refuse_single_file(source: str) -> None:
    path = Path(source).expanduser()
    if path.suffix not in (".safetensors", ".ckpt", ".pt", ".pth", ".bin"):
        return
    if not path.is_file():
        raise UserError(f"there is no file {source}", hint="Give a folder in diffusers' layout, or a Hub id.")
    if path.suffix != ".safetensors":
        raise UserError(f"{source} is not a .safetensors file; others can run code when they are opened.")
    raise UserError(
        f"{source} holds a whole checkpoint in one file, without tokenizers and settings",
        hint=CONVERT.format(path=source),
    )


def _checked(source: str, folder: Path, prefer_half: bool, single: str) -> Checkpoint:
    if single:
        _require(source, folder, "config.json")
        _require_class(source, _read_json(folder / "config.json"), {single})
        return Checkpoint(source, folder, "single", {"": _weight_file(source, folder, "", prefer_half)})
    _require(source, folder, "model_index.json")
    index = _read_json(folder / "model_index.json")
    _require_class(source, index, set(KINDS))
    kind = KINDS[index["_class_name"]]
    _require_plain_input(source, folder)
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


def _require_plain_input(source: str, folder: Path) -> None:
    """UserError for networks that take more than noisy latents, such as those trained for inpainting."""
    taken = _read_json(folder / "unet" / "config.json").get("in_channels", 4)
    latents = _read_json(folder / "vae" / "config.json").get("latent_channels", 4)
    if taken != latents:
        raise UserError(
            f"the UNet of {source} takes {taken} channels and latents have {latents}: "
            "it was trained to be shown a picture too (inpainting, editing)",
            hint="Choose the checkpoint that it was made from.",
        )


def _missing(source: str, folder: Path, name: str) -> UserError:
    found = HUB_ID.fullmatch(source)
    hint = f"{_download(found)} {name}" if found else f"Put the file at {folder / name}."
    return UserError(f"The file {name} of the model {source} is missing.", where=str(folder), hint=hint)


def _from_hub(source: str, prefer_half: bool, single: str, known: Iterable[str]) -> Path:
    asked = HUB_ID.fullmatch(source)
    if asked is None:
        raise UserError(
            f"{source!r} is neither a model's name, nor a folder, nor a Hub id of the form owner/name.",
            hint=did_you_mean(source, known),
        )
    from huggingface_hub import snapshot_download

    patterns = _patterns(prefer_half, single)
    cached = _cached_folder(asked, prefer_half, single, patterns)
    if cached is not None:
        return cached
    try:
        files = _choose_files(asked, prefer_half, single)
        return Path(snapshot_download(asked["id"], revision=asked["revision"], allow_patterns=files))
    except Exception as error:  # the client's connection errors share no base class
        raise _unreachable(source, patterns, error, known) from error


def _cached_folder(asked: re.Match[str], prefer_half: bool, single: str, patterns: list[str]) -> Path | None:
    """The Hub cache's folder when everything is there already: no network is asked in that case."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(
            snapshot_download(
                asked["id"], revision=asked["revision"], allow_patterns=patterns, local_files_only=True
            )
        )
        _checked(asked.string, folder, prefer_half, single)
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


def _choose_files(asked: re.Match[str], prefer_half: bool, single: str) -> list[str]:
    """The files to fetch: all settings, and of each part's weights only the first candidate that exists."""
    from huggingface_hub import HfApi

    info = HfApi().model_info(asked["id"], revision=asked["revision"])  # one request, no retries
    present = {file.rfilename for file in info.siblings or []}
    chosen = [p for p in _patterns(prefer_half, single) if "safetensors" not in p]
    for part in _parts(single):
        name = next((c for c in _candidates(part, prefer_half) if c in present), "")
        if name.endswith(".json"):
            half = ".fp16" if ".fp16." in name else ""
            chosen.append(f"{name.partition('.safetensors')[0]}{half}-*.safetensors")
        if name:
            chosen.append(name)
    return chosen


def _unreachable(source: str, patterns: list[str], error: Exception, known: Iterable[str]) -> UserError:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    weight = next(p for p in patterns if p.endswith(".safetensors"))
    asked = HUB_ID.fullmatch(source)
    assert asked is not None
    fetch = _download(asked)
    if isinstance(error, GatedRepoError):
        return UserError(
            f"{source} asks for its licence to be accepted first.",
            hint=f"Accept it at https://huggingface.co/{asked['id']}, then `hf auth login`.",
        )
    if isinstance(error, RevisionNotFoundError):
        return UserError(f"The Hub's {asked['id']} has no revision {asked['revision']}.")
    if isinstance(error, RepositoryNotFoundError):
        return UserError(
            f"The Hub has no model {source}, or your token may not see it.",
            hint=f"{did_you_mean(source, known)} A folder on disk works too: give its path.",
        )
    return UserError(
        f"The weights of {source} (for example {weight}) are not on this machine and could not be fetched: "
        f"{type(error).__name__}.",
        hint=f"With a connection: `{fetch}`. Without: copy the model's folder here and give its path.",
    )


def _download(asked: re.Match[str]) -> str:
    return f"hf download {asked['id']}" + (f" --revision {asked['revision']}" if asked["revision"] else "")


def _read_json(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError("The model's settings are no JSON object.", where=str(path))
    for key, value in content.items():
        most = 1000 if "layers" in key else 100_000 if key == "num_train_timesteps" else 1 << 31
        if any(abs(number) > most for number in _integers(value)):  # it would be built before it is compared
            raise UserError(f"The model's settings ask for {key} {value!r:.60}.", where=str(path))
    return content


def _integers(value: Any) -> list[int]:
    if isinstance(value, list):
        return [number for item in value for number in _integers(item)]
    return [value] if isinstance(value, int) else []
