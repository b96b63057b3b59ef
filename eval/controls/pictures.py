"""Controls that change pixels, not things: steps, drift, blur, noise, frames, palettes."""

from __future__ import annotations

import cv2
import numpy as np

from eval.controls.drawn import Drawn

STEP = 4
"""Steps lie every quarter of the height, as windows of half a height's stride would leave them."""


def borders(parts: Drawn) -> list[int]:
    """The columns at which `steps` puts its steps."""
    stride = parts.scene.height // STEP
    return list(range(stride, parts.scene.width, stride))


def steps(parts: Drawn, rng: np.random.Generator, levels: int) -> np.ndarray:
    """Every second stripe of a quarter height is `levels` of 255 brighter."""
    stripes = (np.arange(parts.scene.width) // (parts.scene.height // STEP)) % 2
    return np.clip(parts.clean.astype(np.int16) + levels * stripes[None, :, None], 0, 255).astype(np.uint8)


def drift(parts: Drawn, rng: np.random.Generator, degrees: float) -> np.ndarray:
    """The hue turns by `degrees` from the left edge to the right one."""
    lab = cv2.cvtColor(parts.clean.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    angle = np.radians(np.linspace(-degrees / 2, degrees / 2, parts.scene.width, dtype=np.float32))
    a, b = lab[..., 1].copy(), lab[..., 2].copy()
    lab[..., 1], lab[..., 2] = a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)
    return (np.clip(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), 0, 1) * 255 + 0.5).astype(np.uint8)


def blur(parts: Drawn, rng: np.random.Generator, sigma: float) -> np.ndarray:
    """A Gaussian blur of `sigma` pixels at a height of 128."""
    return cv2.GaussianBlur(parts.clean, (0, 0), sigma * parts.scene.height / 128)


def noise(parts: Drawn, rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Independent Gaussian noise of `sigma` levels."""
    return np.clip(parts.clean + rng.normal(0, sigma, parts.clean.shape) + 0.5, 0, 255).astype(np.uint8)


def frame(parts: Drawn, rng: np.random.Generator, share: float) -> np.ndarray:
    """A plain frame of `share` of the height on all sides, paper white or nearly black."""
    out, thick = parts.clean.copy(), max(1, round(share * parts.scene.height))
    colour = (244, 240, 232) if rng.random() < 0.5 else (16, 14, 18)
    out[:thick], out[-thick:], out[:, :thick], out[:, -thick:] = colour, colour, colour, colour
    return out


def bars(parts: Drawn, rng: np.random.Generator) -> np.ndarray:
    """Bars of 0.08 heights above and below, as a film has them."""
    out, thick = parts.clean.copy(), round(0.08 * parts.scene.height)
    out[:thick], out[-thick:] = 0, 0
    return out


def palettes(parts: Drawn, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Each of four squares in a palette of its own: tint, contrast and brightness, softly joined."""
    count, w = max(2, parts.scene.width // parts.scene.height), parts.scene.width
    gains = 1 + strength * rng.uniform(-0.35, 0.35, (count, 3))
    lifts = strength * rng.uniform(-40, 40, (count, 1))
    middles = (np.arange(count) + 0.5) * w / count
    edge = 0.06 * parts.scene.height
    at = np.arange(w)[:, None]
    soft = 1 / (1 + np.exp((np.abs(at - middles[None]) - w / count / 2) / edge))
    soft /= soft.sum(axis=1, keepdims=True)
    out = parts.clean * (soft @ gains)[None] + (soft @ lifts)[None]
    return np.clip(out + 0.5, 0, 255).astype(np.uint8)
