"""Where a checkpoint's files lie: packages, folders and the Hub; said clearly when they are missing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from drspo.errors import UserError
from drspo.files.texts import read_json
from drspo.registry import package_folder
from generate.models.hub import download_command, fetch

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
    "StableDiffusion3Pipeline": "sd3",
    "StableDiffusion3Img2ImgPipeline": "sd3",
    "StableDiffusion3ControlNetPipeline": "sd3",
    "FluxPipeline": "flux",
    "FluxImg2ImgPipeline": "flux",
    "FluxControlNetPipeline": "flux",
    "PixArtAlphaPipeline": "pixart",
    "PixArtSigmaPipeline": "pixart",
}
"""Pipelines whose folders hold these networks; what the pipeline does with them is not asked."""
OTHER = "other"
"""Any further pipeline of diffusers: only the method `direct` takes it, as it is."""
TEXT_PARTS = {"sd": ("text_encoder",), "sdxl": ("text_encoder", "text_encoder_2")}
PARTS = (
    *("unet", "transformer", "vae", "vqvae", "text_encoder", "text_encoder_2", "text_encoder_3"),
    *("text_encoder_4", "prior", "decoder", "image_encoder"),
)
"""Folders with weights that pipelines have."""
SETTINGS = ("*.json", "*.txt", "*.model")
CONVERT = """Make a folder of it once, where the Hub can be reached, and give that folder:
  python -c "from diffusers import StableDiffusionXLPipeline as P; \
    P.from_single_file('{path}').save_pretrained('FOLDER')"
  (StableDiffusionPipeline for SD 1 and 2; without a connection, config='A FOLDER OF THE SAME KIND' too)."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's folder on this machine with all its files present."""

    source: str
    folder: Path
    kind: str
    """"sd", "sdxl", "sd3", "flux", "pixart", "other", or "single" for one network such as a ControlNet."""
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
        return _text_parts(self.kind, self.index)

    @property
    def network(self) -> str:
        """The folder of what denoises."""
        return "unet" if self.kind in TEXT_PARTS else "transformer"

    @property
    def zero_empty_negative(self) -> bool:
        return self.kind == "sdxl" and bool(self.index.get("force_zeros_for_empty_prompt", True))

    def scheduler_config(self) -> dict[str, Any]:
        return _read_json(self.folder / "scheduler" / "scheduler_config.json", infinite=True)

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
        parts = [""] if single else [*PARTS]
        weights = [_candidates(part, prefer_half) for part in parts]
        folder = fetch(
            source,
            ["config.json"] if single else _settings(parts),
            weights,
            lambda found: _checked(source, found, prefer_half, single),
            known,
        )
        # The Hub's cache names its folders by the commit.
        return replace(_checked(source, folder, prefer_half, single), commit=folder.name)
    return _checked(source, folder, prefer_half, single)


def locate_denoiser(source: str, base: Checkpoint) -> Checkpoint:
    """Another UNet or transformer for a checkpoint: a Hub id or folder that is one, or that has one in it.

    UserError where there is none, or one of another class.
    """
    cls, half = str(base.config(base.network)["_class_name"]), bool(base.variant(base.network))

    def inside(folder: Path) -> Checkpoint:
        own = folder / base.network
        return _checked(source, own if own.is_dir() else folder, half, cls)

    if Path(source).expanduser().is_dir():
        return inside(Path(source).expanduser())
    _refuse_single_file(source)
    weights = [[*_candidates(base.network, half), *_candidates("", half)]]
    settings = [f"{base.network}/config.json", "config.json"]
    folder = fetch(source, settings, weights, inside, ())
    return replace(inside(folder), commit=folder.name)


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
    kind = _kind(source, index)
    if kind == OTHER:
        present = [part for part in PARTS if _present(index, part)]
        files = {part: _weight_file(source, folder, part, prefer_half) for part in present}
        return Checkpoint(source, folder, kind, files)
    if kind in TEXT_PARTS:
        _require_plain_input(source, folder)
    texts, network = _text_parts(kind, index), "unet" if kind in TEXT_PARTS else "transformer"
    files = {part: _weight_file(source, folder, part, prefer_half) for part in (network, "vae", *texts)}
    for part in texts:
        _require(source, folder, part.replace("text_encoder", "tokenizer") + "/tokenizer_config.json")
    _require(source, folder, "scheduler/scheduler_config.json")
    return Checkpoint(source, folder, kind, files)


def _kind(source: str, index: dict[str, Any]) -> str:
    """What a pipeline's class says that its folder holds; UserError for what is no pipeline of diffusers."""
    import diffusers

    name = str(index.get("_class_name", ""))
    if name not in KINDS:
        cls = getattr(diffusers, name, None)
        if isinstance(cls, type) and issubclass(cls, diffusers.DiffusionPipeline):
            return OTHER
        _require_class(source, index, set(KINDS))
    return KINDS[name]


def _present(index: dict[str, Any], part: str) -> bool:
    """Whether a pipeline has this part: some are left out, as [null, null]."""
    named = index.get(part)
    return isinstance(named, list) and bool(named) and named[0] is not None


def _text_parts(kind: str, index: dict[str, Any]) -> tuple[str, ...]:
    if kind in TEXT_PARTS:
        return TEXT_PARTS[kind]
    return tuple(part for part in PARTS if part.startswith("text_encoder") and _present(index, part))


def _weight_file(source: str, folder: Path, part: str, prefer_half: bool) -> str:
    found = [name for name in _candidates(part, prefer_half) if (folder / name).exists()]
    if not found:
        raise _missing(source, folder, _candidates(part, False)[0])
    if found[0].endswith(".safetensors"):
        tensor_names(folder / found[0])
    return found[0]


def tensor_names(file: Path) -> list[str]:
    """The names of a safetensors file's tensors; UserError when it is cut short or no such file at all."""
    try:
        with safe_open(file, framework="pt") as opened:
            return list(opened.keys())
    except (SafetensorError, OSError) as error:
        with file.open("rb") as content:
            pointer = content.read(8) == b"version "
        raise UserError(
            f"{file} is a Git LFS pointer, not the weights" if pointer else f"{file} is damaged: {error}",
            hint="Fetch the file itself: git lfs pull." if pointer else "Fetch it again.",
        ) from error


def _candidates(part: str, prefer_half: bool) -> list[str]:
    stem = "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"
    prefix = f"{part}/" if part else ""
    full = [f"{prefix}{stem}.safetensors", f"{prefix}{stem}.safetensors.index.json"]
    half = [f"{prefix}{stem}.fp16.safetensors", f"{prefix}{stem}.safetensors.index.fp16.json"]
    return half + full if prefer_half else full + half


def _settings(parts: list[str]) -> list[str]:
    folders = [*parts, "tokenizer", "tokenizer_2", "tokenizer_3", "scheduler"]
    return ["model_index.json", *(f"{folder}/{pattern}" for folder in folders for pattern in SETTINGS)]


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
    download = download_command(source)
    hint = f"{download} {name}" if download else f"Put the file at {folder / name}."
    return UserError(f"The file {name} of the model {source} is missing.", where=str(folder), hint=hint)


def _read_json(path: Path, *, infinite: bool = False) -> dict[str, Any]:
    content = read_json(path, infinite=infinite)
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
