"""A scroll to go on with: `--extend` and `--repaint`, checked before anything is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from PIL import Image

from drspo.errors import UserError
from drspo.files.pictures import opened, read_picture
from generate.canvas.strips import own_width, strips_to_right
from generate.methods.continued import Change
from generate.models.specs import ModelSpec
from generate.program.config import Config
from generate.program.metadata import read
from generate.request import OWN, Request


@dataclass(frozen=True)
class Source:
    """The picture, what becomes of it, and what a record says about it."""

    image: Image.Image
    change: Change
    name: str

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the scroll as it will be."""
        return self.image.height, self.image.width + self.change.left + self.change.right

    def facts(self) -> dict[str, Any]:
        """Bare name, SHA-256 of size and pixels, and the columns."""
        digest = hashlib.sha256(f"{self.image.size}".encode() + self.image.tobytes()).hexdigest()
        change = self.change
        sides = {"left": change.left, "right": change.right}
        where = sides if change.extends else {"from": change.start, "to": change.stop}
        return {"source": self.name, "source_sha256": digest, **where}


def read_source(config: Config) -> Source | None:
    """What the command goes on with; UserError for options that exclude each other and columns it lacks."""
    path = config.extend or config.repaint
    columns = {"--left": config.left, "--right": config.right}
    inside = {"--from": config.repaint_from, "--to": config.repaint_to}
    if config.extend and config.repaint:
        raise UserError("a scroll is extended or repainted, not both at once", "--repaint")
    for flag, value in (columns if not config.extend else {}).items():
        if value:
            raise UserError(f"{flag} adds columns, and no scroll is extended", flag, "Give --extend SCROLL.")
    for flag, value in (inside if not config.repaint else {}).items():
        if value:
            raise UserError(f"{flag} names columns, and none are repainted", flag, "Give --repaint SCROLL.")
    if not path:
        return None
    image = _plain(path)
    change = Change(left=config.left, right=config.right, start=config.repaint_from, stop=config.repaint_to)
    if not config.like:
        _check(config, image, change)
    elif change != Change():
        hint = "Leave the columns out."
        raise UserError("the columns stand in the scroll's record", "--like", hint)
    return Source(image, change, PurePath(path).name)


def _check(config: Config, image: Image.Image, change: Change) -> None:
    if config.extend and not change.extends:
        raise UserError("by how much?", "--extend", "Give --right COLUMNS, --left COLUMNS, or both.")
    if config.repaint and not change.start < change.stop <= image.width:
        raise UserError(
            f"no columns from {change.start} to {change.stop} in a scroll {image.width} wide",
            "--repaint",
            "Give --from and --to in pixels, from left to right.",
        )
    for flag, given, own in (
        ("--height", config.height, image.height),
        ("--width", config.width, image.width + change.left + change.right),
    ):
        if given not in (OWN, own):
            hint = "Leave it out: the size is the scroll's."
            raise UserError(f"the scroll will be {own} pixels {_word(flag)}, not {given}", flag, hint)
    excluded = {
        "--upscale": config.upscale != 1,
        "--blueprint": bool(config.blueprint),
        "--blueprints": bool(config.blueprints),
        "--save-steps": config.save_steps,
    }
    for flag, given in excluded.items():
        if given:
            raise UserError("a scroll that is gone on with takes none", flag, "Leave it out.")
    if config.along and not change.extends:
        raise UserError("what is repainted has one prompt", "--along", "Repaint passage by passage.")


def canvases_of(source: Source | None, request: Request, spec: ModelSpec) -> list[Request]:
    """The request at the size of each canvas, of a scroll that goes on or of an endless one.

    UserError for columns that the model cannot add or paint anew.
    """
    if source is None:
        own = own_width(spec, request.height)
        more = request.width - own
        strips = strips_to_right(spec, request.height, own, more, fixed=False) if more > 0 else []
        return [replace(request, width=width) for width in (own, *(s.right - s.left for s in strips))]
    strips = source.change.strips(spec, source.image.height, source.image.width)
    return [replace(request, height=source.size[0], width=s.right - s.left) for s in strips]


def own_prompt(config: Config) -> tuple[str, ...]:
    """The prompt in the scroll's own record, for going on without another one."""
    record = read(Path(config.extend or config.repaint))
    if record.request.along:
        raise UserError("the scroll has a prompt for each part", where="--extend", hint="Give a prompt.")
    return (record.request.prompt,)


def source_like(options: Mapping[str, Any], given: Source | None) -> Source | None:
    """What a record's scroll went on with, from the picture that is given now; UserError without one."""
    name = options.get("source", "")
    if not name:
        if given is not None:
            raise UserError(
                "that scroll goes on with no other", "--like", "Leave --extend and --repaint out."
            )
        return None
    flag = "--repaint" if "to" in options else "--extend"
    if given is None:
        raise UserError(
            f"that scroll goes on with one called {name}, and a file never says where it lay",
            where="--like",
            hint=f"Say where it lies here: {flag} PATH. Its pixels are compared.",
        )
    change = Change(
        left=options.get("left", 0), right=options.get("right", 0),
        start=options.get("from", 0), stop=options.get("to", 0),
    )  # fmt: skip
    return Source(given.image, change, name)


def _plain(path: str) -> Image.Image:
    """The picture, whose every pixel stays: UserError for one that is not 8-bit RGB as it lies."""
    with opened(path) as image:
        turned = image.getexif().get(0x0112, 1) not in (0, 1)
        if image.mode != "RGB" or turned or "transparency" in image.info:
            raise UserError(
                "only upright RGB pictures of 8 bits a channel can stay as they are",
                path,
                "Convert it first.",
            )
    return read_picture(path)


def _word(flag: str) -> str:
    return {"--height": "high", "--width": "wide"}[flag]
