"""What the benchmark compares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from drspo.ranges import Natural, OwnPixels, OwnScale, OwnSteps, Range


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """Which scrolls are made; -1 means the model's own default."""

    prompts: tuple[str, ...] = ("outdoor",)
    """Lists that ship in eval/prompts, files with one prompt per line, or runs of the dataset builder, whose
    held-out prompts are taken. Several are strata: shown together and apart."""
    limit: Natural = 0
    """Only the first N prompts of each; 0 takes all."""
    seeds: Annotated[int, Range(1, 10_000)] = 2
    """Seeds per prompt, 0 to N-1; the same for every method."""
    height: OwnPixels = -1
    """Height in pixels."""
    width: OwnPixels = -1
    """Width in pixels."""
    steps: OwnSteps = -1
    """Denoising steps."""
    guidance_scale: OwnScale = -1.0
    """Classifier-free guidance."""


VIEWS = {"aesthetic": "windows", "clip": "letterbox", "pickscore": "letterbox", "image_reward": "letterbox"}
"""What the benchmark shows a metric unless told otherwise: quality is judged near, a prompt's meaning on the
whole (windows would reward repetition). `official` is each metric's own recipe, the middle quarter of a
scroll."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judges:
    """Which numbers are taken of them."""

    scorers: tuple[str, ...] = ("aesthetic", "clip", "seam")
    """Names of eval.METRICS, or module:Class. One may stand here twice under a name of its own:
    clip near=clip."""
    options: tuple[str, ...] = ()
    """Settings of single scorers as name.key=value, for example near.view=windows aesthetic.head=FILE."""
    trained: tuple[str, ...] = ()
    """Scorers that were training labels: marked, and left out of a second average rank."""
    aside: tuple[str, ...] = ()
    """Scorers that are shown and not counted in any rank, for example a count that checks the others."""
    batch: Annotated[int, Range(1, 100_000)] = 16
    """Pictures handed to a scorer at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """A benchmark: methods x prompts x seeds, scored, tabled with intervals, shown in one HTML page.

    Beside it: eval score FOLDER (pictures made elsewhere), eval --coverage, eval --selftest.
    """

    model: str = "miniature"
    """A name of generate.models.family.MODELS, a Hub id or a folder."""
    methods: tuple[str, ...] = ("sdxl", "multidiffusion", "mad", "drspo")
    """The rows: names of generate.GENERATORS or of eval.benchmark.methods.ABLATIONS, or such a name under
    another, flux-esrgan=direct."""
    options: tuple[str, ...] = ()
    """Settings of single rows as ROW.key=value: model, controlnet, ip_adapter, image_encoder, lora,
    lora_blueprint, lora_highres, upscale, upscaler, or the method's own, such as drspo.control.scale=0.4."""
    baseline: str = "multidiffusion"
    """The method that differences are taken against."""
    lora_blueprint: str = ""
    """The blueprint stage's LoRA folder, for drspo."""
    lora_highres: str = ""
    """The high-resolution stage's LoRA folder, for drspo."""
    out: str = ""
    """The folder for pictures, records, tables and the page; the same command again continues."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    workers: Natural = 1
    """Processes on this machine that share the work; 0: one for each GPU. On another machine, `eval worker`
    with the same settings joins in."""
    pictures: Pictures = field(default_factory=Pictures)
    judges: Judges = field(default_factory=Judges)
