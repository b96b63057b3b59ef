"""The miniature world's front door: draw a scene, paint it, say it, list it. No torch in here.

    scene = sample_scene(7, 128, 512, subject="lighthouse", time="dusk")
    paint(scene)        the picture, uint8, height x width x 3
    captions(scene)     eight English phrasings, the full one first
    inventory(scene)    what is in the picture, with bounding boxes in pixels

A scene is one subject from `SUBJECTS` in a place from `PLACES`, on one of `GROUNDS`, at one of `TIMES`,
in one of `WEATHERS`, lit by the sun or, at night, the moon. The `*_PHRASES` and `*_NOUNS` dictionaries
list, for each such word, the English that the models were taught; `DETAILS`, `MOODS` and `STYLES` are
understood and change nothing.
"""

from __future__ import annotations

from miniature.captions import (
    DETAILS,
    GROUND_NOUNS,
    LIGHT_PHRASES,
    MOODS,
    PLACE_PHRASES,
    STYLES,
    SUBJECT_NOUNS,
    TIME_PHRASES,
    WEATHER_PHRASES,
    captions,
    sample_prompt,
)
from miniature.paint import paint
from miniature.scene import (
    COUNTABLE,
    GROUNDS,
    LIGHTS,
    MIDDLE,
    PLACES,
    SUBJECTS,
    TIMES,
    WEATHERS,
    Scene,
    Thing,
    countable,
    inventory,
    sample_scene,
)

__all__ = [
    "COUNTABLE", "DETAILS", "GROUNDS", "GROUND_NOUNS", "LIGHTS", "LIGHT_PHRASES", "MIDDLE", "MOODS",
    "PLACES", "PLACE_PHRASES", "STYLES", "SUBJECTS", "SUBJECT_NOUNS", "Scene", "TIMES",
    "TIME_PHRASES", "Thing", "WEATHERS", "WEATHER_PHRASES", "captions", "countable", "inventory",
    "paint", "sample_prompt", "sample_scene",
]  # fmt: skip
