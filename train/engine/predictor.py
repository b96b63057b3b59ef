"""The one model call of the trainer: a UNet, a prompt and a timestep become a function of windows."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

from drspo.errors import UserError
from generate.canvas.sizes import window_time_ids
from generate.canvas.windows import Window, scale
from train.engine.problem import Predict


def check_network(unet: Any) -> None:
    """Raises `UserError` for a transformer, and for a UNet that is told what training does not tell it."""
    if unet is None:
        hint = "train SD or SDXL; direct, multidiffusion and drspo paint with it"
        raise UserError("this model is a transformer, and only UNets are trained", "--model", hint)
    config = unet.config
    if getattr(config, "time_cond_proj_dim", None) is not None:
        raise UserError(
            "the UNet is told its guidance scale, as distilled ones are (latent consistency models)",
            "--model",
            "train the model that it was distilled from",
        )
    if getattr(config, "addition_embed_type", None) not in (None, "text_time"):
        raise UserError(f"the UNet wants {config.addition_embed_type!r}, which is not known here", "--model")


def window_predictor(
    unet: Any,
    t: float,
    prompt_embeds: Tensor,
    pooled: Tensor | None,
    canvas: tuple[int, int],
    *,
    factor: int = 8,
    time_ids: Literal["scroll", "window", "crop"] = "scroll",
    autocast: torch.dtype | None = None,
) -> Predict:
    """predict(crops [n, C, h, w], windows in latents) -> [n, C, h, w] for one prompt at one timestep.

    prompt_embeds [1, L, d] in the network's own number format; pooled [1, p] for SDXL, None for SD; canvas in
    pixels, `factor` of them along a latent; autocast: the base's half type, so that float32 adapters do not
    keep float32 copies of every input. Micro-conditioning is as in sampling.
    """

    def predict(crops: Tensor, windows: list[Window]) -> Tensor:
        count, device = len(windows), crops.device
        extra = None
        if pooled is not None:
            ids = window_time_ids(time_ids, canvas, [scale(window, factor) for window in windows])
            extra = {"text_embeds": pooled.expand(count, -1), "time_ids": ids.to(device, prompt_embeds.dtype)}
        times = torch.full((count,), t, device=device, dtype=torch.float32 if t % 1 else torch.long)
        with torch.autocast(device.type, autocast) if autocast else nullcontext():
            return unet(
                crops.to(prompt_embeds.dtype),
                times,
                prompt_embeds.expand(count, -1, -1),
                added_cond_kwargs=extra,
                return_dict=False,
            )[0]

    return predict
