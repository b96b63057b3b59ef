"""Four nodes: a loaded model, a scroll, its blueprint alone, and a scroll along any picture.

ComfyUI calls a node's FUNCTION with the inputs that INPUT_TYPES names; a picture is a float tensor
[B, H, W, 3] in 0..1. The heavy imports are inside the functions, so that ComfyUI starts as fast as before.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

LARGEST_SEED = 2**53 - 1
"""The largest whole number that a browser keeps exactly."""
OWN = -1
"""The model's own number, as in every configuration of drspo."""
LARGEST_SIDE = 65536
"""Of a scroll in pixels; `_require_room` weighs height and width together."""
BYTES_PER_PIXEL = 24
"""Of what a node gives: the scroll and its line art, each as three 32-bit floats per pixel."""
CATEGORY = "DRSPO"
HANDLE = "DRSPO_MODEL"


def _number(default: float, low: float, high: float, tip: str, kind: str = "INT", step: float = 1) -> tuple:
    return (kind, {"default": default, "min": low, "max": high, "step": step, "tooltip": tip})


def _text(default: str, tip: str, multiline: bool = False) -> tuple:
    return ("STRING", {"default": default, "multiline": multiline, "tooltip": tip})


def _asked() -> dict[str, tuple]:
    """The inputs that say which scroll is meant."""
    seed = {"default": 0, "min": 0, "max": LARGEST_SEED, "control_after_generate": True}
    return {
        "model": (HANDLE, {"tooltip": "from DRSPO model"}),
        "prompt": _text("a lighthouse by the sea at dusk", "what the scroll shows", multiline=True),
        "negative_prompt": _text("", "what it should not show", multiline=True),
        "height": _number(OWN, OWN, LARGEST_SIDE, "of the scroll in pixels; -1: the model's own"),
        "width": _number(OWN, OWN, LARGEST_SIDE, "of the scroll in pixels; -1: the model's own"),
        "steps": _number(OWN, OWN, 1000, "denoising steps; -1: the model's own"),
        "guidance_scale": _number(OWN, OWN, 100, "-1: the model's own", "FLOAT", 0.1),
        "seed": ("INT", seed),
    }


class Model:
    """Loads a model with its ControlNet and the LoRAs of both stages."""

    CATEGORY, FUNCTION = CATEGORY, "load"
    RETURN_TYPES, RETURN_NAMES = (HANDLE,), ("model",)
    DESCRIPTION = "A base model, its canny ControlNet, and one LoRA for each stage."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        weight = _number(1.0, -10.0, 10.0, "how strongly LoRAs act", "FLOAT", 0.05)
        offload = {"default": False, "tooltip": "keep networks in host memory while they rest"}
        return {
            "required": {"name": _text("miniature", "miniature, sdxl, a Hub id, or a folder of diffusers")},
            "optional": {
                "lora_blueprint": _text("", "the folder or file of the blueprint stage's LoRA"),
                "lora_highres": _text("", "the folder or file of the high-resolution stage's LoRA"),
                "lora_weight": weight,
                "controlnet": _text("", "a Hub id or folder instead of the model's own"),
                "device": (["auto", "cpu", "cuda", "mps"], {"default": "auto"}),
                "offload": ("BOOLEAN", offload),
            },
        }

    @classmethod
    def IS_CHANGED(cls, lora_blueprint: str = "", lora_highres: str = "", **_: Any) -> str:
        """What ComfyUI compares beside the inputs: a LoRA that was trained on is loaded again."""
        from generate.program.session import lora_hash

        return " ".join(lora_hash(path) for path in (lora_blueprint, lora_highres) if path)

    def load(
        self,
        name: str,
        lora_blueprint: str = "",
        lora_highres: str = "",
        lora_weight: float = 1.0,
        controlnet: str = "",
        device: str = "auto",
        offload: bool = False,
    ) -> tuple[Any]:
        from generate.program.session import Setup, open_session

        loras = {"blueprint": lora_blueprint, "highres": lora_highres}
        setup = Setup(
            model=name,
            method="drspo",
            loras={stage: (path, lora_weight) for stage, path in loras.items() if path},
            controlnet=controlnet,
            device=device,
            offload=offload,
        )
        return (open_session(setup).generator,)


class Scroll:
    """A prompt to a scroll: the blueprint, its line art, and the windows along it."""

    CATEGORY, FUNCTION = CATEGORY, "make"
    RETURN_TYPES, RETURN_NAMES = ("IMAGE", "IMAGE", "IMAGE"), ("scroll", "blueprint", "lines")
    DESCRIPTION = "A long scroll from a prompt: a small plan of the whole, then windows that paint along it."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": _asked()}

    def make(self, model: Any, **asked: Any) -> tuple[Any, Any, Any]:
        request = _request(model, **asked)
        made = model.generate([request], _watch(model.count_steps(request)))[0]
        return tuple(map(_tensor, (made.image, made.extras["blueprint"], made.extras["lines"])))  # type: ignore[return-value]


