"""The network as a run trains it: with its LoRA, on a canvas, under the checkpoint's noise."""

from functools import cache
from typing import Any

from generate.models.family import ModelFamily
from train.canvas import TrainingCanvas, make_canvas
from train.config import TrainConfig
from train.launch import DTYPES, precision_of
from train.lora.adapters import add_lora, attention_of
from train.lora.twins import trainable
from train.objective.noise import NoiseProcess, noise_process
from train.objective.trainee import Trainee


def wear_lora(family: ModelFamily, config: TrainConfig) -> None:
    """Puts a new LoRA on the family's network, as configured, and makes both ready to be trained."""
    lora, network = config.lora, family.network
    targets = lora.targets or attention_of(family.kind)
    add_lora(network, lora.rank, lora.alpha, targets, seed=config.seed, dropout=lora.dropout)
    if config.memory.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    # Training mode lets the LoRA's dropout act; the network itself has none.
    network.train()


def make_trainee(family: ModelFamily, canvas: TrainingCanvas, config: TrainConfig, **more: Any) -> Trainee:
    """A family's network with its LoRA, as a run trains it; `more` are the fields that have defaults."""
    dtype = precision_of(config, family.device)

    @cache
    def of_size(height: int, width: int) -> tuple[TrainingCanvas, NoiseProcess]:
        other = make_canvas(config, family.spec, (height, width))
        return other, process_on(family, other, config)

    return Trainee(
        network=family.network,
        denoiser=None if family.unet is not None else family.denoiser,
        trainable=trainable(family.network),
        process=process_on(family, canvas, config),
        canvas=canvas,
        config=config,
        device=family.device,
        autocast=DTYPES[dtype] if dtype != "float32" else None,
        of_size=of_size if config.data.sizes == "own" else None,
        **more,
    )


def process_on(family: ModelFamily, canvas: TrainingCanvas, config: TrainConfig) -> NoiseProcess:
    """How a pair on this canvas is noised; some flow schedules are shifted by the size of what is seen."""
    return noise_process(family.scheduler_config, config.noise.target, canvas.windows[0].shape)
