"""What is refused before the first byte is written: settings out of range, or that contradict each other."""

from collections.abc import Mapping
from importlib.util import find_spec

from drspo.errors import UserError
from drspo.ranges import check_ranges
from train.config import TrainConfig
from train.objective import losses
from train.pairs.columns import named_columns
from train.processes import started_alone, world_size


def check_config(config: TrainConfig) -> None:
    """Raises `UserError` for settings out of their range, or that contradict each other."""
    if not config.out:
        raise UserError("no folder to write to", "--out", "python -m train ... --out DIR")
    if "://" in config.out:
        raise UserError("training writes to a local folder", "--out", "copy the folder when it is done")
    if not config.data.source:
        raise UserError(
            "no pairs to train on", "--data.source", "a run folder, a Parquet file or a Hub dataset id"
        )
    check_ranges(config)
    named_columns(config.data.columns)
    if config.device not in ("auto", "cpu", "cuda"):
        raise UserError(
            f"unknown device {config.device!r}", "--device", "auto, cpu or cuda; launch chooses the card"
        )
    if config.noise.t_max and config.noise.t_max <= config.noise.t_min:
        raise UserError("the range of timesteps is empty", "--noise.t-max", "it must exceed noise.t_min")
    if not all(config.lora.targets):
        raise UserError(
            "a LoRA sits on layers that have a name", "--lora.targets", "such as to_q to_k to_v to_out.0"
        )
    _check_held_out(config)
    _check_sharded(config)
    losses.check(config.loss)
    _check_packages(config)


def _check_held_out(config: TrainConfig) -> None:
    watching = config.validation.max_winner_drift > 0 or config.export == "best"
    if watching and not config.data.validation_pairs:
        raise UserError(
            "early stopping and export=best need held-out pairs",
            "--data.validation-pairs",
            "hold out 16 or more",
        )


def _check_sharded(config: TrainConfig) -> None:
    """Shards are gathered by all processes at once, so nothing may let one call the network more often."""
    if not config.memory.shard_weights:
        return
    why = "with --memory.shard-weights every process must call the network equally often"
    if config.data.sizes == "own":
        hint = "train one size per run, or with the whole network on each card"
        raise UserError(f"{why}, and pairs of several sizes have different windows", "--data.sizes", hint)
    if config.data.cache_references:
        hint = "leave it out: the references are then asked for at every step"
        raise UserError(f"{why}, and one may find a reference that another lacks", _REFERENCES, hint)


_REFERENCES = "--data.cache-references"


def _check_packages(config: TrainConfig) -> None:
    """The optional packages are asked for here, not when hours of encoding are over."""
    wanted = {
        "bitsandbytes": (config.optimizer.name == "adamw8bit", "--optimizer.name"),
        "tensorboard": (config.tracking.tensorboard, "--tracking.tensorboard"),
        "wandb": (bool(config.tracking.wandb_project), "--tracking.wandb-project"),
    }
    for package, (asked, flag) in wanted.items():
        if asked and find_spec(package) is None:
            raise UserError(f"{package} is not installed", flag, f"pip install {package}")


OTHER_ENGINES = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config",
}
"""What `accelerate launch` sets for engines that split or wrap the network."""


def check_launch(config: TrainConfig, environment: Mapping[str, str]) -> None:
    """Raises `UserError` for a way of starting several processes that would not do what it says.

    The gradient passes the plain network, window by window (docs/mathematics.md, section 4), which an engine
    that wraps it does not allow; `train.sharding` spreads its weights without wrapping it.
    """
    for name, engine in OTHER_ENGINES.items():
        if environment.get(name, "false").lower() in ("true", "1", "yes"):
            hint = "launch with --multi_gpu, or by torchrun; --memory.shard-weights shards the frozen network"
            raise UserError(f"training does not run under {engine}", f"{name} of accelerate's launch", hint)
    if started_alone(environment):
        hint = "torchrun --nproc_per_node 2 -m train ... starts two on this machine"
        raise UserError("accelerate launch starts one process here, whatever number was asked", "--cpu", hint)
    processes = world_size(environment) or 1
    if config.memory.shard_weights and processes < 2:
        hint = "start several (torchrun --nproc-per-node 2 -m train ...), or leave it out"
        raise UserError("one process has nobody to share weights with", "--memory.shard-weights", hint)
    pairs_per_process(config, processes)


def pairs_per_process(config: TrainConfig, processes: int) -> int:
    """Pairs that each process works on per optimiser step; `UserError` when they cannot be shared evenly."""
    if config.pairs_per_step % processes:
        raise UserError(
            f"{config.pairs_per_step} pairs per step cannot be shared by {processes} processes",
            "--pairs-per-step",
            f"use a multiple of {processes}; it counts the pairs of one optimiser step over all processes",
        )
    return config.pairs_per_step // processes
