"""An exponential moving average of the LoRA, and a way to look through it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from train.lora.adapters import named_lora_parameters


class Average:
    """avg <- decay * avg + (1 - decay) * LoRA after every step; decay 0 keeps no average and changes
    nothing."""

    def __init__(self, network: Any, decay: float) -> None:
        self.network, self.decay = network, decay
        self.values: dict[str, Tensor] = {}
        if decay:
            self.values = {name: p.detach().clone() for name, p in named_lora_parameters(network).items()}

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the current LoRA."""
        for name, parameter in named_lora_parameters(self.network).items() if self.decay else ():
            self.values[name].lerp_(parameter, 1 - self.decay)

    @torch.no_grad()
    def load(self, values: dict[str, Tensor]) -> None:
        """Takes over a checkpoint's average."""
        for name, value in values.items():
            self.values[name].copy_(value)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The network with the averaged LoRA; the trained one is back afterwards."""
        if not self.decay:
            yield
            return
        own = named_lora_parameters(self.network)
        kept = {name: p.detach().clone() for name, p in own.items()}
        try:
            _assign(own, self.values)
            yield
        finally:
            _assign(own, kept)


@torch.no_grad()
def _assign(parameters: dict[str, Any], values: dict[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(values[name])
