"""What a scroll's file says about how it was made: enough to make it again, byte for byte.

The record holds what decides the pixels and nothing else: no dates, no places, no timings. It is
JSON in a PNG text chunk named `drspo`, or in the EXIF image description of a lossless WebP.
"""

from __future__ import annotations

import io
import json
import struct
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from drspo.config import from_dict
from drspo.errors import UserError
from drspo.files.pictures import opened
from drspo.leaving import public_name
from generate.models.family import MODELS
from generate.request import Request

KEY = "drspo"
FORMATS = {".png": "PNG", ".webp": "WEBP"}
_EXIF_DESCRIPTION = 0x010E


# What a record's free parts hold, where they hold it: a stranger's may hold anything.
_OF_LORAS = (("path", str), ("weight", (int, float)), ("sha256", str))
_NUMBERS = ("threads", "window_batch", "upscale", "left", "right", "from", "to", "endless")
_OPTIONS: dict[str, Any] = dict.fromkeys(_NUMBERS, 0) | dict.fromkeys(
    ("device", "dtype", "revision", "controlnet", "controlnet_revision", "controlnet_fingerprint")
    + ("blueprint", "blueprint_sha256", "upscaler", "upscaler_network", "upscaler_sha256")
    + ("ip_adapter", "ip_adapter_sha256", "source", "source_sha256"),
    "",
)


@dataclass(frozen=True, kw_only=True)
class Record:
    """How one scroll was made."""

    request: Request
    model: str
    """A name of ours, a Hub id, or a folder's bare name: never where it lies."""
    fingerprint: str
    method: str
    settings: dict[str, Any]
    loras: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By stage ("blueprint", "highres", "all"): bare name (as "path"), weight and sha256 of the weights."""
    options: dict[str, Any] = field(default_factory=dict)
    """Device and dtype: other hardware rounds differently."""
    versions: dict[str, str] = field(default_factory=dict)

    def difference(self, other: Record) -> list[str]:
        """One line for every value in which the two differ, `other`'s value last."""
        return _differences(self.to_dict(), other.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON gives them back: tuples are lists."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Record:
        """The record that `to_dict` gave; ValueError when a part is missing or of the wrong kind."""
        try:
            found = from_dict(cls, values)
        except (UserError, TypeError) as error:
            raise ValueError(str(error)) from error
        loras = [(facts.get(name), kind) for facts in found.loras.values() for name, kind in _OF_LORAS]
        options = [(found.options.get(name, default), type(default)) for name, default in _OPTIONS.items()]
        for value, kind in (*loras, *options):
            if not isinstance(value, kind) or isinstance(value, bool):
                raise ValueError(f"{value!r:.80} is not of the right kind")
        return found


def versions() -> dict[str, str]:
    """The versions of everything whose arithmetic or encoding enters the bytes."""
    import platform
    from importlib.metadata import version

    import drspo

    packages = ("torch", "diffusers", "transformers", "pillow", "numpy", "opencv-python-headless")
    return {"drspo": drspo.__version__, "python": platform.python_version()} | {
        p: _version(version, p) for p in packages
    }


def _version(version: Any, package: str) -> str:
    from importlib.metadata import PackageNotFoundError

    try:
        return str(version(package))
    except PackageNotFoundError:  # OpenCV comes under several names
        return "unknown"


def written(record: Record) -> str:
    """The record as the ASCII text that a picture's file holds under `KEY`."""
    return json.dumps({"format": 1, **record.to_dict()}, sort_keys=True, ensure_ascii=True)


def encode(image: Image.Image, record: Record, suffix: str) -> bytes:
    """The bytes of the image file (".png" or ".webp", both lossless) with its record inside."""
    text = written(record)
    buffer = io.BytesIO()
    if suffix == ".png":
        chunks = PngImagePlugin.PngInfo()
        chunks.add_text(KEY, text, zip=False)
        image.save(buffer, "PNG", pnginfo=chunks, compress_level=6)
    elif suffix == ".webp":
        exif = Image.Exif()
        exif[_EXIF_DESCRIPTION] = text
        image.save(buffer, "WEBP", lossless=True, quality=50, method=2, exif=exif, exact=True)
    else:
        raise ValueError(f"no lossless format for {suffix!r}: {', '.join(FORMATS)}")
    return buffer.getvalue()


def read(path: Path) -> Record:
    """The record inside an image file; UserError when there is no such file, no image or no record."""
    try:
        return parse(path.read_bytes(), str(path))
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read", hint=str(error)) from error


def parse(data: bytes, where: str) -> Record:
    """The record inside an image's bytes; `where` only words the errors."""
    text = _text(data, where)
    if not text:
        raise UserError(
            f"{where} carries no record of how it was made",
            hint="Only files written by this program do; editors and chat programs strip it.",
        )
    try:
        values = json.loads(text)
        kind = values.pop("format")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise UserError(f"the record inside {where} is damaged", hint=str(error)) from error
    if kind != 1:
        raise UserError(f"the record inside {where} has format {kind}; this version reads format 1")
    try:
        return _named(Record.from_dict(values))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"the record inside {where} is damaged", hint=str(error)) from error


def model_name(source: str) -> str:
    """What a record calls a model: a name of ours, a Hub id, package:..., or a folder's bare name."""
    name = public_name(source)
    return f"{name} (a folder)" if name != source and name in MODELS else name


def adapter_name(source: str) -> str:
    """What a record calls an IP-Adapter: as a model, or a Hub id and the file in it."""
    repository, colon, inside = source.partition(":")
    if colon and repository != "package" and model_name(repository) == repository and "/" in repository:
        return source
    return model_name(source)


def lora_name(path: str) -> str:
    """What a record calls a LoRA, which always lies in a file: its bare name."""
    return public_name(path if "://" in path or path.startswith(("/", "~")) else f"./{path}")


def _named(record: Record) -> Record:
    """The record with names where older ones have places, which say nothing on another machine."""
    loras = {stage: {**facts, "path": lora_name(facts["path"])} for stage, facts in record.loras.items()}
    options = dict(record.options)
    for place in ("controlnet", "upscaler"):
        if place in options:
            options[place] = model_name(options[place])
    if "ip_adapter" in options:
        options["ip_adapter"] = adapter_name(options["ip_adapter"])
    return replace(record, model=model_name(record.model), loras=loras, options=options)


def _text(data: bytes, where: str) -> str:
    with opened(data, where) as image:
        try:
            return str(image.info.get(KEY) or image.getexif().get(_EXIF_DESCRIPTION) or "")
        except (OSError, SyntaxError, ValueError, struct.error) as error:
            raise UserError(f"{where} cannot be read as an image", hint=str(error)) from error


def _differences(one: Any, other: Any, where: str = "") -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted({*one, *other})
        return [
            line for k in keys for line in _differences(one.get(k), other.get(k), f"{where}.{k}".lstrip("."))
        ]
    return [] if one == other else [f"{where}: {one!r} -> {other!r}"]
