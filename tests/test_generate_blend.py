"""Blending is the normalised average of eq. 4: exact for perfect predictions, smooth, differentiable."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from generate.canvas.blend import blend, covered, crop, merge_tokens, split_tokens, window_weights
from generate.canvas.windows import plan_windows

KINDS = ("uniform", "gaussian", "feathered")


@st.composite
def canvases(draw):
    """(canvas [1, 2, H, W], windows, weights) of random sizes, kinds and wrapping."""
    height, width = draw(st.integers(1, 24)), draw(st.integers(1, 40))
    window = draw(st.integers(1, height)), draw(st.integers(1, width))
    stride = draw(st.integers(1, window[0])), draw(st.integers(1, window[1]))
    windows = plan_windows(height, width, window, stride, wrap=draw(st.booleans()))
    canvas = torch.randn(
        1, 2, height, width, generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))
    )
    return canvas, windows, window_weights(draw(st.sampled_from(KINDS)), *window)


def by_loops(predictions, windows, weights, height, width):
    """Eq. 4 as written: two accumulators and a division."""
    total = torch.zeros(*predictions.shape[1:3], height, width, dtype=torch.float64)
    norm = torch.zeros(height, width, dtype=torch.float64)
    for prediction, window in zip(predictions.double(), windows, strict=True):
        for i in range(window.height):
            for j in range(window.width):
                y, x = window.y0 + i, (window.x0 + j) % width
                total[:, :, y, x] += prediction[:, :, i, j] * weights[i, j].double()
                norm[y, x] += weights[i, j].double()
    return torch.where(norm > 0, total / norm.clamp(min=1e-300), 0.0).float()


@given(canvases())
def test_blending_crops_of_a_canvas_gives_the_canvas(case):
    canvas, windows, weights = case
    back = blend(crop(canvas, windows), windows, weights, *canvas.shape[2:])
    torch.testing.assert_close(back, canvas, rtol=1e-5, atol=1e-6)


@given(canvases())
def test_normalised_weights_are_a_partition_of_unity(case):
    canvas, windows, weights = case
    ones = torch.ones(len(windows), 1, 1, *weights.shape)
    unity = blend(ones, windows, weights, *canvas.shape[2:])
    torch.testing.assert_close(unity, torch.ones_like(unity), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrap", [False, True])
def test_blending_equals_the_two_accumulators_of_eq_4(kind, wrap):
    windows = plan_windows(9, 17, (6, 7), (3, 4), wrap=wrap)
    weights = window_weights(kind, 6, 7)
    predictions = torch.randn(len(windows), 2, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    ours = blend(predictions, windows, weights, 9, 17)
    torch.testing.assert_close(ours, by_loops(predictions, windows, weights, 9, 17), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_positive_symmetric_and_largest_inside(kind):
    weights = window_weights(kind, 16, 24)
    assert weights.dtype == torch.float32
    assert weights.min() > 0
    torch.testing.assert_close(weights, weights.flip(0, 1))
    assert weights[8, 12] == weights.max()


def test_parts_that_no_window_reaches_are_zero():
    windows = plan_windows(4, 11, 4, 3, edge="uncovered")
    out = blend(torch.ones(len(windows), 1, 1, 4, 4), windows, window_weights("uniform", 4, 4), 4, 11)
    assert (out[..., :10] == 1).all()
    assert (out[..., 10:] == 0).all()
    assert covered(windows, 4, 11)[0].tolist() == [True] * 10 + [False]


def test_the_gradient_of_blending_is_its_weights():
    windows = plan_windows(4, 10, 4, 3)
    weights = window_weights("feathered", 4, 4)
    predictions = torch.randn(len(windows), 1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda p: blend(p, windows, weights.double(), 4, 10), (predictions,), atol=1e-6
    )


@given(canvases())
def test_merging_tokens_is_the_plain_mean_over_windows_and_splitting_undoes_it(case):
    canvas, windows, weights = case
    height, width = canvas.shape[2:]
    tokens = canvas.flatten(2).transpose(1, 2)
    split = split_tokens(tokens, windows, height, width)
    torch.testing.assert_close(merge_tokens(split, windows, height, width), tokens, rtol=1e-5, atol=1e-6)
    noisy = split + torch.arange(split.shape[1])[None, :, None] * 0.01
    as_images = noisy.reshape(1, len(windows), *weights.shape, 2).permute(1, 0, 4, 2, 3)
    mean = blend(as_images, windows, torch.ones_like(weights), height, width)
    merged = merge_tokens(noisy, windows, height, width)
    torch.testing.assert_close(merged, mean.flatten(2).transpose(1, 2), rtol=1e-5, atol=1e-5)
