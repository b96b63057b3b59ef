"""The UNet: SDXL's block types and micro-conditioning, trained on three sizes to predict the noise.

It can be trained on at twice its width: widened without changing its function, it starts where the small one
ended. A start from nothing at that width would cost several times the hours on two CPU cores.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import EulerDiscreteScheduler, UNet2DConditionModel
from torch import Tensor
from torch.nn import functional

from miniature.fit_text import PROJECTION, WIDTHS
from miniature.latents import Encoded
from miniature.loop import Task, train
from miniature.pictures import BLUEPRINT, SQUARE, WIDE
from miniature.widen import widened

STEPS = 11000
WIDE_STEPS = 5000
TIME_WIDTH = 32
DROP = 0.1  # share of captions replaced by zeros, which is also what the pipeline feeds for an empty prompt
SNR_LIMIT = 5.0
EARLY = 0.5  # share of times drawn with a preference for strong noise, where the layout is decided
OFFSET = 0.05  # a little common noise per channel lets nights be dark and snow be bright
_CYCLE = (SQUARE, BLUEPRINT, SQUARE, BLUEPRINT, WIDE, BLUEPRINT, SQUARE, BLUEPRINT)
BATCH = {SQUARE: 16, BLUEPRINT: 16, WIDE: 8}


def build_unet() -> UNet2DConditionModel:
    """An untrained UNet of SDXL's shape, at the width that it is first trained at."""
    return UNet2DConditionModel(
        sample_size=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(32, 64, 128),
        layers_per_block=1,
        transformer_layers_per_block=(1, 1, 1),
        attention_head_dim=(1, 2, 4),
        cross_attention_dim=sum(WIDTHS),
        norm_num_groups=16,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_WIDTH,
        projection_class_embeddings_input_dim=PROJECTION + 6 * TIME_WIDTH,
    )


def build_scheduler() -> EulerDiscreteScheduler:
    """SDXL's noise schedule."""
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="leading",
        steps_offset=1,
        prediction_type="epsilon",
    )


def fit_unet(buckets: list[Encoded], work: Path, steps: int = STEPS, sample=None) -> UNet2DConditionModel:
    """Trains the UNet on cached latents; `sample(step, model)` may draw what it can do by then."""
    torch.manual_seed(3)
    model = build_unet()

    def draw_samples(step: int) -> None:
        if sample:
            sample(step, model)

    task = Task(
        "unet", model, _loss(model, buckets), steps, rate=8e-4, warmup=200, average=0.999,
        sample=draw_samples,
    )  # fmt: skip
    return train(task, work)


def fit_wide_unet(
    small: UNet2DConditionModel, buckets: list[Encoded], work: Path, steps: int = WIDE_STEPS, sample=None
) -> UNet2DConditionModel:
    """Trains on from the small UNet at twice its width; `sample` as above.

    Products are computed in bfloat16, which saves a third of the time where the CPU has the instructions.
    """
    model = widened(small)
    loss = _loss(model, buckets)

    def in_bfloat16(step: int) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return loss(step)

    def draw_samples(step: int) -> None:
        if sample:
            sample(step, model)

    task = Task(
        "unet-wide", model, in_bfloat16, steps, rate=4e-4, warmup=200, average=0.999,
        sample=draw_samples, sample_every=1000,
    )  # fmt: skip
    return train(task, work)


def _loss(model: UNet2DConditionModel, buckets: list[Encoded]) -> Callable[[int], Tensor]:
    """The loss of a step: one bucket's batch, its noise predicted."""
    by_size = {bucket.size: bucket for bucket in buckets}
    signal = build_scheduler().alphas_cumprod

    def loss(step: int) -> Tensor:
        bucket = by_size[_CYCLE[step % len(_CYCLE)]]
        latents, hidden, pooled = draw(bucket, step, BATCH[bucket.size])
        noisy, noise, times = add_noise(latents, signal)
        predicted = model(noisy, times, hidden, added_cond_kwargs=added(pooled, bucket.size)).sample
        return weighted_error(predicted.float(), noise, signal[times])

    return loss


def draw(bucket: Encoded, step: int, count: int, drop: float = DROP) -> tuple[Tensor, Tensor, Tensor]:
    """A batch of latents, hidden states and pooled embeddings, some captions dropped."""
    rng = np.random.default_rng([step, 34])
    latents, hidden, pooled = bucket.rows(np.sort(rng.integers(len(bucket.latents), size=count)))
    kept = torch.from_numpy(rng.random(count) >= drop).float()
    return latents, hidden * kept[:, None, None], pooled * kept[:, None]


def add_noise(latents: Tensor, signal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy latents, the noise in them and the times, the same noise level never shared by choice."""
    count = len(latents)
    uniform = torch.rand(count)
    early = torch.rand(count) < EARLY
    times = (len(signal) * torch.where(early, uniform.sqrt(), uniform)).long().clamp(max=len(signal) - 1)
    noise = torch.randn_like(latents) + OFFSET * torch.randn(count, latents.shape[1], 1, 1)
    kept = signal[times].view(-1, 1, 1, 1)
    return kept.sqrt() * latents + (1 - kept).sqrt() * noise, noise, times


def added(pooled: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
    """SDXL's added conditions: pooled text, and original size, crop corner and target size in pixels."""
    return {
        "text_embeds": pooled,
        "time_ids": torch.tensor([[*size, 0, 0, *size]]).float().repeat(len(pooled), 1),
    }


def weighted_error(predicted: Tensor, noise: Tensor, signal: Tensor) -> Tensor:
    """Squared error of the noise with min-SNR weights, lest nearly clean latents crowd out structure."""
    ratio = signal / (1 - signal)
    weight = ratio.clamp(max=SNR_LIMIT) / ratio
    return (weight * functional.mse_loss(predicted, noise, reduction="none").mean(dim=(1, 2, 3))).mean()
