"""Controls that change what is no object: clouds, waves, ridges, stars and birds, other scenes set beside."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from eval.controls.drawn import AWAY, Drawn, drawn, put
from miniature.paint import paint
from miniature.scene import SUBJECTS


def clouds(parts: Drawn, rng: np.random.Generator) -> np.ndarray:
    """The world's own long flat clouds in the same sky; its haze comes with them."""
    other = Drawn(replace(parts.scene, weather="cloudy", seed=int(rng.integers(1 << 30))))
    return other.clean if parts.scene.weather != "cloudy" else _with_sky(parts, rng)


def _with_sky(parts: Drawn, rng: np.random.Generator) -> np.ndarray:
    """Twice the clouds: those of another seed over the scene's own."""
    clear = replace(parts.scene, subject_x=AWAY, light_x=AWAY, birds=0, weather="cloudy")
    again = paint(replace(clear, seed=int(rng.integers(1 << 30)))).astype(np.float32)
    base = parts.bare.astype(np.float32)
    top = int((parts.scene.horizon - 0.24) * parts.scene.height)
    out = parts.clean.astype(np.float32)
    out[:top] += (again - base)[:top] * (np.abs(again - base).sum(-1, keepdims=True) > 6)[:top]
    return put(np.clip(out, 0, 255).astype(np.uint8), parts.sprite, parts.subject_at)


def cumulus(parts: Drawn, rng: np.random.Generator) -> np.ndarray:
    """Three tall heaped clouds of different shapes, as high as wide: clouds, not copies."""
    h, w = parts.scene.height, parts.scene.width
    mask = np.zeros((h, w), np.uint8)
    for x in (np.arange(3) + rng.uniform(0.2, 0.8, 3)) * w / 3:
        base, size = rng.uniform(0.28, 0.42) * h, rng.uniform(0.16, 0.26) * h
        for _ in range(int(rng.integers(5, 9))):
            centre = (int(x + rng.normal(0, 0.35 * size)), int(base - abs(rng.normal(0.35, 0.3)) * size))
            cv2.circle(mask, centre, int(rng.uniform(0.18, 0.42) * size), 255, -1, cv2.LINE_AA)
        mask[int(base) :, max(0, int(x - 2 * size)) : int(x + 2 * size)] = 0
    soft = 0.8 * cv2.GaussianBlur(mask, (0, 0), 0.008 * h)[..., None].astype(np.float32) / 255
    white = np.array({"dusk": (250, 150, 130), "night": (72, 86, 124)}.get(parts.scene.time, (250, 248, 246)))
    out = parts.lit + (white - parts.lit) * soft
    return put(out.astype(np.uint8), parts.sprite, parts.subject_at)


def waves(parts: Drawn, rng: np.random.Generator) -> np.ndarray:
    """Sixty short pale strokes on the ground, at random places."""
    h, w = parts.scene.height, parts.scene.width
    out = parts.lit.copy()
    for _ in range(round(15 * w / h)):
        x, y = rng.uniform(0, w), rng.uniform(parts.scene.horizon + 0.06, 0.97) * h
        base = out[min(int(y), h - 1), min(int(x), w - 1)].astype(float)
        ends = (int(x), int(y)), (int(x + 0.05 * h), int(y))
        cv2.line(out, *ends, tuple(base + (255 - base) * 0.22), max(1, round(h / 96)), cv2.LINE_AA)
    return put(out, parts.sprite, parts.subject_at)


def ridges(parts: Drawn, rng: np.random.Generator) -> np.ndarray:
    """One more ridge on the horizon, of another shape and a darker tone."""
    h, w = parts.scene.height, parts.scene.width
    x = np.arange(w) / h
    crest = np.zeros(w)
    for strength, length in ((0.5, 1.6), (0.3, 0.7), (0.2, 0.4)):
        crest += strength * np.sin(2 * np.pi * x / length + rng.uniform(0, 6.28))
    line = (parts.scene.horizon - 0.07 - 0.06 * crest) * h
    rows = np.arange(1, h + 1)[:, None]
    cover = np.clip(rows - line[None], 0, 1) * (rows < (parts.scene.horizon + 0.01) * h)
    out = parts.lit.astype(np.float32)
    out += (0.72 * out - out) * cover[..., None]
    return put(out.astype(np.uint8), parts.sprite, parts.subject_at)


def stars(parts: Drawn, rng: np.random.Generator) -> np.ndarray:
    """Forty bright points in the upper sky."""
    h, w = parts.scene.height, parts.scene.width
    out = parts.lit.copy()
    for _ in range(round(10 * w / h)):
        at = (int(rng.uniform(0, w) * 16), int(rng.uniform(0.03, 0.36) * h * 16))
        cv2.circle(out, at, max(4, round(0.0065 * h * 16)), (235, 238, 250), -1, cv2.LINE_AA, 4)
    return put(out, parts.sprite, parts.subject_at)


def birds(parts: Drawn, rng: np.random.Generator) -> np.ndarray:
    """The world's own flock of four."""
    flock = paint(replace(parts.scene, light_x=AWAY, birds=4)).astype(np.int16)
    without = paint(replace(parts.scene, light_x=AWAY, birds=0))
    return np.clip(parts.clean.astype(np.int16) + flock - without, 0, 255).astype(np.uint8)


def texture(parts: Drawn, rng: np.random.Generator) -> np.ndarray:
    """The same objects in a landscape of another seed: other ridges, strokes and clouds."""
    return Drawn(replace(parts.scene, seed=int(rng.integers(1 << 30)))).clean


def another_scene(parts: Drawn, rng: np.random.Generator) -> np.ndarray:
    """Another continuous scene, as good as its twin."""
    return drawn(int(rng.integers(1 << 30)) + (1 << 31), parts.scene.height, parts.scene.width).clean


def strangers(parts: Drawn, rng: np.random.Generator, count: int) -> list[Drawn]:
    """Scenes of other seeds, each with a subject of its own that this scene lacks."""
    names = [name for name in SUBJECTS if name != parts.scene.subject]
    size = parts.scene.height, parts.scene.width
    return [
        drawn(int(rng.integers(1 << 30)) + (1 << 31), *size, subject=names[index])
        for index in rng.permutation(len(names))[:count]
    ]


def collage(parts: Drawn, rng: np.random.Generator) -> np.ndarray:
    """Four unrelated squares side by side, no two with the same subject, none with a second sun or moon."""
    height, count = parts.scene.height, parts.scene.width // parts.scene.height
    squares = [_square(parts.clean, parts)]
    for other in strangers(parts, rng, count - 1):
        squares.append(_square(put(other.bare, other.sprite, other.subject_at), other))
    order = rng.permutation(len(squares))
    return np.hstack([squares[index][:, :height] for index in order])


def _square(image: np.ndarray, parts: Drawn) -> np.ndarray:
    height, width = parts.scene.height, parts.scene.width
    left = int(np.clip(parts.subject_at[0] - height / 2, 0, width - height))
    return image[:, left : left + height]


def hard_cut(parts: Drawn, rng: np.random.Generator) -> np.ndarray:
    """From a random column on, away from this scene's things, another scene without sun or moon.

    What stands at the left of the column stays this scene's, what stands at its right is the other's subject
    alone, so that nothing is there twice.
    """
    w = parts.scene.width
    other = strangers(parts, rng, 1)[0]
    x = int(rng.uniform(0.3, 0.7) * w)
    image = put(other.bare, other.sprite, other.subject_at)
    return np.hstack([parts.clean[:, :x], image[:, x:]])
