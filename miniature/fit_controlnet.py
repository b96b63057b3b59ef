"""The canny ControlNet: learns from windows of whole scrolls, where edges alone tell what a window holds.

The UNet is frozen and has only seen pictures with a subject. A window of a scroll mostly has none, and its
edges say so: this is what lets the ControlNet keep windows from painting a subject each.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from torch import Tensor

from miniature.captions import captions
from miniature.fit_unet import DROP, add_noise, added, build_scheduler, weighted_error
from miniature.latents import TextStack, kept, picture_latents
from miniature.loop import Task, train
from miniature.pictures import SCROLL, SQUARE, painted, scene_of
from miniature.widen import widened

STEPS = 2000
WIDE_STEPS = 1000
BATCH = 16
COUNT = 2000
WINDOW = SQUARE[0]
LOW, HIGH = 100, 200  # Canny's thresholds, as SDXL's own ControlNet was trained with


def build_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    """A ControlNet that starts as the UNet's encoder and changes nothing."""
    return ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16, 24, 32))


def fit_controlnet(
    unet: UNet2DConditionModel, vae: AutoencoderKL, text: TextStack, work: Path, steps: int = STEPS
) -> ControlNetModel:
    """Trains the small UNet's ControlNet, with the UNet frozen."""
    torch.manual_seed(7)
    model = build_controlnet(unet.requires_grad_(False).eval()).requires_grad_(True)
    loss = _loss(model, unet, vae, text, work)
    return train(Task("controlnet", model, loss, steps, rate=1e-3, warmup=200, average=0.998), work)


def fit_wide_controlnet(
    small: ControlNetModel,
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    text: TextStack,
    work: Path,
    steps: int = WIDE_STEPS,
) -> ControlNetModel:
    """Trains on from the small ControlNet at the wide UNet's width, products in bfloat16."""
    model = widened(small).requires_grad_(True)
    loss = _loss(model, unet.requires_grad_(False).eval(), vae, text, work)

    def in_bfloat16(step: int) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return loss(step)

    task = Task("controlnet-wide", model, in_bfloat16, steps, rate=4e-4, warmup=100, average=0.998)
    return train(task, work)


def _loss(
    model: ControlNetModel, unet: UNet2DConditionModel, vae: AutoencoderKL, text: TextStack, work: Path
) -> Callable[[int], Tensor]:
    """The loss of a step: the noise in windows of scrolls, predicted with their edges known."""
    pictures = painted(SCROLL, COUNT, work)
    latents = kept(work / "latents-scrolls.npy", COUNT, lambda part: picture_latents(vae, pictures[part]))
    signal = build_scheduler().alphas_cumprod

    def loss(step: int) -> Tensor:
        windows, edges, texts = draw(pictures, latents, step)
        hidden, pooled = text.embed(texts)
        said = (torch.rand(BATCH) >= DROP).float()
        hidden, conditions = hidden * said[:, None, None], added(pooled * said[:, None], SQUARE)
        noisy, noise, times = add_noise(windows, signal)
        down, mid = model(noisy, times, hidden, edges, added_cond_kwargs=conditions, return_dict=False)
        predicted = unet(
            noisy, times, hidden, added_cond_kwargs=conditions,
            down_block_additional_residuals=down, mid_block_additional_residual=mid,
        ).sample  # fmt: skip
        return weighted_error(predicted.float(), noise, signal[times])

    return loss


def draw(pictures: np.ndarray, latents: np.ndarray, step: int) -> tuple[Tensor, Tensor, list[str]]:
    """Windows of scrolls: latents, edge pictures (count x 3 x 128 x 128, 0..1) and the scroll's captions."""
    rng = np.random.default_rng([step, 36])
    windows, edges, texts = [], [], []
    for index in rng.integers(COUNT, size=BATCH):
        left = int(rng.integers(latents.shape[-1] - WINDOW // 8 + 1))
        windows.append(torch.from_numpy(latents[index, :, :, left : left + WINDOW // 8].copy()).float())
        low = int(rng.choice((LOW, LOW // 2)))  # half of the time fainter edges too
        lines = canny(_worn(pictures[index], rng), low, 2 * low)[:, 8 * left : 8 * left + WINDOW]
        edges.append(torch.from_numpy(lines.copy()).float().expand(3, -1, -1) / 255)
        texts.append(str(rng.choice(captions(scene_of(SCROLL, int(index)))[:6])))
    return torch.stack(windows), torch.stack(edges), texts


def canny(picture: np.ndarray, low: int = LOW, high: int = HIGH) -> np.ndarray:
    """White edges on black (height x width, uint8) of an RGB picture."""
    return cv2.Canny(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), low, high)


def _worn(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Two of three pictures lose detail first: in use the edges come from an enlarged blueprint."""
    if rng.random() < 0.33:
        return picture
    height, width = picture.shape[:2]
    small = cv2.resize(picture, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), rng.uniform(0.3, 1.0))
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
