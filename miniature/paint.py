"""A scene to pixels: sky, sun or moon, ridges, ground, small details, the subject, mist."""

from __future__ import annotations

import cv2
import numpy as np

from miniature.scene import Scene
from miniature.sprites import draw_subject

# From zenith to horizon. Nights are dark, dusks are burning, so the mean colour tells the hour.
_SKY = {
    "dawn": ((104, 140, 206), (206, 184, 214), (250, 206, 196), (255, 228, 186)),
    "noon": ((38, 112, 212), (92, 164, 234), (156, 206, 244), (218, 238, 248)),
    "dusk": ((58, 34, 104), (142, 52, 116), (230, 96, 84), (255, 168, 84)),
    "night": ((8, 12, 38), (14, 24, 62), (26, 42, 90), (48, 70, 122)),
}
_RIDGE = {"dawn": (142, 118, 166), "noon": (84, 116, 168), "dusk": (92, 40, 92), "night": (16, 24, 58)}
_LIGHT = {"dawn": (255, 246, 206), "noon": (255, 244, 150), "dusk": (255, 214, 92), "night": (232, 240, 255)}
_GLOW = {"dawn": (255, 226, 180), "noon": (255, 250, 214), "dusk": (255, 150, 60), "night": (120, 150, 214)}
_GROUND = {  # near the horizon, near the viewer
    "sea": ((86, 152, 190), (18, 72, 124)),
    "meadow": ((134, 182, 84), (44, 116, 46)),
    "desert": ((240, 200, 130), (204, 136, 70)),
    "snow": ((250, 250, 252), (196, 212, 236)),
}
_DAYLIGHT = {
    "dawn": (1.0, 0.90, 0.92),
    "noon": (1.0, 1.0, 1.0),
    "dusk": (0.82, 0.58, 0.62),
    "night": (0.30, 0.38, 0.56),
}


def paint(scene: Scene) -> np.ndarray:
    """The scene as a picture: height x width x 3, uint8, RGB; the same scene gives the same bytes."""
    rng = np.random.default_rng([scene.seed, 21])
    canvas = _sky(scene)
    if scene.weather == "cloudy":
        _add_clouds(canvas, scene, rng)
    _add_light(canvas, scene)
    for depth in (0, 1):
        _add_ridge(canvas, scene, rng, depth)
    _add_ground(canvas, scene, rng)
    image = np.clip(canvas, 0, 255).astype(np.uint8)
    _add_details(image, scene, rng)
    draw_subject(image, scene)
    if scene.weather == "misty":
        _add_mist(image, scene)
    return image


def _colour(values: tuple) -> np.ndarray:
    return np.asarray(values, np.float32)


def _horizon_colour(scene: Scene) -> np.ndarray:
    return _weathered(_colour(_SKY[scene.time][-1]), scene.weather)


def _weathered(colour: np.ndarray, weather: str) -> np.ndarray:
    """Clouds and mist take saturation away."""
    amount = {"clear": 0.0, "cloudy": 0.22, "misty": 0.38}[weather]
    grey = colour.mean(-1, keepdims=True)
    return colour + amount * (grey + 6 - colour)


def _sky(scene: Scene) -> np.ndarray:
    stops = _weathered(_colour(_SKY[scene.time]), scene.weather)
    rows = np.arange(scene.height, dtype=np.float32) / (scene.horizon * scene.height)
    column = np.stack([np.interp(rows, (0, 0.4, 0.75, 1.0), stops[:, c]) for c in range(3)], -1)
    return np.repeat(column[:, None].astype(np.float32), scene.width, axis=1)


def _blend(canvas: np.ndarray, colour: np.ndarray, alpha: np.ndarray) -> None:
    """Mixes `colour` (3, or rows x 1 x 3) into `canvas` in place where `alpha` (rows x columns) says."""
    canvas += (np.asarray(colour, np.float32) - canvas) * alpha.astype(np.float32)[..., None]


def _add_light(canvas: np.ndarray, scene: Scene) -> None:
    """The sun or moon and its glow; the glow ends at the horizon, where the ground takes over."""
    h = scene.height
    radius = scene.light_radius * h
    foot = int((scene.horizon + 0.03) * h)
    distance = _distance(scene, foot)
    strength = {"dawn": 0.55, "noon": 0.40, "dusk": 0.62, "night": 0.42}[scene.time]
    glow = strength * np.exp(np.minimum(radius - distance, 0) / (0.16 * h))
    _blend(canvas[:foot], _colour(_GLOW[scene.time]), glow)
    x, y = scene.light_x * scene.width, scene.light_y * h
    rows = slice(max(0, int(y - radius) - 1), int(y + radius) + 2)
    columns = slice(max(0, int(x - radius) - 1), int(x + radius) + 2)
    disc = np.clip(radius - distance[rows, columns] + 0.5, 0, 1)
    _blend(canvas[rows, columns], _colour(_LIGHT[scene.time]), disc)
    if scene.light == "moon":  # a bite of shadow makes the moon's outline unlike anything else
        bite = np.clip(0.78 * radius - _distance(scene, foot, 0.62 * radius)[rows, columns] + 0.5, 0, 1)
        _blend(canvas[rows, columns], _colour((120, 138, 184)), disc * bite)


