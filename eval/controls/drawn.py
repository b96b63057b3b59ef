"""A scene of the miniature's world in parts: ground and sky, sun or moon, subject, to put together anew."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np

from miniature.paint import paint
from miniature.scene import SUBJECTS, Scene, countable, sample_scene
from miniature.sprites import draw_subject

HEIGHT, WIDTH = 128, 512
AWAY = 4.0  # a place, as a fraction of the width, that no picture shows


@dataclass(frozen=True)
class Sprite:
    """A cut-out: premultiplied colour and coverage [rows, columns, 4] in 0..255, the foot's place in it."""

    pixels: np.ndarray
    foot: tuple[float, float]

    @property
    def width(self) -> float:
        """How many columns it covers, in pixels."""
        covered = np.flatnonzero(self.pixels[..., 3].max(axis=0) > 8)
        return float(covered[-1] - covered[0] + 1) if len(covered) else 0.0


@dataclass(frozen=True)
class Drawn:
    """A drawn scroll whose objects are known; `clean` is the picture with each of them once."""

    scene: Scene

    @cached_property
    def bare(self) -> np.ndarray:
        """The picture without subject and without sun or moon, uint8 [height, width, 3]."""
        return paint(replace(self.scene, subject_x=AWAY, light_x=AWAY, birds=0))

    @cached_property
    def sprite(self) -> Sprite:
        """The subject, cut out."""
        return cut_out(self.scene)

    @property
    def subject_at(self) -> tuple[float, float]:
        """The subject's foot (x, y) in pixels."""
        return self.scene.subject_x * self.scene.width, self.scene.subject_y * self.scene.height

    @property
    def light_at(self) -> float:
        """The column of the sun or moon, in pixels."""
        return self.scene.light_x * self.scene.width

    @cached_property
    def clean(self) -> np.ndarray:
        """The scene as it should be, uint8 [height, width, 3]."""
        return put(self.lit, self.sprite, self.subject_at)

    @cached_property
    def lit(self) -> np.ndarray:
        """The picture without its subject."""
        return add_light(self, self.bare, self.light_at)


def drawn(seed: int, height: int = HEIGHT, width: int = WIDTH, **fixed: str) -> Drawn:
    """The scene of `seed` in parts."""
    return Drawn(sample_scene(seed, height, width, **fixed))


def cut_out(scene: Scene, lean: float = 0.0) -> Sprite:
    """A scene's subject as a cut-out, leaning to the right by `lean` columns per row.

    Drawn on black and on white, so that its coverage follows exactly from the drawing itself.
    """
    side = int(2.5 * scene.subject_size * scene.height)
    centred = replace(scene, width=side, height=side, subject_x=0.5, subject_y=0.8)
    centred = replace(centred, subject_size=scene.subject_size * scene.height / side)
    black, white = (np.full((side, side, 3), value, np.uint8) for value in (0, 255))
    draw_subject(black, centred)
    draw_subject(white, centred)
    cover = 255.0 - (white.astype(np.float32) - black).mean(axis=2)
    pixels = np.dstack([black.astype(np.float32), np.where(cover < 2, 0, cover)])
    foot = (0.5 * side, 0.8 * side)
    if lean:
        shear = np.array([[1, -lean, lean * foot[1]], [0, 1, 0]], np.float32)
        pixels = cv2.warpAffine(pixels, shear, (side, side), flags=cv2.INTER_LINEAR)
    return Sprite(pixels, foot)


def changed(
    sprite: Sprite,
    *,
    scale: float = 1.0,
    mirror: bool = False,
    gain: np.ndarray | float = 1.0,
    ghost: float = 1.0,
) -> Sprite:
    """The cut-out at another size, mirrored, in other colours (`gain` per channel), or only faintly there."""
    pixels = sprite.pixels.copy()
    pixels[..., :3] = np.clip(pixels[..., :3] * gain, 0, pixels[..., 3:])
    pixels *= ghost
    x, y = sprite.foot
    if mirror:
        pixels, x = pixels[:, ::-1], pixels.shape[1] - x
    if scale != 1.0:
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=interpolation)
    return Sprite(np.ascontiguousarray(pixels), (x * scale, y * scale))


def put(image: np.ndarray, sprite: Sprite, at: tuple[float, float]) -> np.ndarray:
    """The picture with the cut-out's foot at `at` (x, y), in whole pixels."""
    out = image.astype(np.float32)
    left, top = round(at[0] - sprite.foot[0]), round(at[1] - sprite.foot[1])
    rows, columns = sprite.pixels.shape[:2]
    y0, y1 = max(0, top), min(image.shape[0], top + rows)
    x0, x1 = max(0, left), min(image.shape[1], left + columns)
    if y0 >= y1 or x0 >= x1:
        return image.copy()
    part = sprite.pixels[y0 - top : y1 - top, x0 - left : x1 - left]
    under = out[y0:y1, x0:x1]
    out[y0:y1, x0:x1] = under * (1 - part[..., 3:] / 255) + part[..., :3]
    return np.clip(out + 0.5, 0, 255).astype(np.uint8)


def add_light(parts: Drawn, image: np.ndarray, x: float) -> np.ndarray:
    """The picture with the scene's sun or moon, its glow and its glitter, at column `x`."""
    with_light = paint(replace(parts.scene, subject_x=AWAY, light_x=x / parts.scene.width, birds=0))
    glow = with_light.astype(np.int16) - parts.bare
    return np.clip(image.astype(np.int16) + glow, 0, 255).astype(np.uint8)


def free_places(parts: Drawn, widths: list[float], rng: np.random.Generator) -> list[float]:
    """Columns for things of these widths, apart from each other, from the subject and from the light.

    As many as find room: a fresh draw of all places is tried until they fit, else the best draw is taken.
    Centres stand at least half a height apart, as nearer copies are one thing.
    """
    h, w = parts.scene.height, parts.scene.width
    taken = [(parts.subject_at[0], parts.sprite.width), (parts.light_at, 0.16 * h)]
    best: list[float] = []
    for _ in range(200):
        there, found = list(taken), list[float]()
        for width in widths:
            x = rng.uniform(0.5 * width + 2, w - 0.5 * width - 2)
            if all(abs(x - other) >= max(0.5 * h, 0.5 * (width + size) + 4) for other, size in there):
                there.append((x, width))
                found.append(x)
        if len(found) > len(best):
            best = found
        if len(best) == len(widths):
            break
    return best


def other_subjects(parts: Drawn, rng: np.random.Generator) -> list[Sprite]:
    """Cut-outs of every other subject of the world, in random order, fit for this scene's hour."""
    others = [name for name in SUBJECTS if name != parts.scene.subject]
    scenes = [replace(parts.scene, subject=others[index]) for index in rng.permutation(len(others))]
    return [cut_out(scene) for scene in scenes]


def holds(parts: Drawn, left: float, right: float) -> list[str]:
    """Names of the things that stand wholly between two columns."""
    return [thing.name for thing in countable(parts.scene) if thing.box[0] >= left and thing.box[2] <= right]
