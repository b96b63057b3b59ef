"""Optimisers for LoRA, and their learning rate over the run."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from drspo.errors import UserError
from train.settings import OptimizerSettings

if TYPE_CHECKING:  # the settings are read by `--help`, which must not wait for torch
    import torch
    from torch import Tensor


def build_optimizer(parameters: Iterable[Tensor], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """The optimiser over the LoRA's parameters; UserError when an optional package is missing."""
    builders = {"adafactor": _adafactor, "adamw": _adamw, "adamw8bit": _adamw8bit}
    return builders[settings.name](list(parameters), settings)


def _adafactor(parameters: list[Tensor], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Adafactor (Shazeer & Stern 2018, arXiv 1804.04235, algorithm 4) with a plain learning rate.

    scale_parameter=False is essential: the original multiplies the step by max(1e-3, RMS(parameter)), and
    LoRA's B starts at 0, so it would learn a thousand times slower. torch.optim.Adafactor always does that.
    """
    from transformers.optimization import Adafactor

    return Adafactor(
        parameters,
        lr=settings.lr,
        scale_parameter=False,
        relative_step=False,
        warmup_init=False,
        weight_decay=settings.weight_decay,
    )


def _adamw(parameters: list[Tensor], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2017, arXiv 1711.05101, algorithm 2)."""
    from torch.optim import AdamW

    # fused: over hundreds of small matrices the loop in Python would cost ten times their arithmetic.
    return AdamW(
        parameters,
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
        fused=True,
    )


def _adamw8bit(parameters: list[Tensor], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """AdamW with block-wise 8-bit states (Dettmers et al. 2021, arXiv 2110.02861)."""
    try:
        import bitsandbytes
    except ImportError as error:
        raise UserError(
            "adamw8bit needs the package bitsandbytes",
            "optimizer.name",
            "pip install bitsandbytes, or choose adafactor, whose state is smaller still",
        ) from error
    module: Any = bitsandbytes
    return module.optim.AdamW8bit(
        parameters, lr=settings.lr, betas=(settings.beta1, settings.beta2), weight_decay=settings.weight_decay
    )


def learning_rate(step: int, settings: OptimizerSettings, max_steps: int) -> float:
    """The rate of the step numbered from 0: lr (step + 1) / warmup_steps up to lr, then as `decay` says, down
    to lr / (steps after the warm-up) in the last step of `max_steps`."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    if settings.decay == "constant":
        return settings.lr
    done = (step - settings.warmup_steps) / max(1, max_steps - settings.warmup_steps)
    left = 1 - done if settings.decay == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return settings.lr * max(0.0, left)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use this rate in the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate
