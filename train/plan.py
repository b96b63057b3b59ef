"""`python -m train --plan`: what a step, a measurement and the whole run take here, by rehearsing one pair.

The pair is made up: noise in the place of latents, no prompt. What a step costs depends on the canvas, on the
network and on the machine, and not on what is in the pictures.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image

from drspo.log import setup
from generate.images.vae import encode_images, from_pil
from generate.models.family import ModelFamily, choose_device, load_family
from train.canvas import TrainingCanvas, make_canvas
from train.checks import pairs_per_process
from train.config import TrainConfig
from train.engine.predictor import check_network
from train.launch import precision_of
from train.lora.adapters import lora_parameters
from train.lora.optimizers import build_optimizer
from train.memory import explain_out_of_memory, make_room
from train.network import make_trainee, wear_lora
from train.objective.draws import grid_draw, timestep_range
from train.pairs.prepare import EncodedPair, no_prompt
from train.processes import world_size
from train.report.metrics import peak_memory
from train.step import apply_gradient


@dataclass(frozen=True)
class Plan:
    """What was rehearsed; seconds of this machine."""

    windows: int
    parameters: int
    """that are trained"""
    pair: float
    """one pair's gradients"""
    update: float
    """the optimiser's step"""
    held_out: float
    """errors of one held-out pair at one timestep"""
    scroll: float
    """encoding one picture, once before the training"""
    peak_mib: float
    device: str


def print_plan(config: TrainConfig) -> None:
    """Rehearses and prints. UserError for settings that a run would refuse, and for a device that is full."""
    setup()
    share = pairs_per_process(config, world_size(os.environ) or 1)
    print(describe(config, rehearse(config), share))


def rehearse(config: TrainConfig) -> Plan:
    """One pair through everything that a run does with it; nothing is written."""
    device = choose_device(config.device)
    family = load_family(config.model, device=str(device), dtype=precision_of(config, device))
    check_network(family)
    canvas = make_canvas(config, family.spec)
    scroll = _seconds(device, lambda: _encode(family, canvas))
    embeds, pooled = no_prompt(family)
    wear_lora(family, config)
    parameters = lora_parameters(family.network)
    optimizer = build_optimizer(parameters, config.optimizer)
    make_room(family, config)
    trainee = make_trainee(family, canvas, config)
    timestep_range(trainee.process.timesteps, config.noise)
    pair = EncodedPair("plan", *_latents(family, canvas), embeds, pooled)
    t = trainee.process.timesteps // 2
    drawn = grid_draw(config.seed, pair.pair_id, t, tuple(pair.latents_w.shape), config.noise)
    try:
        grads = trainee.gradients(pair, 0).grads  # the first call of anything is slower
        pairs = _seconds(device, lambda: trainee.gradients(pair, 1))
        update = _seconds(device, lambda: apply_gradient(optimizer, parameters, grads, 0, config))
        held_out = _seconds(device, lambda: trainee.errors(pair, drawn, lambda ask: ask()))
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise explain_out_of_memory(config, canvas, error) from error
    trained = sum(parameter.numel() for parameter in parameters)
    windows = len(canvas.windows)
    return Plan(windows, trained, pairs, update, held_out, scroll, peak_memory(device), str(device))


def describe(config: TrainConfig, plan: Plan, share: int) -> str:
    """The plan for a reader; `share` are the pairs that each process takes at a step."""
    step = share * plan.pair + plan.update
    held_out = config.data.validation_pairs * config.validation.timesteps * plan.held_out
    measured = 1 + config.max_steps // config.validation.every if config.validation.every else 1
    whole = config.max_steps * step + measured * held_out
    lines = [
        f"plan      stage {config.stage} of {config.model}, {plan.windows} windows, on {plan.device}",
        f"LoRA      {plan.parameters:,} parameters, rank {config.lora.rank}",
        f"step      {_duration(step)}: {share} x {_duration(plan.pair)}, update {_duration(plan.update)}",
        f"held out  {_duration(held_out)} a measurement, {measured} of them at most",
        f"run       {_duration(whole)} for {config.max_steps} steps, samples and checkpoints not counted",
        f"pictures  {_duration(plan.scroll)} to encode a scroll, each once before the first step",
        f"memory    {plan.peak_mib / 1024:.2f} GiB at the peak",
    ]
    return "\n".join(lines)


def _encode(family: ModelFamily, canvas: TrainingCanvas) -> None:
    with torch.no_grad():
        encode_images(family.vae, from_pil([Image.new("RGB", (canvas.width, canvas.height))]))


def _latents(family: ModelFamily, canvas: TrainingCanvas) -> tuple[torch.Tensor, torch.Tensor]:
    channels = int(family.vae.config.latent_channels)
    shape = (1, channels, canvas.height // canvas.factor, canvas.width // canvas.factor)
    noise = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=noise), torch.randn(shape, generator=noise)


def _seconds(device: torch.device, call: Callable[[], object]) -> float:
    """Wall seconds of a call, with all that it has started on the device."""
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.2f} s"