class Blueprint:
    """The small plan of a scroll alone: cheap, so that one is found before the windows are painted."""

    CATEGORY, FUNCTION = CATEGORY, "draw"
    RETURN_TYPES, RETURN_NAMES = ("IMAGE",), ("blueprint",)
    DESCRIPTION = "The plan of a scroll. Height and width are those of the scroll that will follow it."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": _asked()}

    def draw(self, model: Any, **asked: Any) -> tuple[Any]:
        request = _request(model, **asked)
        return (_tensor(model.draw(request, _watch(_planned(model, request))).image),)


class PaintAlong:
    """Any picture of the scroll's aspect ratio to a scroll that follows its line art."""

    CATEGORY, FUNCTION = CATEGORY, "paint"
    RETURN_TYPES, RETURN_NAMES = ("IMAGE", "IMAGE"), ("scroll", "lines")
    DESCRIPTION = "A scroll along a picture: a blueprint, a sketch, a photograph, no larger than the scroll."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        picture = {"picture": ("IMAGE", {"tooltip": "of the scroll's aspect ratio, and no larger"})}
        return {"required": picture | _asked()}

    def paint(self, picture: Any, model: Any, **asked: Any) -> tuple[Any, Any]:
        from generate.methods.drspo.blueprint import check_sketch

        request, images = _request(model, **asked), _images(picture)
        for image in images:
            check_sketch(image.size, request)
        steps = model.count_steps(request) - _planned(model, request)
        watch = _watch(steps * len(images))
        made = [model.paint(request, image, watch) for image in images]
        return _tensors([m.image for m in made]), _tensors([m.extras["lines"] for m in made])


def _request(model: Any, prompt: str, negative_prompt: str, seed: int, **numbers: float) -> Any:
    from generate.request import Request, own

    spec = model.family.spec
    request = Request(
        prompt=prompt,
        negative_prompt=negative_prompt,
        seed=seed,
        height=own(int(numbers["height"]), spec.scroll[0]),
        width=own(int(numbers["width"]), spec.scroll[1]),
        steps=own(int(numbers["steps"]), spec.steps),
        guidance_scale=own(float(numbers["guidance_scale"]), spec.guidance_scale),
    )
    _require_room(request.height, request.width)
    model.check([request])
    return request


def _require_room(height: int, width: int) -> None:
    """UserError for pictures that this machine could not hold: the whole server would die of them."""
    import psutil

    from drspo.errors import UserError

    needed, free = height * width * BYTES_PER_PIXEL, psutil.virtual_memory().available
    if needed > free:
        raise UserError(
            f"a scroll of {height}x{width} and its line art take {needed / 2**30:.0f} GiB as ComfyUI hands "
            f"pictures on, and {free / 2**30:.0f} GiB are free",
            hint="Ask for a smaller scroll; `python -m generate --endless` paints long ones in flat memory.",
        )


def _planned(model: Any, request: Any) -> int:
    """How many steps the blueprint of a scroll takes."""
    from generate.methods.drspo.blueprint import blueprint_request
    from generate.methods.sdxl import SDXL

    first = blueprint_request(request, model.blueprint, model.family.spec)
    return SDXL(model.family, model.blueprint.sdxl).count_steps(first)


def _watch(steps: int) -> Callable[[Any], None]:
    """Moves ComfyUI's bar at every step and stops where its stop button was pressed."""
    stop: Callable[[], None] | None = None
    bar = None
    with suppress(ModuleNotFoundError):  # called from a program that is not ComfyUI
        from comfy.model_management import throw_exception_if_processing_interrupted as stop
        from comfy.utils import ProgressBar

        bar = ProgressBar(steps)

    def watch(step: Any) -> None:
        if stop is not None:
            stop()
        if bar is not None:
            bar.update(1)

    return watch


def _tensor(image: Any) -> Any:
    return _tensors([image])


def _tensors(images: list[Any]) -> Any:
    import numpy as np
    import torch

    return torch.from_numpy(np.stack([np.asarray(i.convert("RGB"), np.float32) / 255 for i in images]))


def _images(batch: Any) -> list[Any]:
    """The pictures of a batch [B, H, W, C]; UserError for what is none, or has transparent parts."""
    import torch
    from PIL import Image

    from drspo.errors import UserError

    if batch.ndim != 4 or batch.shape[-1] != 3:
        raise UserError(
            f"a picture is [B, H, W, 3] in ComfyUI, not {list(batch.shape)}",
            hint="Where it has an alpha channel, set it on a background first.",
        )
    if not torch.isfinite(batch).all():
        raise UserError("this picture holds values that are no numbers")
    pixels = (batch.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return [Image.fromarray(one) for one in pixels]
