"""Networks that wait in host memory while others work, for devices that do not hold all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

Role = Literal["text", "denoise", "vae"]
"""What a scroll needs one after another: its prompt's embeddings, its steps, its picture."""


@dataclass(frozen=True)
class Offload:
    """Keeps the networks of one role on the device and the others in host memory."""

    device: torch.device
    networks: Mapping[str, Sequence[Any]]
    """by role"""

    def wake(self, *roles: Role) -> None:
        """Puts the networks of some roles on the device, after those of the others have left it.

        Moving changes no number: the same bits come back.
        """
        for other, networks in self.networks.items():
            if other not in roles:
                self._move(networks, torch.device("cpu"))
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        for role in roles:
            self._move(self.networks[role], self.device)

    @staticmethod
    def _move(networks: Sequence[Any], device: torch.device) -> None:
        for network in networks:
            if network.device != device:
                network.to(device)
