"""IP-Adapters: pictures as prompts beside the text (Ye et al. 2023; DRSPO's eq. 33).

Files have the layout of the published ones, `image_proj.*` and `ip_adapter.N.to_k_ip.weight`; the plain and
the "plus" kind are known. diffusers converts them; here they are found, checked before anything is loaded,
and worn only while they are wanted.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from drspo.errors import UserError
from drspo.registry import package_folder
from generate.models.hub import HUB_ID, fetch
from generate.models.image_encoder import EncoderShape, ImageEncoder, encoder_shape, load_image_encoder
from generate.models.weights import Checkpoint, tensor_names

WHERE = "--ip-adapter"
FILE = "ip-adapter.safetensors"
"""The file's name where a folder is given."""
PUBLISHED = {
    "sdxl": "h94/IP-Adapter:sdxl_models/ip-adapter_sdxl.safetensors",
    "sd": "h94/IP-Adapter:models/ip-adapter_sd15.safetensors",
}
ENCODERS = ("image_encoder", "../models/image_encoder", "../sdxl_models/image_encoder")
"""Where the tower of an adapter may lie, seen from the adapter's folder: as they are published."""
PLAIN, PLUS = "image_proj.proj.weight", "image_proj.latents"


@dataclass(frozen=True)
class AdapterFiles:
    """An adapter and its image tower on this machine, checked to be of this base."""

    source: str
    file: Path
    encoder: EncoderShape
    plus: bool
    """whether it looks at the tower's tokens instead of its embedding"""

    @property
    def sha256(self) -> str:
        """Of both files' contents, one after the other."""
        digest = hashlib.sha256()
        for path in (self.file, self.encoder.weights):
            with path.open("rb") as opened:
                while block := opened.read(1 << 24):
                    digest.update(block)
        return digest.hexdigest()


@dataclass
class IPAdapter:
    """An adapter that a UNet can wear."""

    files: AdapterFiles
    sha256: str
    projection: Any
    processors: dict[str, Any]
    encoder: ImageEncoder

    def embed(self, pictures: Sequence[Image.Image]) -> Tensor:
        """What the UNet is told of the pictures: [2n, 1, d], or [2n, 1, T, d] of "plus" ones.

        The first n are those of no picture: zeros, or the tokens of a grey one, as adapters are trained.
        """
        pixels = self.encoder.pixels(pictures)
        if self.files.plus:
            none = self.encoder.tokens(torch.zeros_like(pixels[:1])).repeat(len(pixels), 1, 1)
            return torch.cat([none, self.encoder.tokens(pixels)])[:, None]
        seen = self.encoder.embeddings(pixels)
        return torch.cat([torch.zeros_like(seen), seen])[:, None]

    @contextmanager
    def worn(self, unet: Any, scale: float) -> Iterator[None]:
        """The UNet with this adapter inside the block, pictures counting by `scale`; then as it was."""
        before, projection = dict(unet.attn_processors), unet.encoder_hid_proj
        kind = unet.config.encoder_hid_dim_type
        for processor in self.processors.values():
            if isinstance(processor, torch.nn.Module):
                processor.scale = [scale]
                processor.to(unet.device)
        self.projection.to(unet.device)
        try:
            _dress(unet, self.processors, self.projection, "ip_image_proj")
            yield
        finally:
            _dress(unet, before, projection, kind)


def _dress(unet: Any, processors: dict[str, Any], projection: Any, kind: str | None) -> None:
    """Puts processors and projection on a UNet; processors first, since a projection may have some itself."""
    unet.encoder_hid_proj = None
    unet.set_attn_processor(dict(processors))
    unet.encoder_hid_proj = projection
    unet.register_to_config(encoder_hid_dim_type=kind)


def locate_ip_adapter(source: str, encoder: str, base: Checkpoint) -> AdapterFiles:
    """The files of an adapter for this base; "" is the published one of the base's kind.

    `source` is a .safetensors file, a folder or package with `ip-adapter.safetensors`, or a Hub id and a file
    in it, `owner/name:folder/file.safetensors`. `encoder` is the folder of its image tower in the same
    notation; "" looks where the published ones lie. UserError for what is missing or of another model, before
    the weights of either are read.
    """
    if base.kind not in PUBLISHED:
        raise UserError(f"no IP-Adapter fits {base.source}: they are made for UNets", WHERE)
    source = source or PUBLISHED[base.kind]
    file = _file(source)
    shapes = _shapes(file)
    plus = PLUS in shapes
    wanted = shapes["image_proj.proj_in.weight" if plus else PLAIN][1]
    _require_base(source, shapes, base)
    found = _encoder(encoder, source, file, plus, wanted)
    return AdapterFiles(source=source, file=file, encoder=found, plus=plus)


def load_ip_adapter(files: AdapterFiles, unet: Any, device: torch.device, dtype: torch.dtype) -> IPAdapter:
    """The adapter for a loaded UNet, which is left as it was. UserError for a layout that is not known."""
    state: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    with safe_open(files.file, "pt") as opened:
        for name in opened.keys():  # noqa: SIM118
            part, _, key = name.partition(".")
            state[part][key] = opened.get_tensor(name)
    before, kind, projection = dict(unet.attn_processors), unet.config.encoder_hid_dim_type, None
    try:
        unet._load_ip_adapter_weights([state], low_cpu_mem_usage=False)
        projection, unet.encoder_hid_proj = unet.encoder_hid_proj, None
        processors = dict(unet.attn_processors)
    except (ValueError, KeyError, RuntimeError, TypeError) as error:  # the converter's own checks
        said = str(error).partition("\n")[0][:200]
        raise UserError(f"the layout of {files.source} is not known: {said}", WHERE) from error
    finally:
        _dress(unet, before, None, kind)
    for module in (projection, *processors.values()):
        if isinstance(module, torch.nn.Module):
            module.requires_grad_(False).eval().to(device, dtype)
    encoder = load_image_encoder(files.encoder, device, dtype)
    return IPAdapter(files, files.sha256, projection, processors, encoder)


