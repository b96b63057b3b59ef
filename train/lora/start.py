"""A LoRA to start from: the other stage's, an earlier run's, or anybody's of this base."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer as PeftLayer
from torch import Tensor

from drspo.errors import UserError
from train.lora.adapters import lora_layers, lora_settings

READ = "start"
"""The adapter that the file is read into; it is gone before the trained one is put on."""


@dataclass(frozen=True)
class Start:
    """The matrices of a LoRA, by the layer they change: its change is scale B A."""

    source: str
    layers: dict[str, tuple[Tensor, Tensor, float]]
    """Name of the layer -> (A, B, scale), on the CPU in float32."""


def read_start(family: Any, source: str) -> Start:
    """The LoRA at `source`, a folder or file in any layout that generation reads, checked as there.

    `UserError` for one that also changes a text encoder, which training leaves alone.
    """
    family.load_lora(source, name=READ)
    if any(isinstance(m, PeftLayer) for encoder in family.text_encoders for m in encoder.modules()):
        raise UserError(
            "the LoRA changes the text encoders too, and training leaves those alone",
            "--lora.init",
            "start from one that changes the UNet or transformer only",
        )
    layers = {
        name: (_copy(module.lora_A[READ]), _copy(module.lora_B[READ]), float(module.scaling[READ]))
        for name, module in family.network.named_modules()
        if isinstance(module, PeftLayer) and READ in module.lora_A
    }
    family.network.unload_lora()
    del family.loras[READ]
    return Start(source, layers)


@torch.no_grad()
def begin_from(network: Any, start: Start) -> None:
    """Sets the adapter on `network` to the LoRA that was read, exactly: where alpha / rank differ, A and B
    share the quotient.

    `UserError` when its rank is another, or when it changes layers that have no adapter here.
    """
    names = {id(module): name for name, module in network.named_modules()}
    own = {names[id(layer.module)]: layer for layer in lora_layers(network)}
    if missing := sorted(start.layers.keys() - own.keys()):
        raise UserError(
            f"{start.source} changes {len(missing)} layers that have no adapter here, such as {missing[0]}",
            "--lora.init",
            "name their projections with --lora.targets",
        )
    rank = lora_settings(network)["rank"]
    for name, (a, b, scale) in start.layers.items():
        if a.shape != own[name].a.shape:
            raise UserError(
                f"{start.source} has rank {a.shape[0]} and this run's LoRA rank {rank}",
                "--lora.init",
                f"train with --lora.rank {a.shape[0]}",
            )
        if not (a.isfinite().all() and b.isfinite().all()):
            raise UserError(f"{start.source} has numbers that are not finite in {name}", "--lora.init")
        share = math.sqrt(scale / own[name].scale)
        own[name].a.copy_(a * share)
        own[name].b.copy_(b * share)


def _copy(linear: Any) -> Tensor:
    return linear.weight.detach().to("cpu", torch.float32, copy=True)
