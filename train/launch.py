"""How a run meets the machine: processes, device, number format."""

from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from drspo.errors import UserError
from generate.models.family import choose_device
from train.config import TrainConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def make_accelerator(config: TrainConfig) -> Accelerator:
    """accelerate's view of this process; under `accelerate launch` one of several.

    Mixed precision stays off there: autocast is entered around the model call itself, which also holds in the
    streaming backward.
    """
    if config.device not in ("auto", "cpu", "cuda"):
        raise UserError(
            f"unknown device {config.device!r}", "--device", "auto, cpu or cuda; launch chooses the card"
        )
    cpu = config.device == "cpu" or choose_device("auto").type != "cuda"
    if config.device == "cuda":
        choose_device("cuda")
    # One process may encode for hours while the others wait at a barrier.
    patient = InitProcessGroupKwargs(timeout=timedelta(hours=24))
    return Accelerator(cpu=cpu, mixed_precision="no", kwargs_handlers=[patient])


def precision_of(config: TrainConfig, device: torch.device) -> str:
    """The frozen base's number format: bfloat16 on a GPU and float32 on a CPU unless configured."""
    chosen = {"fp32": "float32", "bf16": "bfloat16"}.get(config.precision)
    return chosen or ("bfloat16" if device.type == "cuda" else "float32")


def pairs_per_process(config: TrainConfig, processes: int) -> int:
    """Pairs that each process works on per optimiser step; `UserError` when they cannot be shared evenly."""
    if config.pairs_per_step < 1 or config.pairs_per_step % processes:
        raise UserError(
            f"{config.pairs_per_step} pairs per step cannot be shared by {processes} processes",
            "--pairs-per-step",
            f"use a multiple of {processes}; it counts the pairs of one optimiser step over all processes",
        )
    return config.pairs_per_step // processes
