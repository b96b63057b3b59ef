"""Two pictures that meet at a column: the difference between them fades into the newer one."""

from __future__ import annotations

import numpy as np
from scipy.fft import dct, idct

BROAD = slice(-12, -4)
"""Columns before a join whose difference is one of colour: not those where a picture's end has a frame."""
FINE = 1
"""Columns at the join itself; what they differ by beyond that is gone after as many as FADE."""
FADE = 8


def faded(difference: np.ndarray, reach: int) -> np.ndarray:
    """The membrane [height, reach, channels] that has the difference [height, channels] at its left end.

    Laplace's equation on a strip that is zero at its right end and free above and below (Perez et al. 2003,
    eq. 2, with one boundary): each vertical frequency decays by its own length, so fine differences are gone
    in a few columns and a shift of colour takes all of them.
    """
    height = len(difference)
    waves = dct(difference.astype(np.float64), axis=0, norm="ortho")
    rate = np.maximum(np.pi * np.arange(height) / height, 1e-9)[:, None]
    at = (np.arange(reach) + 0.5)[None, :]
    # sinh(k (D - x)) / sinh(k D), written so that it does not overflow
    decay = np.exp(-rate * at) * np.expm1(-2 * rate * (reach - at)) / np.expm1(-2 * rate * reach)
    membrane: np.ndarray = idct(waves[:, None, :] * decay[:, :, None], axis=0, norm="ortho")
    return membrane


def joined(old: np.ndarray, painted: np.ndarray, new: np.ndarray, reach: int) -> np.ndarray:
    """The new columns, uint8, made to go on where the old ones end, from left to right.

    `old` and `painted` are the columns before the join, as they are and as the canvas shows them; `new` are
    those after it, of that canvas. All [height, columns, channels].
    """
    difference = old[:, BROAD.start :].astype(np.float64) - painted[:, BROAD.start :].astype(np.float64)
    broad = difference[:, : max(1, difference.shape[1] + BROAD.stop)].mean(axis=1)
    fine = difference[:, -FINE:].mean(axis=1) - broad
    reach = min(reach, new.shape[1])
    near = min(FADE, new.shape[1])
    corrected = new.astype(np.float64)
    corrected[:, :reach] += faded(broad, reach)
    corrected[:, :near] += fine[:, None] * (1 - (np.arange(near) + 0.5) / near)[None, :, None]
    return np.clip(np.rint(corrected), 0, 255).astype(np.uint8)
