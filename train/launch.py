"""How a run meets the machine: processes, device, number format."""

from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from generate.models.family import choose_device
from train.config import TrainConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def make_accelerator(config: TrainConfig) -> Accelerator:
    """accelerate's view of this process; under `accelerate launch` one of several.

    Mixed precision stays off there: autocast is entered around the model call itself, which also holds in the
    streaming backward.
    """
    cpu = config.device == "cpu" or choose_device("auto").type != "cuda"
    if config.device == "cuda":
        choose_device("cuda")
    patient = InitProcessGroupKwargs(timeout=timedelta(minutes=config.group_timeout))
    return Accelerator(cpu=cpu, mixed_precision="no", kwargs_handlers=[patient])


def device_of(accelerator: Accelerator) -> torch.device:
    """The device to compute on, under one name however the process was started.

    Under a launcher accelerate says cpu:0, which torch takes for another place than cpu: weights would be
    copied there, away from where the file was mapped, and products round by their operands' alignment.
    """
    device = accelerator.device
    return torch.device("cpu") if device.type == "cpu" else device


def precision_of(config: TrainConfig, device: torch.device) -> str:
    """The frozen base's number format: bfloat16 on a GPU and float32 on a CPU unless configured."""
    chosen = {"fp32": "float32", "bf16": "bfloat16"}.get(config.precision)
    return chosen or ("bfloat16" if device.type == "cuda" else "float32")
