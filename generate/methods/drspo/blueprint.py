"""Stage one: the whole scroll, small, so that one look plans all of it (section 3.1.1, eq. 8)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from PIL import Image

from drspo.errors import UserError
from drspo.files.pictures import read_picture
from drspo.hashing import seed_from
from drspo.ranges import OwnScale, OwnSeed, OwnSide, OwnSteps
from generate.images.kept import Kept
from generate.methods import sdxl
from generate.models.family import ModelFamily
from generate.models.specs import ModelSpec
from generate.request import OWN, Callback, Generated, Request, Step, own


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """How the blueprint is made."""

    height: OwnSide = OWN
    """in pixels; -1: in proportion to the scroll, as the model's own sizes have it"""
    width: OwnSide = OWN
    """in pixels; -1: as height"""
    steps: OwnSteps = OWN
    """denoising steps; -1: the scroll's"""
    guidance_scale: OwnScale = OWN
    """of classifier-free guidance; -1: the scroll's"""
    seed: OwnSeed = OWN
    """decides its noise; -1: the scroll's"""
    sdxl: sdxl.Config = field(default_factory=sdxl.Config)
    """scheduler, micro-conditioning and the like"""


def blueprint_request(request: Request, settings: Blueprint, spec: ModelSpec) -> Request:
    """The request for a scroll's blueprint: same prompt and seed, other size.

    UserError where the size is no whole number of latents or has another aspect ratio than the scroll: the
    paper keeps one ratio k for both resolutions (section 3.1.2).
    """
    height = own(settings.height, request.height * spec.blueprint[0] // spec.scroll[0])
    width = own(settings.width, request.width * spec.blueprint[1] // spec.scroll[1])
    whole = all(side >= spec.factor and side % spec.factor == 0 for side in (height, width))
    if not whole or height * request.width != width * request.height:
        raise UserError(
            f"a scroll of {request.height}x{request.width} cannot have a blueprint of {height}x{width}: both "
            f"sides must be positive multiples of {spec.factor}, and the aspect ratio must be the scroll's",
            hint=_nearest(request, spec),
        )
    return replace(
        request,
        height=height,
        width=width,
        steps=own(settings.steps, request.steps),
        guidance_scale=own(settings.guidance_scale, request.guidance_scale),
        seed=own(settings.seed, request.seed),
    )


def candidate_seed(seed: int, number: int) -> int:
    """The seed of a scroll's blueprint number 1, 2, ...: the first one is the scroll's own."""
    return seed if number == 1 else seed_from("blueprint", seed, number)


@dataclass(frozen=True)
class Sketch:
    """A picture that somebody gives in the blueprint's place."""

    image: Image.Image
    name: str
    sha256: str


def read_sketch(path: str) -> Sketch:
    """The picture of a file, with the name and the hash that a scroll's record keeps; UserError as for any
    picture."""
    image = read_picture(path)
    return Sketch(image, PurePath(path).name, hashlib.sha256(Path(path).read_bytes()).hexdigest())


def check_sketch(size: tuple[int, int], request: Request) -> None:
    """UserError for a picture (width, height) that would have to be stretched or shrunk."""
    width, height = size
    if height * request.width != width * request.height or height > request.height:
        raise UserError(
            f"a picture of {height}x{width} is no blueprint for a scroll of "
            f"{request.height}x{request.width}: it must have the scroll's aspect ratio and be no larger",
            where="--blueprint",
            hint="Cut or scale it yourself, or ask for a scroll by --height and --width that it fits.",
        )


def _nearest(request: Request, spec: ModelSpec) -> str:
    unit = [spec.factor * s // b for s, b in zip(spec.scroll, spec.blueprint, strict=True)]
    height, width = (
        max(u, round(v / u) * u) for v, u in zip((request.height, request.width), unit, strict=True)
    )
    return f"A scroll of {height}x{width} can; or give --drspo.blueprint.height and --drspo.blueprint.width."


def draw_blueprint(
    family: ModelFamily,
    settings: Blueprint,
    request: Request,
    callback: Callback | None = None,
    request_index: int = 0,
    kept: Kept | None = None,
) -> Generated:
    """I_LR of a scroll's request: SDXL over the whole canvas at once, with whichever LoRA is active."""

    def watch(step: Step) -> None:
        if callback is not None:
            callback(replace(step, stage="blueprint", request_index=request_index))

    generator = sdxl.SDXL(family, settings.sdxl)
    small = blueprint_request(request, settings, family.spec)
    generator.kept = kept and kept.resized(small.height, small.width)
    return generator.generate([small], watch)[0]
