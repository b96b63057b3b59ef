"""The blueprint as an image prompt, through an IP-Adapter (DRSPO's eq. 33, the last row of its Table 2)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from PIL import Image
from torch import Tensor

from drspo.errors import UserError
from drspo.ranges import OwnScale
from generate.canvas.plan import Canvas
from generate.canvas.windows import scale as to_pixels
from generate.images.lineart import enlarge
from generate.models.family import ModelFamily
from generate.models.specs import ModelSpec
from generate.request import OWN, own

Shown = Literal["whole", "window"]


@dataclass(frozen=True, kw_only=True)
class ImagePrompt:
    """Whether windows are shown the blueprint, and how."""

    enabled: bool = False
    """show windows the blueprint beside the prompt, through the model's IP-Adapter (--ip-adapter)"""
    scale: OwnScale = OWN
    """how much the picture counts beside the text; -1: the model's own"""
    shown: Shown = "whole"
    """whole: all windows are shown the whole blueprint, as in the paper; window: each its own part of it"""


def require_adapter(family: ModelFamily, settings: ImagePrompt) -> None:
    """UserError where pictures are to be shown and the model was loaded without an IP-Adapter."""
    if settings.enabled and family.ip_adapter is None:
        raise UserError(
            "the model was loaded without an IP-Adapter, which shows windows a picture",
            hint="Load it with ip_adapter=True, or leave image_prompt off.",
        )


def in_force_scale(settings: ImagePrompt, spec: ModelSpec) -> ImagePrompt:
    """The settings with the model's own scale where none is set."""
    return replace(settings, scale=own(settings.scale, spec.image_scale))


@contextmanager
def picturing(
    family: ModelFamily, settings: ImagePrompt, canvas: Canvas, blueprint: Image.Image | None
) -> Iterator[Tensor | None]:
    """What the windows of a canvas are shown of a blueprint, for `OneStage.sample`, inside the block in which
    the UNet wears the adapter; None where nothing is shown."""
    if not settings.enabled or blueprint is None:
        yield None
        return
    require_adapter(family, settings)
    adapter = family.ip_adapter
    assert adapter is not None
    family.wake("text")
    shown = adapter.embed(pictures(settings.shown, canvas, blueprint)).to(family.device, family.dtype)
    with adapter.worn(family.unet, own(settings.scale, family.spec.image_scale)):
        yield shown


def pictures(shown: Shown, canvas: Canvas, blueprint: Image.Image) -> list[Image.Image]:
    """The one picture for all windows, or each window's part of it at the canvas's size."""
    if shown == "whole":
        return [blueprint]
    large = enlarge(blueprint, canvas.height * canvas.factor, canvas.width * canvas.factor)
    boxes = [to_pixels(window, canvas.factor) for window in canvas.windows]
    if any(box.x1 > large.width for box in boxes):  # the scroll is a ring
        ring = Image.new("RGB", (2 * large.width, large.height))
        for left in (0, large.width):
            ring.paste(large, (left, 0))
        large = ring
    return [large.crop((box.x0, box.y0, box.x1, box.y1)) for box in boxes]
