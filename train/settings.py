"""The parts of a training's configuration: frozen dataclasses that import nothing of the package."""

from dataclasses import dataclass
from typing import Annotated, Literal

from drspo.ranges import Count, Natural, NonNegative, Positive, Range, Seed, Steps

Decay = Annotated[float, Range(0, 1, open_most=True)]
Size = Annotated[int, Range(8, 1 << 20, multiple=8, also=(-1,))]
"""In pixels; what the model's own autoencoder asks beyond that is checked when it is known."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which pairs, and how their pictures meet the canvas."""

    source: str = ""
    """Run or export folder of the dataset builder, Parquet file or glob, CSV, JSONL or JSON file, a folder
    with one of them beside its pictures, or Hub dataset id."""
    subset: str = ""
    """Which configuration of a Hub dataset, such as pickapic; empty: its default one."""
    columns: tuple[str, ...] = ()
    """What stands in which column, such as chosen=win rejected=lose prompt=text; needed for unknown
    layouts only."""
    split: str = "train"
    """Split to train on."""
    validation_split: str = "validation"
    """Split that is held out; where the source has none, prompts are held out of the training split."""
    validation_pairs: Natural = 32
    """Held-out pairs to measure on; 0 measures nothing."""
    limit: Natural = 0
    """Train on the first N rows only; 0 takes all."""
    sizes: Literal["canvas", "own"] = "canvas"
    """canvas: every pair has the canvas's size. own: each keeps its own size and aspect, of as many pixels as
    the canvas has at most."""
    resize: Literal["none", "downscale"] = "none"
    """none: a picture is taken at its own size or not at all. downscale: one that is too large is reduced,
    its aspect kept (Lanczos)."""
    flips: bool = False
    """Train on every pair's mirror image too, unless the prompt names a side, a direction or lettering."""
    prompt_dropout: Decay = 0.0
    """Share of draws in which a pair is shown without its prompt, as guidance's other half sees it."""
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

    height: Size = -1
    """Height of the canvas in pixels."""
    width: Size = -1
    """Width of the canvas in pixels."""
    window: Size = -1
    """Side of a square window in pixels (stage highres; stage blueprint sees the canvas as one window)."""
    stride: Size = -1
    """Distance between windows in pixels."""
    weights: Literal["uniform", "gaussian", "feathered"] = "uniform"
    """Weights W_i of eq. 4 in the average of overlapping windows."""
    time_ids: Literal["scroll", "window", "crop"] = "window"
    """SDXL's micro-conditioning of a window; must equal the sampler's and is stored with the LoRA."""


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """The adapter that is trained."""

    rank: Count = 64
    """Rank of the update."""
    alpha: Positive = 64.0
    """Scale of the update is alpha / rank."""
    dropout: Decay = 0.0
    """Dropout on the adapter's input; 0 for preference training."""
    targets: tuple[str, ...] = ()
    """Names of the projections that get an adapter; none named: those of the attention, the text's own among
    them."""
    init: str = ""
    """Folder or file of a LoRA to start from, such as the other stage's; of the same rank and targets. What
    training is held to stays the base model."""


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """Which preference loss, how sharp, and what holds the model in place."""

    name: str = "dpo"
    """A name in train.LOSSES (dpo, ipo, hinge, sdpo, mapo, kto) or "module:function"."""
    beta: Positive = 5000.0
    """Strength of the implied KL; z = -(beta/2) x (difference of mean squared errors)."""
    beta_reference_numel: Natural = 0
    """If set, beta is multiplied by D / this number, D = latent elements; 65536 gives a scroll the KL of
    1024x1024."""
    label_smoothing: Annotated[float, Range(0, 0.5, open_most=True)] = 0.0
    """Probability that the label of a pair is wrong, in [0, 0.5)."""
    smoothing: Literal["conservative", "robust"] = "conservative"
    """Conservative DPO mixes both labels; robust DPO is its unbiased form."""
    winner_anchor: NonNegative = 0.0
    """Adds this x u x E_w, u the loss's own unit of error (beta/2 for dpo): supervised training on the
    winner."""
    reference_anchor: NonNegative = 0.0
    """Adds this x u x mean (A - A_ref)^2 on the winner; a second backward pass over the winner's windows."""
    safeguard: Literal["none", "sdpo"] = "none"
    """sdpo scales the loser's gradient so that, to first order, the winner's error cannot rise (implied by
    name=sdpo)."""
    safeguard_margin: Decay = 0.0
    """Share of the winner's own descent that the safeguard keeps, in [0, 1)."""
    mapo_beta: Positive = 0.1
    """MaPO's weight of the odds term; MaPO ignores beta."""
    region_weight: NonNegative = 0.0
    """lambda of eq. 23: weight of the single-window (region-level) loss."""
    region_windows: Literal["one", "all"] = "one"
    """Windows in the region-level loss: one at random per step (unbiased), or all of them."""
    error_weight: Literal["uniform", "overlap"] = "uniform"
    """Weights of latent elements in E: all equal (eq. 19), or by how many windows cover them (eq. 22's
    variance)."""


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Which optimiser, at what rate."""

    name: Literal["adafactor", "adamw", "adamw8bit"] = "adafactor"
    """adafactor (the paper), adamw, or adamw8bit (needs bitsandbytes and a GPU)."""
    lr: Positive = 1e-6
    """Learning rate after warm-up; the paper's is 1e-6."""
    warmup_steps: Natural = 1000
    """Steps over which the rate rises linearly from lr/warmup_steps."""
    decay: Literal["constant", "linear", "cosine"] = "constant"
    """What follows the warm-up: the rate stays, or falls to zero at max_steps, by a line or half a
    cosine."""
    weight_decay: NonNegative = 0.0
    """Decoupled weight decay per step, times lr."""
    beta1: Decay = 0.9
    """AdamW's first decay."""
    beta2: Decay = 0.999
    """AdamW's second decay."""
    max_grad_norm: NonNegative = 1.0
    """Clip the combined gradient to this norm; 0 for no clipping."""


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """How a pair is noised (eq. 12)."""

    t_min: Natural = 0
    """Smallest timestep drawn."""
    t_max: Natural = 0
    """One more than the largest timestep drawn; 0: the length of the schedule."""
    independent: bool = False
    """Draw separate noise for winner and loser instead of one noise for both."""
    target: Literal["auto", "epsilon", "v", "flow"] = "auto"
    """What the network predicts; auto: what the checkpoint's scheduler says. Another is refused."""
    loss_space: Literal["native", "epsilon"] = "native"
    """Measure the error on the network's own target, or on the noise it implies."""


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """Trades of time for memory; none changes the gradient."""

    schedule: Literal["stream", "two_pass", "autograd"] = "stream"
    """How the gradient over windows is made: stream is exact in flat memory, two_pass needs the least."""
    window_batch: Count = 1
    """Windows per model call; in stage blueprint 2 takes winner and loser in one call."""
    gradient_checkpointing: bool = False
    """Recompute the network's activations in the backward pass."""
    shard_weights: bool = False
    """Each of several processes holds its part of the frozen network and gathers a block while it is used
    (FSDP2); the LoRA stays whole."""


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Measurement on held-out pairs, on a fixed grid of timesteps and noises."""

    every: Natural = 100
    """Steps between measurements; 0: only at the end."""
    timesteps: Count = 4
    """Timesteps per held-out pair, spread evenly over the drawn range."""
    max_winner_drift: NonNegative = 0.0
    """Stop when the winner's held-out error has risen by this share of the reference's; 0: never."""
    patience: Count = 2
    """Measurements in a row above the limit before stopping."""


@dataclass(frozen=True, kw_only=True)
class SamplesConfig:
    """Pictures made during training with fixed prompts and seeds."""

    every: Natural = 0
    """Steps between samples; 0: none."""
    prompts: tuple[str, ...] = ()
    """Prompts to draw; empty: the first held-out ones."""
    count: Natural = 2
    """Number of held-out prompts to draw where none are given."""
    steps: Steps = 30
    """Denoising steps."""
    guidance_scale: NonNegative = 5.0
    """Classifier-free guidance."""
    seed: Seed = 0
    """Seed of the first prompt; the next has the next seed."""


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where metrics go beside metrics.jsonl."""

    tensorboard: bool = False
    """Write TensorBoard events to OUT/tensorboard."""
    wandb_project: str = ""
    """Project on Weights & Biases; empty: off."""
    log_every: Count = 10
    """Steps between lines in the log."""
