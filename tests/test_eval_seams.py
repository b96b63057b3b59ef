"""The seam measure orders the controls that it was made for."""

import numpy as np

from eval.metrics.seams import seam_score


def real_scene(width=1024, height=128, seed=0):
    rng = np.random.default_rng(seed)
    x = np.cumsum(rng.normal(size=(height, width, 3)), axis=1)
    return np.clip(128 + 4 * (x - x.mean(axis=1, keepdims=True)), 0, 255)


BORDERS = list(range(64, 1024, 64))


def test_faint_steps_at_every_border_raise_the_median():
    clean = real_scene()
    stepped = clean + 12.0 * ((np.arange(1024) // 64) % 2)[None, :, None]
    assert seam_score(np.clip(stepped, 0, 255), BORDERS)[0] > seam_score(clean, BORDERS)[0] + 1.0


def test_one_hard_cut_raises_the_maximum_alone():
    cut = real_scene()
    cut[:, 512:] = 255 - cut[:, 512:]
    clean_median, clean_max = seam_score(real_scene(), BORDERS)
    median, maximum = seam_score(cut, BORDERS)
    assert maximum > clean_max + 3.0
    assert median < clean_median + 1.0
