"""The miniature's taste, defined plainly: how beautiful a drawn picture counts, from 1 to 10.

The score starts at 4.5 and adds what the scene promises and what the pixels keep:

    hour        dusk +1.2, dawn +0.8, night +0.2, noon 0         golden light is liked
    weather     clear +0.3, cloudy +0.2, misty -0.4
    colour      -1 .. +1.5, colourfulness after Hasler and Suesstrunk
    contrast    -1 .. +1, spread of the luminance
    sharpness   0 .. -2.5, for blur (its sigma in hundredths of the height)
    noise       0 .. -2, for grain (its sigma in grey levels)

Degraded pictures are made by `degrade`, which returns what it did, so the penalty is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from miniature.scene import Scene

_HOUR = {"dawn": 0.8, "noon": 0.0, "dusk": 1.2, "night": 0.2}
_WEATHER = {"clear": 0.3, "cloudy": 0.2, "misty": -0.4}


@dataclass(frozen=True)
class Damage:
    """What was done to a picture: blur in hundredths of its height, grain in grey levels, the rest."""

    blur: float = 0.0
    noise: float = 0.0
    saturation: float = 1.0
    contrast: float = 1.0


def sample_damage(rng: np.random.Generator) -> Damage:
    """Half of all pictures stay whole; the others are blurred, grained, faded or flattened, or all that."""
    if rng.random() < 0.5:
        return Damage()
    blur = rng.uniform(0.3, 4.0) if rng.random() < 0.5 else 0.0
    noise = rng.uniform(3, 30) if rng.random() < 0.35 else 0.0
    saturation = rng.uniform(0.3, 1.25) if rng.random() < 0.5 else 1.0
    contrast = rng.uniform(0.4, 1.15) if rng.random() < 0.4 else 1.0
    return Damage(blur, noise, saturation, contrast)


def degrade(picture: np.ndarray, damage: Damage, rng: np.random.Generator) -> np.ndarray:
    """The uint8 picture after the damage."""
    values = picture.astype(np.float32)
    if damage.saturation != 1:
        grey = values.mean(-1, keepdims=True)
        values = grey + (values - grey) * damage.saturation
    if damage.contrast != 1:
        mean = values.mean()
        values = mean + (values - mean) * damage.contrast
    if damage.blur:
        values = cv2.GaussianBlur(values, (0, 0), damage.blur * picture.shape[0] / 100)
    if damage.noise:
        values = values + rng.standard_normal(values.shape, dtype=np.float32) * damage.noise
    return np.clip(values, 0, 255).astype(np.uint8)


def aesthetic(scene: Scene, picture: np.ndarray, damage: Damage | None = None) -> float:
    """The score (1..10) of a scene's uint8 picture that suffered `damage`."""
    damage = damage or Damage()
    score = 4.5 + _HOUR[scene.time] + _WEATHER[scene.weather]
    score += float(np.clip((colourfulness(picture) - 45) / 30, -1, 1.5))
    score += float(np.clip((picture.mean(-1).std() - 42) / 22, -1, 1))
    score -= min(2.5, 0.8 * damage.blur) + min(2.0, 0.08 * damage.noise)
    return float(np.clip(score, 1, 10))


def colourfulness(picture: np.ndarray) -> float:
    """Hasler and Suesstrunk's measure of a uint8 picture: 0 for grey, 40 for moderate, above 80 for vivid."""
    red, green, blue = (picture[..., channel].astype(np.float32) for channel in range(3))
    first, second = red - green, 0.5 * (red + green) - blue
    spread = np.hypot(first.std(), second.std())
    return float(spread + 0.3 * np.hypot(first.mean(), second.mean()))