def _file(source: str) -> Path:
    """The adapter's file, from the Hub where it is named there."""
    if source.startswith("package:"):
        path = package_folder(source) / FILE
    else:
        path = Path(source).expanduser()
        path = path / FILE if path.is_dir() else path
    if path.is_file():
        if path.suffix != ".safetensors":
            raise UserError(f"{path} is not a .safetensors file; others can run code when they are opened.")
        return path
    repository, colon, inside = source.partition(":")
    if not colon or HUB_ID.fullmatch(repository) is None or not inside.endswith(".safetensors"):
        raise UserError(
            f"there is no IP-Adapter at {source}",
            WHERE,
            "Give a .safetensors file, or one on the Hub: owner/name:folder/file.safetensors.",
        )
    return fetch(repository, [], [[inside]], lambda found: _present(found / inside), ()) / inside


def _present(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path} is missing")


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Each tensor's shape, from the file's header; UserError for a file of another kind."""
    names = tensor_names(file)
    with safe_open(file, "pt") as opened:
        shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in names}
    known = all(name.startswith(("image_proj.", "ip_adapter.")) for name in names)
    plain = len(shapes.get(PLAIN, ())) == 2
    plus = len(shapes.get(PLUS, ())) == 3 and len(shapes.get("image_proj.proj_in.weight", ())) == 2
    if not known or plain == plus:
        raise UserError(
            f"{file.name} is no IP-Adapter of the plain or the plus kind",
            WHERE,
            "Those for faces look at something else than a scene.",
        )
    return shapes


def _require_base(source: str, shapes: dict[str, tuple[int, ...]], base: Checkpoint) -> None:
    """UserError unless every cross-attention layer of the base has its keys and values in the file."""
    wanted = _layers(base)
    for number, (name, width, tokens) in enumerate(wanted):
        for side in ("k", "v"):
            key = f"ip_adapter.{2 * number + 1}.to_{side}_ip.weight"
            if shapes.get(key) != (width, tokens):
                has = "nothing" if key not in shapes else "x".join(map(str, shapes[key]))
                raise UserError(
                    f"{source} is an adapter for another model than {base.source}: "
                    f"{name} needs {width}x{tokens}, the adapter has {has}",
                    WHERE,
                    "Choose the adapter that was trained for this base model.",
                )
    extra = sum(key.startswith("ip_adapter.") for key in shapes) - 2 * len(wanted)
    if extra > 0:
        raise UserError(
            f"{source} is an adapter for another model than {base.source}: it has {extra // 2} more layers",
            WHERE,
            "Choose the adapter that was trained for this base model.",
        )


def _layers(base: Checkpoint) -> list[tuple[str, int, int]]:
    """(name, width, width of the text) of the cross-attention layers, from the settings alone."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(base.config("unet"))
    found = []
    for name in unet.attn_processors:
        layer = unet.get_submodule(name.removesuffix(".processor"))
        if layer.is_cross_attention:
            found.append((name.removesuffix(".processor"), layer.to_k.out_features, layer.to_k.in_features))
    return found


def _encoder(given: str, source: str, file: Path, plus: bool, wanted: int) -> EncoderShape:
    """The tower whose numbers the adapter takes; UserError where none of them does."""
    places = iter([encoder_shape(_encoder_folder(given))]) if given else _beside(source, file)
    shapes = []
    for shape in places:  # one after the other: on the Hub they are large
        if (shape.hidden if plus else shape.embedding) == wanted:
            return shape
        shapes.append(shape)
    gives = ", ".join(str(shape.hidden if plus else shape.embedding) for shape in shapes)
    raise UserError(
        f"{source} looks at {wanted} numbers of a picture, and "
        + (f"the image encoder gives {gives}" if shapes else "no image encoder lies beside it"),
        "--image-encoder",
        "Give the folder of the CLIP's image tower that it was trained with.",
    )


def _encoder_folder(given: str) -> Path:
    if given.startswith("package:"):
        return package_folder(given)
    folder = Path(given).expanduser()
    repository, colon, inside = given.partition(":")
    if folder.is_dir() or HUB_ID.fullmatch(repository) is None:
        return folder
    return _fetched(repository, inside if colon else "")


def _beside(source: str, file: Path) -> Iterator[EncoderShape]:
    """The towers that lie where published ones do, seen from the adapter."""
    repository, colon, inside = source.partition(":")
    remote = bool(colon) and not source.startswith("package:") and not Path(source).exists()
    for place in ENCODERS:
        if remote:
            parent = inside.rpartition("/")[0]
            yield encoder_shape(_fetched(repository, re.sub(r"^[^/]*/\.\./", "", f"{parent}/{place}")))
        elif (folder := file.parent / place).is_dir():
            yield encoder_shape(folder)


def _fetched(repository: str, inside: str) -> Path:
    prefix = f"{inside}/" if inside else ""
    root = fetch(
        repository,
        [f"{prefix}config.json"],
        [[f"{prefix}model.safetensors"]],
        lambda found: _present(found / inside / "model.safetensors"),
        (),
    )
    return root / inside
