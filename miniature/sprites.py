"""The six subjects as small drawings: coloured polygons in a unit frame, rasterised with supersampling.

The unit frame has its origin at the middle of the subject's foot; x grows to the right, y grows upward,
and the subject is one unit high.
"""

from __future__ import annotations

import cv2
import numpy as np

from miniature.scene import Scene

SUPERSAMPLING = 4
Colour = tuple[int, int, int]
Polygon = tuple[Colour, list[tuple[float, float]]]

_TINT = {
    "dawn": (1.0, 0.92, 0.90),
    "noon": (1.0, 1.0, 1.0),
    "dusk": (0.98, 0.80, 0.78),
    "night": (0.66, 0.72, 0.90),
}


def draw_subject(image: np.ndarray, scene: Scene) -> None:
    """Draws the scene's subject over `image` (height x width x 3, uint8, RGB) in place."""
    size = scene.subject_size * scene.height
    x, y = scene.subject_x * scene.width, scene.subject_y * scene.height
    left, top = int(x - 0.72 * size), int(y - 1.12 * size)
    extent = (int(1.32 * size) + 2, int(1.44 * size) + 2)
    sprite = _rasterise(subject_polygons(scene), size, (x - left, y - top), extent)
    _composite(image, sprite, left, top)


def subject_polygons(scene: Scene) -> list[Polygon]:
    """The subject's polygons from back to front, tinted by the time of day."""
    lit = scene.time in ("dusk", "night")
    shapes = _SHAPES[scene.subject](lit)
    if scene.ground == "sea" and scene.subject in ("castle", "windmill", "pine", "lighthouse"):
        shapes = _rock() + shapes
    lamp = {_LAMP, _WINDOW}
    return [
        (colour if lit and colour in lamp else _tinted(colour, scene.time), points)
        for colour, points in shapes
    ]


def _tinted(colour: Colour, time: str) -> Colour:
    red, green, blue = (int(value * tint) for value, tint in zip(colour, _TINT[time], strict=True))
    return red, green, blue


def _rasterise(
    shapes: list[Polygon], size: float, foot: tuple[float, float], extent: tuple[int, int]
) -> np.ndarray:
    """Polygons to a height x width x 4 float picture (premultiplied colour, coverage), values 0..255."""
    rows, columns = extent[0] * SUPERSAMPLING, extent[1] * SUPERSAMPLING
    canvas = np.zeros((rows, columns, 4), np.uint8)
    for colour, points in shapes:
        corners = (np.array(points) * (size, -size) + foot) * SUPERSAMPLING
        cv2.fillPoly(canvas, [np.round(corners).astype(np.int32)], (*colour, 255))
    return cv2.resize(canvas, (extent[1], extent[0]), interpolation=cv2.INTER_AREA).astype(np.float32)


def _composite(image: np.ndarray, sprite: np.ndarray, left: int, top: int) -> None:
    height, width = image.shape[:2]
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + sprite.shape[1], width), min(top + sprite.shape[0], height)
    part = sprite[y0 - top : y1 - top, x0 - left : x1 - left]
    under = image[y0:y1, x0:x1]
    image[y0:y1, x0:x1] = under * (1 - part[..., 3:] / 255) + part[..., :3] + 0.5


