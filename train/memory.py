"""Room on the device: what training does not need leaves it, and what to lower when it is full all the
same."""

from typing import Any

from drspo.errors import UserError
from train.canvas import TrainingCanvas
from train.config import TrainConfig


def make_room(family: Any, config: TrainConfig) -> None:
    """Moves the autoencoder and the text encoders to the CPU where no samples are drawn: all pairs are
    encoded."""
    if family.device.type == "cuda" and not config.samples.every:
        for network in (family.vae, *family.text_encoders):
            network.to("cpu")


def explain_out_of_memory(config: TrainConfig, canvas: TrainingCanvas, error: BaseException) -> UserError:
    """The error to show: the settings in use, and the next one to change with its value."""
    memory = config.memory
    used = ", ".join(
        [
            f"{config.stage} at {canvas.height}x{canvas.width} in {len(canvas.windows)} windows",
            f"schedule {memory.schedule}",
            f"window batch {memory.window_batch}",
            f"gradient checkpointing {'on' if memory.gradient_checkpointing else 'off'}",
        ]
    )
    advice = next_saving(config, canvas)
    same = "; --resume OUT with that flag goes on from the last checkpoint" if "--memory" in advice else ""
    reason = str(error).partition("\n")[0]
    return UserError(
        f"the device ran out of memory ({used}): {reason}", "memory", f"train with {advice}{same}"
    )


def next_saving(config: TrainConfig, canvas: TrainingCanvas) -> str:
    """The cheapest setting not used yet, in order of what it costs in time."""
    memory = config.memory
    many = len(canvas.windows) > 1
    if memory.schedule == "autograd" and many:
        return "--memory.schedule stream"
    if memory.window_batch > 1:
        return f"--memory.window-batch {memory.window_batch // 2}"
    if not memory.gradient_checkpointing:
        return "--memory.gradient-checkpointing True"
    if memory.schedule == "stream" and many:
        return "--memory.schedule two_pass"
    if config.precision == "fp32":
        return "--precision bf16"
    return _half(canvas)


def explain_encoding_out_of_memory(canvas: TrainingCanvas, error: BaseException) -> UserError:
    """The error to show when a picture did not fit while it was encoded, where `memory` has no say yet."""
    reason = str(error).partition("\n")[0]
    return UserError(
        f"the device ran out of memory encoding a picture of {canvas.height}x{canvas.width}: {reason}",
        "canvas",
        f"end other programs on the device, or train with {_half(canvas)}",
    )


def _half(canvas: TrainingCanvas) -> str:
    height, width = (size // 16 * 8 for size in (canvas.height, canvas.width))
    return f"--canvas.height {height} --canvas.width {width} (a canvas of half the size)"
