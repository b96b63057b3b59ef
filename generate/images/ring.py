"""A picture whose ends join: what looks at neighbouring columns is shown those of the other end."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

MARGIN = 64
"""Pixels of the other end that are shown on each side."""


def on_ring(change: Callable[[Image.Image], Image.Image], image: Image.Image) -> Image.Image:
    """What `change` makes of the picture as if it had no ends; it may enlarge it, both sides alike."""
    margin = min(MARGIN, image.width)
    changed = change(closed(image, margin))
    cut = margin * changed.width // (image.width + 2 * margin)
    return changed.crop((cut, 0, changed.width - cut, changed.height))


def closed(image: Image.Image, margin: int) -> Image.Image:
    """The picture with so many columns of each end put before the other one."""
    pixels = np.asarray(image)
    return Image.fromarray(np.concatenate([pixels[:, -margin:], pixels, pixels[:, :margin]], axis=1))
