"""What the demonstration can be asked, and the names of what it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from drspo.ranges import Range, Seed

PAGE, SCROLL, UNTRAINED = "index.html", "scroll.png", "scroll-untrained.png"
STAGES = ("blueprint", "highres")


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """How much the demonstration does."""

    out: str = "runs/demo"
    """Folder for everything; the same command again continues there."""
    prompts: Annotated[int, Range(3, 10_000)] = 6
    """Prompts, each of which gets six candidates."""
    denoising_steps: Annotated[int, Range(2, 1000)] = 16
    """Denoising steps of a candidate."""
    train_steps: Annotated[int, Range(1, 1_000_000)] = 24
    """Optimiser steps of each stage: enough to see curves, far too few to change a taste."""
    prompt: str = "a red torii gate in the snow at dawn, in the middle, under a clear sky"
    """Prompt of the final scroll."""
    seed: Seed = 0
    """Seed of the final scroll."""
