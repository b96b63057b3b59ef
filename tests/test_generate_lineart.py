"""The blueprint's lines reach every window at the place where the window lies."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from drspo.errors import UserError
from generate.canvas.plan import Canvas
from generate.canvas.windows import plan_windows
from generate.images.lineart import LineArt, control_crops, draw_lines, enlarge


def house(width: int = 256, height: int = 64) -> Image.Image:
    image = Image.new("RGB", (width, height), (120, 170, 230))
    ImageDraw.Draw(image).rectangle((100, 20, 140, 50), fill=(200, 40, 30))
    return image


def test_lines_lie_on_the_outline_and_nowhere_else():
    lines = np.asarray(draw_lines(house(), LineArt()))[..., 0]
    assert set(np.unique(lines)) == {0, 255}
    rows, columns = np.nonzero(lines)
    assert (rows.min(), rows.max()) == pytest.approx((20, 50), abs=1)
    assert (columns.min(), columns.max()) == pytest.approx((100, 140), abs=1)
    assert not lines[30:40, 110:130].any()


def test_thresholds_beyond_every_gradient_draw_nothing():
    assert not np.asarray(draw_lines(house(), LineArt(low=5000, high=6000))).any()


def test_blur_removes_faint_texture_but_not_the_outline():
    noisy = np.asarray(house()).astype(int) + np.random.default_rng(0).integers(-60, 60, (64, 256, 1))
    image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    sharp, soft = (np.asarray(draw_lines(image, LineArt(low=60, high=120, blur=b))) for b in (0.0, 1.5))
    assert 0 < (soft > 0).sum() < 0.5 * (sharp > 0).sum()


@pytest.mark.parametrize("bad", [LineArt(low=0), LineArt(low=200, high=100)])
def test_thresholds_in_the_wrong_order_are_refused(bad):
    with pytest.raises(UserError, match="thresholds"):
        draw_lines(house(), bad)


def test_enlarging_keeps_positions_and_refuses_another_aspect_ratio():
    large = enlarge(house(), 128, 512)
    assert large.size == (512, 128)
    assert large.getpixel((240, 70)) == pytest.approx((200, 40, 30), abs=12)
    with pytest.raises(UserError, match="aspect"):
        enlarge(house(), 128, 520)


def test_every_window_gets_the_pixels_eight_times_its_latents():
    lines = draw_lines(enlarge(house(), 128, 512), LineArt())
    windows = plan_windows(16, 64, 16, 5)
    crops = control_crops(lines, Canvas(16, 64, windows, torch.ones(16, 16), factor=8))
    pixels = torch.from_numpy(np.array(lines)).permute(2, 0, 1) / 255
    assert crops.shape == (len(windows), 3, 128, 128)
    for crop, window in zip(crops, windows, strict=True):
        assert torch.equal(crop, pixels[:, :, 8 * window.x0 : 8 * window.x1])
    assert crops.amax(dim=(1, 2, 3)).min() == 0  # some windows see no line
    assert crops.max() == 1


def test_a_wrapped_window_sees_both_ends():
    lines = Image.fromarray(np.repeat(np.arange(128, dtype=np.uint8)[None, :, None], 32, 0).repeat(3, 2))
    windows = plan_windows(4, 16, (4, 8), (4, 4), wrap=True)
    crops = control_crops(lines, Canvas(4, 16, windows, torch.ones(4, 8), factor=8))
    wrapped = [c for c, w in zip(crops, windows, strict=True) if w.x1 > 16]
    assert wrapped
    assert torch.allclose(wrapped[0][0, 0, :4] * 255, torch.tensor([96.0, 97, 98, 99]))
    assert torch.allclose(wrapped[0][0, 0, -4:] * 255, torch.tensor([28.0, 29, 30, 31]))
