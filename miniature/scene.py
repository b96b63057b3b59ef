"""Outdoor scenes as data: what is in a picture and where, as a pure function of a seed.

The vocabulary below is everything the world understands. `captions.py` turns a scene into English,
`paint.py` turns it into pixels, and `inventory` says exactly what the picture holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

TIMES = ("dawn", "noon", "dusk", "night")
WEATHERS = ("clear", "cloudy", "misty")
GROUNDS = ("sea", "meadow", "desert", "snow")
SUBJECTS = ("lighthouse", "castle", "windmill", "pine", "balloon", "gate")
PLACES = ("left", "centre", "right")
MIDDLE = "middle"  # the place in pictures too narrow to have a left and a right
LIGHTS = ("sun", "moon")
COUNTABLE = SUBJECTS + LIGHTS  # what the detector finds, in the order of its channels

_PLACE_SPAN = {"left": (0.14, 0.29), "centre": (0.43, 0.57), "right": (0.71, 0.86), MIDDLE: (0.46, 0.54)}
_LIGHT_HEIGHT = {"dawn": (0.26, 0.38), "noon": (0.12, 0.22), "dusk": (0.26, 0.35), "night": (0.13, 0.24)}
_LIGHT_RADIUS = {"dawn": 0.070, "noon": 0.064, "dusk": 0.082, "night": 0.068}
# Full width over height of each subject's outline, wings and rock included.
_SUBJECT_ASPECT = {
    "lighthouse": 0.42, "castle": 0.98, "windmill": 0.84, "pine": 0.56, "balloon": 0.70, "gate": 1.12,
}  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """Everything a picture shows; lengths are fractions of the picture's height unless said otherwise."""

    seed: int
    height: int
    width: int
    time: str
    weather: str
    ground: str
    subject: str
    place: str
    light: str
    subject_x: float  # fraction of the width
    subject_y: float  # lower end of the subject
    subject_size: float
    light_x: float  # fraction of the width
    light_y: float
    light_radius: float
    horizon: float
    birds: int


@dataclass(frozen=True)
class Thing:
    """One thing in a picture: its name and its bounding box (left, top, right, bottom) in pixels."""

    name: str
    box: tuple[float, float, float, float]

    @property
    def centre(self) -> tuple[float, float]:
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2


def sample_scene(seed: int, height: int, width: int, **fixed: str) -> Scene:
    """A scene drawn from the seed; `fixed` pins time, weather, ground, subject or place.

    Pictures less than one and a half times as wide as high always have their subject in the middle.
    """
    _check(fixed)
    rng = np.random.default_rng([seed, 20])
    drawn = {name: words[rng.integers(len(words))] for name, words in _AXES.items()}
    axes: dict[str, Any] = {**drawn, **fixed}
    if width < 1.5 * height:
        axes["place"] = MIDDLE
    elif axes["place"] == MIDDLE:
        axes["place"] = "centre"
    return Scene(seed=seed, height=height, width=width, **axes, **_geometry(rng, axes, width / height))


_AXES = {"time": TIMES, "weather": WEATHERS, "ground": GROUNDS, "subject": SUBJECTS, "place": PLACES}


def _check(fixed: dict[str, str]) -> None:
    for name, word in fixed.items():
        if name not in _AXES:
            raise ValueError(f"a scene has no {name!r}; it has {', '.join(_AXES)}")
        if word not in _AXES[name] and word != MIDDLE:
            raise ValueError(f"{name} cannot be {word!r}; choose from {', '.join(_AXES[name])}")


def _geometry(rng: np.random.Generator, axes: dict[str, str], aspect: float) -> dict[str, Any]:
    """Where things stand: the subject in its place, the sun or moon well to one side of it."""
    horizon = rng.uniform(0.60, 0.66)
    subject_x = rng.uniform(*_PLACE_SPAN[axes["place"]])
    afloat = axes["subject"] == "balloon"
    size = rng.uniform(0.42, 0.50)
    return {
        "light": "moon" if axes["time"] == "night" else "sun",
        "subject_x": subject_x,
        "subject_y": rng.uniform(0.54, 0.60) if afloat else horizon + rng.uniform(0.10, 0.15),
        "subject_size": size,
        "light_x": _light_x(rng, subject_x, aspect),
        "light_y": rng.uniform(*_LIGHT_HEIGHT[axes["time"]]),
        "light_radius": _LIGHT_RADIUS[axes["time"]] * rng.uniform(0.94, 1.06),
        "horizon": horizon,
        "birds": int(rng.integers(2, 5)) if axes["time"] != "night" and rng.random() < 0.4 else 0,
    }


def _light_x(rng: np.random.Generator, subject_x: float, aspect: float) -> float:
    """A column for the sun or moon, at least a third of the height away from the subject's axis."""
    margin, gap = 0.095 / aspect, 0.345 / aspect
    spans = [(margin, subject_x - gap), (subject_x + gap, 1 - margin)]
    lengths = np.array([max(0.0, end - start) for start, end in spans])
    start, end = spans[rng.choice(2, p=lengths / lengths.sum())]
    return rng.uniform(start, end)


def inventory(scene: Scene) -> list[Thing]:
    """Exactly what the picture holds: the subject, the sun or moon, the ridges and the ground."""
    h, w = scene.height, scene.width
    size, radius = scene.subject_size * h, scene.light_radius * h
    half = size * _SUBJECT_ASPECT[scene.subject] / 2
    x, y = scene.subject_x * w, scene.subject_y * h
    light_x, light_y = scene.light_x * w, scene.light_y * h
    horizon = scene.horizon * h
    return [
        Thing(scene.subject, (x - half, y - size, x + half, y)),
        Thing(scene.light, (light_x - radius, light_y - radius, light_x + radius, light_y + radius)),
        Thing("ridges", (0.0, horizon - 0.24 * h, float(w), horizon)),
        Thing(scene.ground, (0.0, horizon, float(w), float(h))),
    ]


def countable(scene: Scene) -> list[Thing]:
    """The things of the inventory that come one by one and that a detector can count."""
    return [thing for thing in inventory(scene) if thing.name in COUNTABLE]
