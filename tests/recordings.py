"""The recorded runs of other implementations in `tests/golden`: their settings and tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

GOLDEN = Path(__file__).resolve().parent / "golden"


def cases(*methods: str) -> list[Path]:
    """The recorded cases of some methods, as paths below `tests/golden`."""
    return [case.relative_to(GOLDEN) for method in methods for case in sorted((GOLDEN / method).glob("*/"))]


def load(case: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """A case's settings and its tensors in float32 (indices stay integers)."""
    settings = json.loads((GOLDEN / case / "settings.json").read_text())
    stored = load_file(GOLDEN / case / "tensors.safetensors")
    scales = {
        name.removesuffix(".scale"): stored.pop(name) for name in list(stored) if name.endswith(".scale")
    }
    rescaled = {name: (stored[name].double() * scale).float() for name, scale in scales.items()}
    return settings, stored | rescaled


def variance_noise(settings: dict[str, Any]) -> torch.Tensor:
    """The noise [step, window, 4, h, w] that a run of a stochastic sampler drew, drawn again by its seed."""
    drawn = settings["variance_noise"]
    steps, windows, *size = drawn["shape"]
    generator = torch.Generator().manual_seed(settings["seed"])
    torch.randn((4, settings["height"] // 8, settings["width"] // 8), generator=generator)
    if drawn["style_noise_first"]:
        torch.randn(size, generator=generator)
    rows = [torch.randn(size, generator=generator) for _ in range(steps * windows)]
    return torch.stack(rows).view(steps, windows, *size)
