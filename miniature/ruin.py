"""Scenes as a painter ruins them: crowds of one subject, half-formed, cut, smeared and see-through copies.

Windows that each paint the prompt, and are then averaged, leave such pictures. Here they are drawn, so that
what is in them and where is known exactly. A copy of which less than `SEEN` is left is not counted, and
`crowd` never makes one that one could argue about: what is left is either plainly there or not there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from miniature.paint import paint
from miniature.scene import SUBJECTS, Scene, Thing, countable, sample_scene
from miniature.sprites import draw_subject

SEEN = 0.45
_NOWHERE = 50.0  # a place far outside of any picture, in widths
_APART = 0.30  # centres of two copies are at least so many heights apart


@dataclass(frozen=True)
class Ruin:
    """What became of one copy of a subject."""

    opacity: float = 1.0
    kept: float = 1.0  # share of its box that is painted
    side: int = 0  # from which side it is cut: 0 left, 1 right, 2 top, 3 bottom
    smear: float = 0.0  # sigma in hundredths of the picture's height
    wave: float = 0.0  # how far its outline is bent, in hundredths of the picture's height


def sample_ruin(rng: np.random.Generator) -> Ruin:
    """A third of all copies stay whole; the others suffer one or two things."""
    if rng.random() < 0.33:
        return Ruin()
    ruin = Ruin()
    for kind in rng.choice(4, size=rng.integers(1, 3), replace=False):
        if kind == 0:
            ruin = replace(ruin, opacity=rng.uniform(0.55, 0.9))
        elif kind == 1:
            ruin = replace(ruin, kept=rng.uniform(0.5, 0.85), side=int(rng.integers(4)))
        elif kind == 2:
            ruin = replace(ruin, smear=rng.uniform(0.8, 3.0))
        else:
            ruin = replace(ruin, wave=rng.uniform(1.0, 3.5))
    return ruin


def crowd(seed: int, height: int, width: int) -> tuple[np.ndarray, list[Thing]]:
    """A picture (height x width x 3, uint8) with up to six ruined copies of one subject, and its things."""
    rng = np.random.default_rng([seed, 38])
    scene = sample_scene(seed, height, width)
    picture = paint(replace(scene, subject_x=_NOWHERE, birds=0))
    things = [thing for thing in countable(scene) if thing.name not in SUBJECTS]
    for x in _columns(rng, scene):
        copy = _elsewhere(scene, rng, x)
        picture = _added(picture, copy, sample_ruin(rng), rng)
        things += [thing for thing in countable(copy) if thing.name in SUBJECTS]
    return picture, things


def _columns(rng: np.random.Generator, scene: Scene) -> list[float]:
    """Where the copies stand, as fractions of the width: apart, but close enough to touch."""
    gap = _APART * scene.height / scene.width
    chosen: list[float] = []
    for x in rng.uniform(0.03, 0.97, size=int(rng.integers(0, 7))):
        if all(abs(x - other) > gap for other in chosen):
            chosen.append(float(x))
    return chosen


def _elsewhere(scene: Scene, rng: np.random.Generator, x: float) -> Scene:
    """The scene with its subject at column x, of another size and a little higher or lower."""
    return replace(
        scene,
        subject_x=x,
        subject_y=scene.subject_y + rng.uniform(-0.05, 0.05),
        subject_size=scene.subject_size * rng.uniform(0.65, 1.1),
    )


def _added(picture: np.ndarray, copy: Scene, ruin: Ruin, rng: np.random.Generator) -> np.ndarray:
    """The picture with one more subject, in the state that `ruin` says."""
    drawn = picture.copy()
    draw_subject(drawn, copy)
    drawn = drawn.astype(np.float32)
    if ruin.wave:
        drawn = _bent(drawn, ruin.wave * copy.height / 100, rng)
    if ruin.smear:
        drawn = cv2.GaussianBlur(drawn, (0, 0), ruin.smear * copy.height / 100)
    alpha = _mask(copy, ruin)[..., None]
    return np.clip(picture + (drawn - picture) * alpha + 0.5, 0, 255).astype(np.uint8)


def _mask(copy: Scene, ruin: Ruin) -> np.ndarray:
    """How much of the drawing replaces the picture: nothing far away, softly less where it is cut."""
    h, w = copy.height, copy.width
    left, top, right, bottom = next(t.box for t in countable(copy) if t.name in SUBJECTS)
    cut = 1 - ruin.kept
    if ruin.side == 0:
        left += cut * (right - left)
    elif ruin.side == 1:
        right -= cut * (right - left)
    elif ruin.side == 2:
        top += cut * (bottom - top)
    else:
        bottom -= cut * (bottom - top)
    spread = 0.06 * h if ruin.kept == 1 else 0.0  # a whole copy keeps what reaches over its box
    soft = 0.02 * h
    columns, rows = np.arange(w) + 0.5, np.arange(h) + 0.5
    across = np.clip(np.minimum(columns - left + spread, right + spread - columns) / soft + 0.5, 0, 1)
    down = np.clip(np.minimum(rows - top + spread, bottom + spread - rows) / soft + 0.5, 0, 1)
    return (ruin.opacity * down[:, None] * across[None]).astype(np.float32)


def _bent(picture: np.ndarray, reach: float, rng: np.random.Generator) -> np.ndarray:
    """The picture seen through uneven glass: moved by up to `reach` pixels, smoothly."""
    height, width = picture.shape[:2]
    coarse = rng.uniform(-reach, reach, size=(2, max(3, height // 10), max(3, width // 10)))
    dx, dy = (cv2.resize(plane.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
              for plane in coarse)  # fmt: skip
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return cv2.remap(picture, columns + dx, rows + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def ghosts(
    first: tuple[np.ndarray, list[Thing]], second: tuple[np.ndarray, list[Thing]], share: float
) -> tuple[np.ndarray, list[Thing]]:
    """Two pictures of one size averaged, `share` of the first; what is too faint to count is left out.

    Things of one name that lie nearly on each other count once.
    """
    mixed = np.clip(share * first[0].astype(np.float32) + (1 - share) * second[0] + 0.5, 0, 255)
    things: list[Thing] = []
    for seen, told in ((share, first[1]), (1 - share, second[1])):
        if seen >= SEEN:
            things += [thing for thing in told if not _doubled(thing, things, first[0].shape[0])]
    return mixed.astype(np.uint8), things


def _doubled(thing: Thing, things: list[Thing], height: int) -> bool:
    (x, y), near = thing.centre, 0.5 * _APART * height
    return any(
        thing.name == other.name and np.hypot(x - other.centre[0], y - other.centre[1]) < near
        for other in things
    )
