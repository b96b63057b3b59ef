"""Everything a training run is told, as nested frozen dataclasses; presets in train/presets/ are complete."""

from dataclasses import dataclass, field
from typing import Literal

from drspo.config import config_hash, to_dict
from train.lora.optimizers import OptimizerSettings
from train.objective.losses import LossSettings


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which pairs, and how their pictures meet the canvas."""

    source: str = ""
    """Run or export folder of the dataset builder, Parquet file or glob, or Hub dataset id."""
    subset: str = ""
    """Which configuration of a Hub dataset, such as pickapic; empty: its default one."""
    split: str = "train"
    """Split to train on."""
    validation_split: str = "validation"
    """Split that is held out; where the source has none, prompts are held out of the training split."""
    validation_pairs: int = 32
    """Held-out pairs to measure on; 0 measures nothing."""
    limit: int = 0
    """Train on the first N rows only; 0 takes all."""
    resize: Literal["none", "downscale"] = "none"
    """none: a picture must have the canvas's size. downscale: larger ones of the same aspect are reduced
    (Lanczos)."""
    long_prompts: Literal["truncate", "drop"] = "truncate"
    """Prompts beyond the tokenizer's window: cut there, or drop the pair. Either way the log says how
    many."""
    cache: str = ""
    """Folder for latents and embeddings; empty: $DRSPO_CACHE, else ~/.cache/drspo. Runs share it."""
    cache_references: bool = False
    """Keep the frozen model's answers there too: a run with the same seed and pairs, but another loss, LoRA
    or optimiser, skips the reference pass. Costs two scrolls of latents in float32 per pair and step."""


@dataclass(frozen=True, kw_only=True)
class CanvasConfig:
    """The scroll in pixels and its windows. -1 takes the stage's value from the model."""

    height: int = -1
    """Height of the canvas in pixels."""
    width: int = -1
    """Width of the canvas in pixels."""
    window: int = -1
    """Side of a square window in pixels (stage highres; stage blueprint sees the canvas as one window)."""
    stride: int = -1
    """Distance between windows in pixels."""
    weights: Literal["uniform", "gaussian", "feathered"] = "uniform"
    """Weights W_i of eq. 4 in the average of overlapping windows."""
    time_ids: Literal["scroll", "window", "crop"] = "window"
    """SDXL's micro-conditioning of a window; must equal the sampler's and is stored with the LoRA."""


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """The adapter that is trained."""

    rank: int = 64
    """Rank of the update."""
    alpha: float = 64.0
    """Scale of the update is alpha / rank."""
    dropout: float = 0.0
    """Dropout on the adapter's input; 0 for preference training."""
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    """Names of the projections that get an adapter."""


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """How a pair is noised (eq. 12)."""

    t_min: int = 0
    """Smallest timestep drawn."""
    t_max: int = 0
    """One more than the largest timestep drawn; 0: the length of the schedule."""
    independent: bool = False
    """Draw separate noise for winner and loser instead of one noise for both."""
    target: Literal["epsilon", "v", "flow"] = "epsilon"
    """What the network predicts; refused where the checkpoint's scheduler says otherwise."""
    loss_space: Literal["native", "epsilon"] = "native"
    """Measure the error on the network's own target, or on the noise it implies."""


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """Trades of time for memory; none changes the gradient."""

    schedule: Literal["stream", "two_pass", "autograd"] = "stream"
    """How the gradient over windows is made: stream is exact in flat memory, two_pass needs the least."""
    window_batch: int = 1
    """Windows per model call; in stage blueprint 2 takes winner and loser in one call."""
    gradient_checkpointing: bool = False
    """Recompute the UNet's activations in the backward pass."""


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Measurement on held-out pairs, on a fixed grid of timesteps and noises."""

    every: int = 100
    """Steps between measurements; 0: only at the end."""
    timesteps: int = 4
    """Timesteps per held-out pair, spread evenly over the drawn range."""
    max_winner_drift: float = 0.0
    """Stop when the winner's held-out error has risen by this share of the reference's; 0: never."""
    patience: int = 2
    """Measurements in a row above the limit before stopping."""


@dataclass(frozen=True, kw_only=True)
class SamplesConfig:
    """Pictures made during training with fixed prompts and seeds."""

    every: int = 0
    """Steps between samples; 0: none."""
    prompts: tuple[str, ...] = ()
    """Prompts to draw; empty: the first held-out ones."""
    count: int = 2
    """Number of held-out prompts to draw where none are given."""
    steps: int = 30
    """Denoising steps."""
    guidance_scale: float = 5.0
    """Classifier-free guidance."""
    seed: int = 0
    """Seed of the first prompt; the next has the next seed."""


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where metrics go beside metrics.jsonl."""

    tensorboard: bool = False
    """Write TensorBoard events to OUT/tensorboard."""
    wandb_project: str = ""
    """Project on Weights & Biases; empty: off."""
    log_every: int = 10
    """Steps between lines in the log."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train one stage's LoRA from preference pairs."""

    stage: Literal["blueprint", "highres"] = "blueprint"
    """blueprint: the whole small scroll at once. highres: the full scroll through windows."""
    model: str = "sdxl"
    """miniature, sdxl, a Hub id or a folder."""
    out: str = ""
    """Run folder; the LoRA, its card, metrics and checkpoints go there."""
    seed: int = 0
    """Every random number is a function of this, the step and the pair."""
    max_steps: int = 1000
    """Optimiser steps in all."""
    pairs_per_step: int = 1
    """Pairs per optimiser step over all processes; each process accumulates its share."""
    checkpoint_every: int = 100
    """Steps between checkpoints; a kill loses at most this many."""
    keep_last: int = 2
    """Checkpoints kept, beside the best one."""
    export: Literal["last", "best"] = "last"
    """Which weights become OUT/pytorch_lora_weights.safetensors: the last, or those best on held-out
    pairs."""
    kohya: bool = False
    """Also write the LoRA in kohya's layout, for ComfyUI and others."""
    device: str = "auto"
    """auto, cpu, cuda."""
    ema: float = 0.0
    """Decay of an exponential moving average of the LoRA, which is then measured, drawn and exported; 0:
    none."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the frozen base; the LoRA is always fp32. auto: bf16 on a GPU, fp32 on a CPU."""
    max_bad_steps: int = 10
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
)
"""Settings that do not change what is learnt per step: a run may be continued with others."""

FREE_DATA = ("cache", "cache_references")
"""Those among the settings of the data."""


def identity(config: TrainConfig) -> str:
    """A hash over the settings that decide what is learnt; the rest may change when a run is continued."""
    kept = {name: value for name, value in to_dict(config).items() if name not in FREE}
    kept["data"] = {name: value for name, value in kept["data"].items() if name not in FREE_DATA}
    return config_hash(kept)
