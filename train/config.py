"""Everything a training run is told, as nested frozen dataclasses; presets in train/presets/ are complete."""

from dataclasses import dataclass, field
from typing import Literal

from drspo.config import config_hash, to_dict
from drspo.ranges import Count, Positive, Seed
from train.settings import (
    CanvasConfig,
    DataConfig,
    Decay,
    LoraConfig,
    LossSettings,
    MemoryConfig,
    NoiseConfig,
    OptimizerSettings,
    SamplesConfig,
    TrackingConfig,
    ValidationConfig,
)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train one stage's LoRA from preference pairs."""

    plan: bool = False
    """Rehearse one pair, say what a step and the run would take, and stop; needs neither pairs nor --out."""
    stage: Literal["blueprint", "highres"] = "blueprint"
    """blueprint: the whole small scroll at once. highres: the full scroll through windows."""
    model: str = "miniature"
    """miniature, sdxl, a Hub id or a folder."""
    out: str = ""
    """Run folder; the LoRA, its card, metrics and checkpoints go there."""
    seed: Seed = 0
    """Every random number is a function of this, the step and the pair."""
    max_steps: Count = 1000
    """Optimiser steps in all."""
    pairs_per_step: Count = 1
    """Pairs per optimiser step over all processes; each process accumulates its share."""
    checkpoint_every: Count = 100
    """Steps between checkpoints; a kill loses at most this many."""
    keep_last: Count = 2
    """Checkpoints kept, beside the best one."""
    export: Literal["last", "best"] = "last"
    """Which weights become OUT/pytorch_lora_weights.safetensors: the last, or those best on held-out
    pairs."""
    kohya: bool = True
    """Write the LoRA in kohya's layout too, for ComfyUI and others."""
    device: str = "auto"
    """auto, cpu, cuda."""
    ema: Decay = 0.0
    """Decay of an exponential moving average of the LoRA, which is then measured, drawn and exported; 0:
    none."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the frozen base; the LoRA is always fp32. auto: bf16 on a GPU, fp32 on a CPU."""
    group_timeout: Positive = 30.0
    """Minutes that a process waits for the others before the run ends; a dead one is noticed by that."""
    max_bad_steps: Count = 10
    """Non-finite steps in a row before giving up; each is skipped and counted."""
    data: DataConfig = field(default_factory=DataConfig)
    canvas: CanvasConfig = field(default_factory=CanvasConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    loss: LossSettings = field(default_factory=LossSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


FREE = (
    "plan",
    "out",
    "device",
    "max_steps",
    "checkpoint_every",
    "keep_last",
    "export",
    "kohya",
    "memory",
    "samples",
    "tracking",
    "group_timeout",
)
"""Settings that do not change what is learnt per step: a run may be continued with others."""

FREE_DATA = ("cache", "cache_references")
"""Those among the settings of the data."""


def identity(config: TrainConfig) -> str:
    """A hash over the settings that decide what is learnt; the rest may change when a run is continued."""
    kept = {name: value for name, value in to_dict(config).items() if name not in FREE}
    kept["data"] = {name: value for name, value in kept["data"].items() if name not in FREE_DATA}
    for later in ("columns", "flips"):  # runs of versions that did not have them go on
        if not kept["data"][later]:
            del kept["data"][later]
    if config.data.sizes == "canvas":
        del kept["data"]["sizes"]
    if config.optimizer.decay != "constant":
        kept["max_steps"] = config.max_steps  # the rate of every step hangs on it
    return config_hash(kept)
