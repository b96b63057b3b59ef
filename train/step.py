"""One optimiser step from many pairs' gradients."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from train.config import TrainConfig
from train.lora.optimizers import learning_rate, set_learning_rate
from train.objective.pair import inner


def add_share(total: list[Tensor] | None, grads: list[Tensor], pairs: int) -> list[Tensor]:
    """The running mean over a step's pairs: each gradient is divided by `pairs` and added in order."""
    torch._foreach_div_(grads, pairs)
    if total is None:
        return grads
    torch._foreach_add_(total, grads)
    return total


def sum_over_processes(accelerator: Any, grads: list[Tensor]) -> list[Tensor]:
    """The LoRA gradient of the whole step: one all-reduce of one flat tensor, after the losses have scaled
    it."""
    if accelerator.num_processes == 1:
        return grads
    flat = accelerator.reduce(torch.cat([grad.reshape(-1) for grad in grads]), reduction="sum")
    pieces = flat.split([grad.numel() for grad in grads])
    return [piece.view_as(grad) for piece, grad in zip(pieces, grads, strict=True)]


def apply_gradient(
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[Tensor],
    grads: list[Tensor],
    step: int,
    config: TrainConfig,
) -> dict[str, float] | None:
    """Clips and steps; the norm before clipping and the learning rate, or None where the norm is not
    finite."""
    norm = math.sqrt(inner(grads, grads))
    if not math.isfinite(norm):
        return None
    limit = config.optimizer.max_grad_norm
    if limit and norm > limit:
        torch._foreach_mul_(grads, limit / norm)
    rate = learning_rate(step, config.optimizer, config.max_steps)
    set_learning_rate(optimizer, rate)
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {"grad_norm": norm, "lr": rate}
