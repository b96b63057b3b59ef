"""Scrolls that close to a ring: where their ends meet there is no seam, whatever the method."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from PIL import Image

from drspo.config import to_dict
from drspo.errors import UserError
from eval.metrics.seams import seam_strength
from generate import GENERATORS
from generate.images.lineart import enlarge
from generate.images.ring import closed, on_ring
from generate.models.family import load_family
from generate.request import Request, build_generator, settings_of

METHODS = [name for name in GENERATORS if name != "sdxl"]  # an older name of direct


@lru_cache
def miniature():
    return load_family("miniature", device="cpu", controlnet=True)


def closing(name: str, wrap: bool) -> dict:
    settings = to_dict(settings_of(name))
    return {"windows": {"wrap": wrap}} if "windows" in settings else {"wrap": wrap}


def join(name: str, wrap: bool) -> float:
    """How far the column where the ends meet stands out, in Lab units."""
    request = Request(
        prompt="a lighthouse by the sea at dusk", height=128, width=256, seed=1, steps=4, guidance_scale=3.0
    )
    image = np.asarray(build_generator(name, miniature(), closing(name, wrap)).generate([request])[0].image)
    strength = seam_strength(np.roll(image, 128, axis=1))
    return float(strength[126:131].max())


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_the_ends_of_a_ring_meet_without_a_seam_and_those_of_a_scroll_do_not(name):
    try:
        ring = join(name, True)
    except UserError as error:
        assert "wrap" in str(error), "a method that cannot close says so"
        return
    assert ring < 0.5 < 1.0 < join(name, False)


def test_what_is_done_on_a_ring_does_not_depend_on_where_it_is_cut():
    drawn = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 160, 3), np.uint8))
    turned = Image.fromarray(np.roll(np.asarray(drawn), 40, axis=1))
    one, other = (enlarge(image, 32, 320, wrap=True) for image in (drawn, turned))
    assert np.array_equal(np.roll(np.asarray(one), 80, axis=1), np.asarray(other))
    assert np.array_equal(np.asarray(on_ring(lambda image: image, drawn)), np.asarray(drawn))
    assert closed(drawn, 3).size == (166, 16)
