"""What the miniature's detector sees of what was asked for; it knows pictures of its own world only."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
from PIL import Image

from drspo.files.pictures import rgb
from eval.base import Missing, check_prompts

NONE = Missing("the prompt names no subject of this world")


def surplus(kinds: list[str]) -> int:
    """How many objects are there beyond the first of their kind."""
    return sum(count - 1 for count in Counter(kinds).values())


def asked_subject(prompt: str) -> str | None:
    """The world's subject that a prompt names, by any of the nouns that its models know; None without one."""
    from miniature.captions import SUBJECT_NOUNS

    words = prompt.lower()
    for subject, nouns in SUBJECT_NOUNS.items():
        if any(re.search(rf"\b{re.escape(noun)}s?\b", words) for noun in (subject, *nouns)):
            return subject
    return None


def asked_place(prompt: str) -> str | None:
    """left, centre or right where a prompt names a place; None where it doesn't."""
    from miniature.captions import PLACE_PHRASES

    words = set(re.findall(r"[a-z]+", prompt.lower()))
    named = [place for place in PLACE_PHRASES if place in words]
    if {"middle", "center"} & words and "centre" not in named:
        named.append("centre")
    return named[0] if len(named) == 1 else None


class _Detected:
    higher_is_better = True
    checkpoint = "miniature detector"
    view = "whole"
    version = "1"
    needs_prompt = True

    def __init__(self) -> None:
        from miniature.detector import DETECTOR_VERSION, count_objects

        self.checkpoint_hash = str(DETECTOR_VERSION)
        self._find = count_objects

    def kinds(self, image: Image.Image) -> list[str]:
        """Names of everything found, one per object."""
        return [found.kind for found in self._find(np.array(rgb(image)))]


class RepeatedObjects(_Detected):
    """Objects beyond one of each kind, as the miniature's detector sees them; 0 for a scene that is whole.

    Meaningful for pictures of the miniature's world only: its detector knows nothing else.
    """

    name = "repeated_objects"
    unit = "objects beyond one of a kind"
    higher_is_better = False
    needs_prompt = False

    def score(self, images: list[Image.Image], prompts: list[str]) -> list[float]:
        """One count per image; prompts don't matter."""
        return [float(surplus(self.kinds(image))) for image in images]


class SubjectPresent(_Detected):
    """1 where the subject that the prompt names is there at all, else 0; missing where it names none."""

    name = "subject_present"
    unit = "share of images with the asked subject"

    def score(self, images: list[Image.Image], prompts: list[str]) -> list[float]:
        """One 0 or 1 per image with its own prompt."""
        check_prompts(prompts, self.name)
        asked = [asked_subject(prompt) for prompt in prompts]
        return [
            float(subject in self.kinds(image)) if subject else NONE
            for image, subject in zip(images, asked, strict=True)
        ]


class SceneRight(_Detected):
    """1 where the asked subject stands there once, in the place that was asked for, and nothing is too many.

    No other subject, no second sun or moon. A light that is missing is no fault: it may be hidden. A third of
    the width is a place. Missing where the prompt names no subject.
    """

    name = "scene_right"
    unit = "share of images that show the scene asked for"

    def score(self, images: list[Image.Image], prompts: list[str]) -> list[float]:
        """One 0 or 1 per image with its own prompt."""
        check_prompts(prompts, self.name)
        return [self._one(image, prompt) for image, prompt in zip(images, prompts, strict=True)]

    def _one(self, image: Image.Image, prompt: str) -> float:
        from miniature.scene import LIGHTS, PLACES

        subject, place = asked_subject(prompt), asked_place(prompt)
        if subject is None:
            return NONE
        found = self._find(np.array(rgb(image)))
        lights = [here for here in found if here.kind in LIGHTS]
        subjects = [here for here in found if here.kind not in LIGHTS]
        if [here.kind for here in subjects] != [subject] or len(lights) > 1:
            return 0.0
        third = min(len(PLACES) - 1, int(subjects[0].x / image.width * len(PLACES)))
        return float(place is None or image.width < 1.5 * image.height or PLACES[third] == place)
