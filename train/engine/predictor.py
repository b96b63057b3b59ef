"""The one model call of the trainer: a network, a prompt and a timestep become a function of windows."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from drspo.errors import UserError
from generate.canvas.sizes import window_time_ids
from generate.canvas.windows import Window, scale
from generate.config import TimeIdsMode
from generate.models.denoisers.denoiser import Condition, Denoiser
from train.engine.problem import Predict


def check_network(family: Any) -> None:
    """Raises `UserError` for a family without LoRAs, and for a UNet that is told what training does not."""
    if family.kind in ("sd3", "flux"):
        return
    if family.unet is None:
        hint = "train SD, SDXL, SD 3 or FLUX"
        raise UserError(f"diffusers loads no LoRA into a model of kind {family.kind}", "--model", hint)
    config = family.unet.config
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
    time_ids: TimeIdsMode = "scroll",
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


def transformer_predictor(
    denoiser: Denoiser,
    t: float,
    prompt_embeds: Tensor,
    pooled: Tensor | None,
    canvas: tuple[int, int],
    *,
    factor: int = 8,
    time_ids: TimeIdsMode = "window",
    autocast: torch.dtype | None = None,
) -> Predict:
    """The same for a transformer, by the one that samplers evaluate; t counts to 1000.

    time_ids=crop gives each window its place on the canvas. A network that is told a guidance scale is told
    1, under which its prediction is that of the data.
    """
    condition = Condition(prompt_embeds, pooled)

    def predict(crops: Tensor, windows: list[Window]) -> Tensor:
        told = condition
        if time_ids != "window":
            sizes = window_time_ids(time_ids, canvas, [scale(window, factor) for window in windows])
            told = replace(condition, sizes=sizes)
        time = torch.tensor(t, device=crops.device)
        with torch.autocast(crops.device.type, autocast) if autocast else nullcontext():
            return denoiser(crops.to(prompt_embeds.dtype), time, told)

    return predict