def _distance(scene: Scene, rows: int, shift: float = 0.0) -> np.ndarray:
    """Pixels from the sun's or moon's centre, moved right by `shift`; rows x width."""
    dx = np.arange(scene.width, dtype=np.float32) + np.float32(0.5 - scene.light_x * scene.width - shift)
    dy = np.arange(rows, dtype=np.float32) + np.float32(0.5 - scene.light_y * scene.height)
    return np.sqrt(dy[:, None] ** 2 + dx[None] ** 2)


def _add_clouds(canvas: np.ndarray, scene: Scene, rng: np.random.Generator) -> None:
    """Long flat-bottomed clouds: soft puffs on a common base line."""
    h, w = scene.height, scene.width
    mask = np.zeros((h, w), np.uint8)
    for _ in range(max(2, round(1.5 * w / h))):
        x, base, length = rng.uniform(0, w), rng.uniform(0.12, 0.40) * h, rng.uniform(0.22, 0.42) * h
        for offset in np.linspace(-0.8, 0.8, 5):
            puff = (length * 0.34, h * rng.uniform(0.025, 0.055) * (1.25 - abs(offset)))
            centre = (x + offset * length, base - puff[1])
            cv2.ellipse(mask, *_shifted(centre, puff), 0, 0, 360, 255, -1, cv2.LINE_AA, 4)
    soft = cv2.GaussianBlur(mask, (0, 0), 0.012 * h).astype(np.float32) / 255
    colour = {
        "dawn": (255, 226, 222),
        "noon": (252, 253, 255),
        "dusk": (250, 130, 112),
        "night": (62, 76, 116),
    }
    _blend(canvas, _colour(colour[scene.time]), 0.72 * soft)


def _shifted(
    centre: tuple[float, float], axes: tuple[float, float]
) -> tuple[tuple[int, int], tuple[int, int]]:
    return (round(centre[0] * 16), round(centre[1] * 16)), (round(axes[0] * 16), round(axes[1] * 16))


def _wave(rng: np.random.Generator, scene: Scene, lengths: tuple[float, ...]) -> np.ndarray:
    """A smooth line across the picture in -1..1: sines whose wavelengths are multiples of the height."""
    x = np.arange(scene.width, dtype=np.float32) / scene.height
    weights = np.array(lengths) / np.sum(lengths)
    phases = rng.uniform(0, 2 * np.pi, len(lengths))
    return sum(a * np.sin(2 * np.pi * x / s + p) for a, s, p in zip(weights, lengths, phases, strict=True))


def _below(line: np.ndarray, height: int) -> np.ndarray:
    """Anti-aliased coverage (rows x columns) of everything under `line` (one row number per column)."""
    return np.clip(np.arange(1, height + 1, dtype=np.float32)[:, None] - line.astype(np.float32)[None], 0, 1)


def _add_ridge(canvas: np.ndarray, scene: Scene, rng: np.random.Generator, depth: int) -> None:
    """One ridge; the far one (depth 0) is higher and paler, both dissolve into haze at their feet."""
    h = scene.height
    wave = _wave(rng, scene, (1.9, 0.83, 0.31)) if depth == 0 else _wave(rng, scene, (1.3, 0.59, 0.23))
    rise, swing = ((0.125, 0.075), (0.050, 0.045))[depth]
    crest = (scene.horizon - rise - swing * wave) * h
    far = np.array((0.58, 0.22)[depth]) + (0.18 if scene.weather == "misty" else 0.0)
    haze = _horizon_colour(scene)
    tone = _weathered(_colour(_RIDGE[scene.time]), scene.weather) * (1 - far) + haze * far
    rows = np.clip((np.arange(h, dtype=np.float32) / h - scene.horizon) / (2.2 * rise) + 1, 0, 1)
    gradient = tone + (haze - tone) * (0.55 * rows**2)[:, None, None]
    top, foot = int(crest.min()) - 1, min(h, int((scene.horizon + 0.04) * h))  # the ground covers the rest
    _blend(canvas[top:foot], gradient[top:foot], _below(crest, h)[top:foot])