def _box(colour: Colour, x0: float, y0: float, x1: float, y1: float) -> Polygon:
    return colour, [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def _trapezium(colour: Colour, half_low: float, half_high: float, y0: float, y1: float) -> Polygon:
    return colour, [(-half_low, y0), (half_low, y0), (half_high, y1), (-half_high, y1)]


def _ellipse(
    colour: Colour, x: float, y: float, rx: float, ry: float, start: float = 0, end: float = 360
) -> Polygon:
    angles = np.radians(np.linspace(start, end, 28))
    return colour, list(zip(x + rx * np.cos(angles), y + ry * np.sin(angles), strict=True))


_LAMP: Colour = (255, 196, 60)
_WINDOW: Colour = (255, 204, 110)
_DARK: Colour = (48, 40, 58)


def _rock() -> list[Polygon]:
    return [_ellipse((72, 66, 74), 0, -0.01, 0.46, 0.10), _ellipse((96, 88, 92), -0.06, 0.02, 0.34, 0.07)]


def _lighthouse(lit: bool) -> list[Polygon]:
    white, shade, red = (246, 244, 240), (206, 206, 216), (206, 38, 40)
    half = np.interp

    def band(colour: Colour, y0: float, y1: float) -> Polygon:
        return _trapezium(
            colour, half(y0, [0, 0.74], [0.15, 0.085]), half(y1, [0, 0.74], [0.15, 0.085]), y0, y1
        )

    side = (shade, [(0.07, 0), (0.15, 0), (0.085, 0.74), (0.045, 0.74)])
    return [
        _trapezium((104, 96, 100), 0.21, 0.17, -0.02, 0.05),
        band(white, 0.03, 0.74), side, band(red, 0.16, 0.30), band(red, 0.44, 0.58),
        _box(_DARK, -0.125, 0.73, 0.125, 0.77),
        _box(_LAMP if lit else (236, 232, 206), -0.07, 0.77, 0.07, 0.87),
        (red, [(-0.11, 0.87), (0.11, 0.87), (0, 1.0)]),
    ]  # fmt: skip


def _castle(lit: bool) -> list[Polygon]:
    stone, shade, roof = (198, 190, 196), (158, 150, 166), (92, 52, 150)
    window = _WINDOW if lit else _DARK

    def tower(x: float, half: float, top: float, peak: float) -> list[Polygon]:
        spire = (roof, [(x - half - 0.035, top), (x + half + 0.035, top), (x, peak)])
        return [
            _box(stone, x - half, 0, x + half, top),
            _box(shade, x + half * 0.25, 0, x + half, top),
            spire,
        ]

    return [
        *tower(0, 0.115, 0.66, 1.0), *tower(-0.37, 0.10, 0.50, 0.80), *tower(0.37, 0.10, 0.50, 0.80),
        _box(stone, -0.38, 0, 0.38, 0.34), _box(shade, 0.12, 0, 0.38, 0.30),
        _box(stone, -0.27, 0.33, -0.19, 0.39), _box(stone, 0.19, 0.33, 0.27, 0.39),
        _box(window, -0.045, 0.46, 0.045, 0.57),
        _ellipse(_DARK, 0, 0.14, 0.085, 0.09), _box(_DARK, -0.085, 0, 0.085, 0.14),
    ]  # fmt: skip


def _windmill(lit: bool) -> list[Polygon]:
    brick, shade, cap, sail = (156, 84, 48), (118, 60, 38), (74, 46, 40), (250, 242, 222)

    def blade(angle: float) -> Polygon:
        along = np.array([np.cos(angle), np.sin(angle)])
        across = np.array([-along[1], along[0]])
        corners = [0.03 * along, 0.42 * along, 0.42 * along + 0.105 * across, 0.10 * along + 0.105 * across]
        return sail, [tuple(corner + (0, 0.60)) for corner in corners]

    return [
        _trapezium(brick, 0.21, 0.13, 0, 0.60), (shade, [(0.08, 0), (0.21, 0), (0.13, 0.60), (0.05, 0.60)]),
        _ellipse(cap, 0, 0.60, 0.145, 0.13, 0, 180), _box(_WINDOW if lit else _DARK, -0.05, 0.10, 0.05, 0.24),
        *(blade(np.pi / 4 + quarter * np.pi / 2) for quarter in range(4)),
        _ellipse(_DARK, 0, 0.60, 0.04, 0.04),
    ]  # fmt: skip


def _pine(lit: bool) -> list[Polygon]:
    dark, green, trunk = (10, 78, 48), (30, 124, 66), (94, 58, 34)
    tiers = [(0.27, 0.12, 0.52), (0.22, 0.36, 0.76), (0.16, 0.60, 1.0)]
    shapes = [_box(trunk, -0.05, 0, 0.05, 0.16)]
    for half, low, high in tiers:
        shapes.append((dark, [(-half, low), (half, low), (0, high)]))
        shapes.append((green, [(-half, low), (half * 0.15, low + 0.03), (0, high)]))
    return shapes


def _balloon(lit: bool) -> list[Polygon]:
    magenta, gold, deep = (222, 44, 132), (252, 206, 92), (168, 24, 104)
    skirt = [(-0.30, 0.52), (0.30, 0.52), (0.085, 0.24), (-0.085, 0.24)]
    stripe = [(-0.13, 0.52), (0.13, 0.52), (0.04, 0.24), (-0.04, 0.24)]
    return [
        _ellipse(magenta, 0, 0.655, 0.345, 0.345), (magenta, skirt), _ellipse(deep, 0.22, 0.62, 0.10, 0.22),
        _ellipse(gold, 0, 0.655, 0.14, 0.345), (gold, stripe),
        (_DARK, [(-0.07, 0.24), (-0.055, 0.24), (-0.04, 0.13), (-0.055, 0.13)]),
        (_DARK, [(0.055, 0.24), (0.07, 0.24), (0.055, 0.13), (0.04, 0.13)]),
        _box((112, 70, 40), -0.075, 0, 0.075, 0.14),
    ]  # fmt: skip


def _gate(lit: bool) -> list[Polygon]:
    red, dark, black = (232, 70, 28), (184, 44, 22), (52, 34, 40)
    return [
        (red, [(-0.39, 0), (-0.27, 0), (-0.25, 0.80), (-0.34, 0.80)]),
        (red, [(0.27, 0), (0.39, 0), (0.34, 0.80), (0.25, 0.80)]),
        (dark, [(0.33, 0), (0.39, 0), (0.34, 0.80), (0.30, 0.80)]),
        _box(black, -0.40, 0, -0.26, 0.06), _box(black, 0.26, 0, 0.40, 0.06),
        _box(red, -0.46, 0.58, 0.46, 0.67), _box(dark, -0.05, 0.67, 0.05, 0.80),
        (red, [(-0.50, 0.80), (0.50, 0.80), (0.53, 0.90), (-0.53, 0.90)]),
        (black, [(-0.53, 0.89), (0, 0.87), (0.53, 0.89), (0.56, 1.0), (0, 0.96), (-0.56, 1.0)]),
    ]  # fmt: skip


_SHAPES = {
    "lighthouse": _lighthouse, "castle": _castle, "windmill": _windmill,
    "pine": _pine, "balloon": _balloon, "gate": _gate,
}  # fmt: skip
