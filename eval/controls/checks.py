"""Every control by name, and which of them each measure is for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from eval.controls import objects, pictures, surroundings
from eval.controls.drawn import Drawn

Control = Callable[[Drawn, np.random.Generator], np.ndarray | None]
CONTROLS: dict[str, Control] = {
    **{f"{n} cop{'y' if n == 1 else 'ies'}": partial(objects.copies, count=n) for n in (1, 2, 3)},
    **{f"{n} jittered": partial(objects.jittered, count=n) for n in (1, 2, 3)},
    "tiles": partial(objects.tiles, vary=False),
    "varied tiles": partial(objects.tiles, vary=True),
    "mirrored half": objects.mirrored_half,
    **{f"{n} different": partial(objects.different, count=n) for n in (1, 2, 3)},
    **{f"ghosts of {s:.0%}": partial(objects.ghosts, strength=s) for s in (0.6, 0.4)},
    **{f"raised {s} H": partial(objects.raised, lift=s) for s in (0.05, 0.1, 0.2)},
    **{f"size x{s}": partial(objects.resized, scale=s) for s in (0.7, 1.4)},
    "leaning twins": objects.leaning_twins,
    "clouds": surroundings.clouds,
    "cumulus": surroundings.cumulus,
    "waves": surroundings.waves,
    "ridges": surroundings.ridges,
    "stars": surroundings.stars,
    "birds": surroundings.birds,
    "other texture": surroundings.texture,
    "another scene": surroundings.another_scene,
    "collage": surroundings.collage,
    "hard cut": surroundings.hard_cut,
    **{f"steps of {n}": partial(pictures.steps, levels=n) for n in (3, 6, 12)},
    **{f"drift {n}": partial(pictures.drift, degrees=n) for n in (20, 60)},
    **{f"blur {s} px": partial(pictures.blur, sigma=s) for s in (0.5, 1, 2)},
    **{f"noise {n}": partial(pictures.noise, sigma=n) for n in (4, 10)},
    **{f"frame {s} H": partial(pictures.frame, share=s) for s in (0.02, 0.05)},
    "bars": pictures.bars,
    **{f"palettes x{s}": partial(pictures.palettes, strength=s) for s in (0.5, 1)},
}
TWINS: dict[str, Control] = {"leaning twins": objects.leaning_one}
"""Controls whose clean twin is not the scene itself."""
COPIES = (
    *("1 copy", "2 copies", "3 copies", "1 jittered", "2 jittered", "3 jittered"),
    *("tiles", "varied tiles", "mirrored half"),
)
HARD = ("raised 0.05 H", "raised 0.1 H", "raised 0.2 H", "size x0.7", "size x1.4", "leaning twins")
GHOSTS = ("ghosts of 60%", "ghosts of 40%")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What a measure is for."""

    rises_for: tuple[str, ...]
    """Controls that have the fault; the measure must rise."""
    limits: tuple[str, ...] = ()
    """Controls that are measured and decide nothing: their truth is in between, or beyond the measure."""
    settings: tuple[tuple[str, str], ...] = ()
    """What the measure is built with."""
    withdrawn: bool = False
    """Known to fail: in no default, measured only when named."""


CHECKS: dict[str, Check] = {
    "surplus": Check(rises_for=COPIES, limits=(*HARD, *GHOSTS, "cumulus")),
    "seam": Check(
        limits=("tiles",),  # a seam only where a sun's glow or a shore is cut
        rises_for=("steps of 3", "steps of 6", "steps of 12", "hard cut", "collage", "varied tiles"),
    ),
    "border_seam": Check(rises_for=("steps of 3", "steps of 6", "steps of 12")),
    "style": Check(
        rises_for=("palettes x0.5", "palettes x1", "collage"),
        # A cut may lead to a scene of the same hour, and tiles are tinted by as little as the eye can tell.
        limits=("hard cut", "varied tiles", "drift 20", "drift 60"),
    ),
    "border_frame": Check(rises_for=("frame 0.02 H", "frame 0.05 H", "bars")),
    "blueprint_loss": Check(
        rises_for=("tiles", "varied tiles", "mirrored half", "another scene", "collage", "hard cut"),
        limits=(
            *("1 copy", "2 copies", "3 copies", "1 jittered", "2 jittered", "3 jittered"),
            *("1 different", "2 different", "3 different", "clouds", "cumulus", "ridges", "other texture"),
            *("stars", "waves", "frame 0.02 H", "frame 0.05 H", "bars", "palettes x0.5", "palettes x1"),
            *("drift 20", "drift 60", "blur 2 px", "noise 10", "steps of 12", *HARD, *GHOSTS),
        ),
    ),
    "repetition": Check(rises_for=COPIES, settings=(("backbone", "miniature"),), withdrawn=True),
}

DEFAULT = [name for name, check in CHECKS.items() if not check.withdrawn]