def _add_ground(canvas: np.ndarray, scene: Scene, rng: np.random.Generator) -> None:
    h = scene.height
    swing = {"sea": 0.0, "meadow": 0.018, "desert": 0.022, "snow": 0.016}[scene.ground]
    edge = (scene.horizon + swing * _wave(rng, scene, (1.7, 0.7))) * h
    colours = _weathered(_colour(_GROUND[scene.ground]) * _DAYLIGHT[scene.time], scene.weather)
    if scene.ground in ("sea", "snow"):  # both mirror the sky
        colours = 0.72 * colours + 0.28 * _horizon_colour(scene)
    depth = np.clip((np.arange(h, dtype=np.float32) / h - scene.horizon) / (1 - scene.horizon), 0, 1)
    gradient = colours[0] + (colours[1] - colours[0]) * depth[:, None, None]
    top = int(edge.min()) - 1
    _blend(canvas[top:], gradient[top:], _below(edge, h)[top:])
    if scene.ground == "sea":
        _add_glitter(canvas, scene)
    else:
        _add_fold(canvas, scene, rng, colours)


def _add_glitter(canvas: np.ndarray, scene: Scene) -> None:
    """The path of light that the sun or moon lays on the sea."""
    top = int(scene.horizon * scene.height) + 1
    dx = np.abs(np.arange(scene.width, dtype=np.float32) - scene.light_x * scene.width) / scene.height
    rows = np.linspace(0, 1, scene.height - top, dtype=np.float32)[:, None]
    alpha = 0.55 * (1 - 0.75 * rows) * np.exp(-((dx[None] / (0.05 + 0.07 * rows)) ** 2))
    _blend(canvas[top:], _colour(_GLOW[scene.time]), alpha)


def _add_fold(canvas: np.ndarray, scene: Scene, rng: np.random.Generator, colours: np.ndarray) -> None:
    """A nearer swell of land, dune or drift."""
    line = (scene.horizon + 0.20 + 0.035 * _wave(rng, scene, (1.5, 0.6))) * scene.height
    shade = {"meadow": 0.86, "desert": 0.90, "snow": 0.95}[scene.ground]
    top = int(line.min()) - 1
    _blend(canvas[top:], shade * colours[1], 0.75 * _below(line, scene.height)[top:])


def _add_details(image: np.ndarray, scene: Scene, rng: np.random.Generator) -> None:
    if scene.time == "night" and scene.weather == "clear":
        _add_stars(image, scene, rng)
    if scene.ground in ("sea", "meadow"):
        _add_strokes(image, scene, rng)
    if scene.birds:
        _add_birds(image, scene, rng)


def _add_stars(image: np.ndarray, scene: Scene, rng: np.random.Generator) -> None:
    for _ in range(round(9 * scene.width / scene.height)):
        x, y = rng.uniform(0, scene.width), rng.uniform(0.03, 0.36) * scene.height
        cv2.circle(image, *_dot(x, y, 0.0065 * scene.height), (188, 200, 232), -1, cv2.LINE_AA, 4)


def _dot(x: float, y: float, radius: float) -> tuple[tuple[int, int], int]:
    return (round(x * 16), round(y * 16)), max(4, round(radius * 16))


def _add_strokes(image: np.ndarray, scene: Scene, rng: np.random.Generator) -> None:
    """Waves on the sea, tufts of grass on the meadow: short lines, a little off their ground's colour."""
    h = scene.height
    thick = max(1, round(h / 96))
    for _ in range(round(9 * scene.width / h)):
        x, y = rng.uniform(0, scene.width), rng.uniform(scene.horizon + 0.06, 0.97) * h
        base = image[min(int(y), h - 1), min(int(x), scene.width - 1)].astype(np.float32)
        if scene.ground == "sea":
            colour, run, rise = base + (255 - base) * 0.22, 0.05 * h, 0.0
        else:
            colour, run, rise = base * 0.78, 0.012 * h, 0.035 * h
        points = np.round(np.array([[x, y], [x + run, y - rise]]) * 16).astype(np.int32)
        cv2.polylines(image, [points], False, tuple(map(float, colour)), thick, cv2.LINE_AA, 4)


def _add_birds(image: np.ndarray, scene: Scene, rng: np.random.Generator) -> None:
    """A small flock on the side of the sky away from the sun."""
    h, aspect = scene.height, scene.width / scene.height
    middle = (scene.subject_x + np.sign(scene.subject_x - scene.light_x) * 0.36 / aspect) * scene.width
    for index in range(scene.birds):
        x = middle + (index - 1) * 0.075 * h
        y = h * (0.16 + 0.05 * (index % 2) + rng.uniform(0, 0.02))
        wing = 0.026 * h
        points = np.array([[x - wing, y - 0.5 * wing], [x, y], [x + wing, y - 0.5 * wing]])
        cv2.polylines(image, [np.round(points * 16).astype(np.int32)], False, (52, 48, 70), 1, cv2.LINE_AA, 4)


def _add_mist(image: np.ndarray, scene: Scene) -> None:
    """A pale bank along the horizon, in front of everything."""
    rows = (np.arange(scene.height, dtype=np.float32) / scene.height - scene.horizon - 0.02) / 0.11
    alpha = (0.50 * np.exp(-(rows**2)))[:, None, None]
    haze = _horizon_colour(scene) * 0.94
    image[:] = (image + (haze - image) * alpha).astype(np.uint8)
