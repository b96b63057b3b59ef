"""DRSPO's two stages on the golden tiny SDXL: what each setting does to the scroll, and what is refused."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from drspo.errors import UserError
from generate.config import WindowSettings
from generate.images.lineart import LineArt, control_crops
from generate.images.vae import encode_images, from_pil
from generate.methods.drspo.blueprint import Blueprint, blueprint_request
from generate.methods.drspo.control import Control, LineControl, active_steps
from generate.methods.drspo.highres import HighRes, paint_windows, start_latents
from generate.methods.drspo.two_stage import DRSPO, Config
from generate.methods.multidiffusion import MultiDiffusion
from generate.models.denoisers.denoiser import Condition, Picture
from generate.models.schedulers import make_schedule
from generate.request import Request
from tests.small_scrolls import controlled_family

WINDOWS = WindowSettings(window=128, stride=64)
SMALL = Blueprint(height=64, width=128)
CONFIG = Config(strength=0.67, blueprint=SMALL, windows=WINDOWS, control=Control(scale=1.0))


@pytest.fixture(scope="module")
def family(golden):
    return controlled_family(golden)


def request(**changes) -> Request:
    values = {"prompt": "a castle", "height": 128, "width": 256, "seed": 1, "steps": 3, "guidance_scale": 3.0}
    return Request(**{**values, **changes})


@pytest.fixture(scope="module")
def scroll(family):
    return DRSPO(family, CONFIG).generate([request()])[0]


def difference(a, b) -> float:
    return float((a.latents - b.latents).abs().max() / b.latents.abs().max())


def test_a_scroll_has_its_size_its_blueprint_and_its_lines(scroll):
    assert scroll.image.size == (256, 128)
    assert scroll.latents.shape == (4, 16, 32)
    assert scroll.extras["blueprint"].size == (128, 64)
    assert scroll.extras["lines"].size == (256, 128)
    assert torch.isfinite(scroll.latents).all()


def test_evaluations_are_those_of_the_blueprint_and_of_every_window_twice_for_guidance(scroll):
    assert scroll.facts["blueprint_evaluations"] == 3 * 2
    assert scroll.facts["unet_evaluations"] == 3 * 2 + 2 * 3 * 2  # 2 of 3 steps, 3 windows
    assert scroll.facts["control_evaluations"] == 2 * 3 * 2


def test_the_same_request_gives_the_same_bits_and_a_batch_equals_singles(family, scroll):
    other = request(prompt="a pine", seed=2)
    both = DRSPO(family, CONFIG).generate([other, request()])
    assert torch.equal(both[1].latents, scroll.latents)
    assert both[1].image.tobytes() == scroll.image.tobytes()
    assert difference(both[0], scroll) > 0.1


def test_the_blueprint_equals_direct_sampling_at_its_size(family, scroll):
    from generate.methods.sdxl import SDXL

    direct = SDXL(family).generate([request(height=64, width=128)])[0]
    assert direct.image.tobytes() == scroll.extras["blueprint"].tobytes()


@pytest.mark.parametrize(
    "config",
    [
        replace(CONFIG, control=Control(enabled=False)),
        replace(CONFIG, control=Control(scale=0.5)),
        replace(CONFIG, control=Control(scale=1.0, end=0.5)),
        replace(CONFIG, control=Control(scale=1.0, start=0.5)),
        replace(CONFIG, windows=replace(WINDOWS, time_ids="crop")),
        replace(CONFIG, strength=1.0),
        replace(CONFIG, windows=replace(WINDOWS, scheduler="euler")),
    ],
    ids=["no control", "scale", "early control", "late control", "time ids", "strength", "euler"],
)
def test_every_setting_of_the_windows_changes_the_scroll_but_not_the_blueprint(family, scroll, config):
    changed = DRSPO(family, config).generate([request()])[0]
    assert changed.extras["blueprint"].tobytes() == scroll.extras["blueprint"].tobytes()
    assert torch.isfinite(changed.latents).all()
    assert difference(changed, scroll) > 1e-3


def test_control_of_scale_zero_is_no_control(family):
    silent = DRSPO(family, replace(CONFIG, control=Control(scale=0.0))).generate([request()])[0]
    without = DRSPO(family, replace(CONFIG, control=Control(enabled=False))).generate([request()])[0]
    assert difference(silent, without) < 1e-5
    assert without.facts["control_evaluations"] == 0
    assert "lines" not in without.extras


def test_windows_at_a_time_do_not_change_the_scroll(family, scroll):
    one = DRSPO(family, replace(CONFIG, windows=replace(WINDOWS, window_batch=1))).generate([request()])[0]
    assert difference(one, scroll) < 1e-4


def test_lines_reach_only_the_windows_they_lie_in_also_when_windows_are_split(family):
    large = Image.new("RGB", (256, 128), (90, 140, 200))
    settings = HighRes(
        strength=0.3, windows=replace(WINDOWS, window_batch=2), control=Control(), control_scale=1.0
    )

    def painted(x: int) -> torch.Tensor:
        lines = Image.new("RGB", (256, 128))
        lines.paste((255, 255, 255), (x, 20, x + 2, 110))
        return paint_windows(family, settings, request(), large, lines).latents

    nothing, left, right = painted(-9), painted(30), painted(220)
    # One step; only the first window covers latent columns 0..7, only the last one covers 24..31.
    assert torch.equal(right[..., :8], nothing[..., :8])
    assert torch.equal(left[..., 24:], nothing[..., 24:])
    assert not torch.equal(left[..., :8], nothing[..., :8])
    assert not torch.equal(right[..., 24:], nothing[..., 24:])


def test_the_line_arts_crops_are_the_windows_own_at_active_steps(family):
    lines = Image.effect_noise((256, 128), 60).convert("RGB")
    canvas = MultiDiffusion(family, WINDOWS).canvas(request())
    control = LineControl(family, lines, Control(end=0.5), 0.7, steps=4)
    shown = control(canvas, 1)
    assert shown.scale == 0.7
    assert torch.equal(shown.pixels, control_crops(lines, canvas))
    assert control(canvas, 0) is shown  # cropped once a scroll
    assert control(canvas, 2) is None


def test_a_picture_beside_the_latents_equals_a_controlnet_called_by_hand(family):
    pixels = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    samples = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    embeds = MultiDiffusion(family, WINDOWS).encode(request())
    sizes = torch.tensor([[128.0, 128, 0, 0, 128, 128]] * 2)
    told = Condition(embeds.prompt_embeds, embeds.pooled, sizes=sizes, picture=Picture(pixels, 0.7))
    denoiser, t = family.denoiser, torch.tensor(500)
    added = {"text_embeds": embeds.pooled.repeat(2, 1), "time_ids": sizes}
    prompt = embeds.prompt_embeds.repeat(2, 1, 1)
    with torch.no_grad():
        with denoiser.attending():
            ours = denoiser(samples, t, told)
        down, middle = family.controlnet(
            samples, t, prompt, pixels, 0.7, added_cond_kwargs=added, return_dict=False
        )
        expected = family.unet(
            samples,
            t,
            prompt,
            added_cond_kwargs=added,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0]
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_callbacks_see_every_step_of_both_stages_in_order(family):
    seen = []
    drspo = DRSPO(family, CONFIG)
    drspo.generate(
        [request(), request(seed=2)], lambda s: seen.append((s.request_index, s.stage, s.index, s.count))
    )
    one = [
        ("blueprint", 0, 3),
        ("blueprint", 1, 3),
        ("blueprint", 2, 3),
        ("highres", 0, 2),
        ("highres", 1, 2),
    ]
    assert seen == [(i, *step) for i in (0, 1) for step in one]
    assert drspo.count_steps(request()) == len(one)


@pytest.mark.parametrize("name", ["pndm", "dpmpp_2m", "unipc"])
def test_steps_are_counted_as_they_then_come(family, name):
    windows = replace(WINDOWS, scheduler=name)
    drspo = DRSPO(family, replace(CONFIG, windows=windows, control=Control(enabled=False)))
    seen = []
    drspo.generate([request(steps=6)], seen.append)
    assert len(seen) == drspo.count_steps(request(steps=6))


def test_a_schedule_that_cannot_be_entered_is_said_before_the_blueprint_is_drawn(family, monkeypatch):
    monkeypatch.setattr(family.unet, "forward", lambda *a, **k: pytest.fail("the UNet ran"))
    model = replace(family, scheduler_config={**family.scheduler_config, "skip_prk_steps": False})
    with pytest.raises(UserError, match="Runge-Kutta"):
        DRSPO(model, replace(CONFIG, windows=replace(WINDOWS, scheduler="pndm"))).generate([request(steps=6)])


@pytest.mark.parametrize("name", ["ddim", "euler", "dpmpp_2m", "unipc", "pndm"])
def test_the_start_is_the_encoding_at_the_schedules_own_noise_level(family, name):
    picture = Image.new("RGB", (256, 128), (90, 140, 200))
    clean = encode_images(family.vae, from_pil([picture]))
    schedule = make_schedule(family, name, 20)
    schedule.enter(0.6)
    noise = start_latents(family, schedule, picture, 3) - start_latents(family, schedule, picture, 4)
    level = make_schedule(family, "ddim", 20).scheduler.alphas_cumprod[schedule.timesteps[0].long()]
    spread = float(((1 - level) / level).sqrt()) if name == "euler" else float((1 - level).sqrt())
    assert float(noise.std()) == pytest.approx(2**0.5 * spread, rel=0.05)
    mean = sum(start_latents(family, schedule, picture, seed) for seed in range(40)) / 40
    factor = 1.0 if name == "euler" else float(level.sqrt())
    assert float((mean - factor * clean).abs().mean()) < 0.2 * spread


def test_weak_strength_keeps_the_blueprint_and_full_strength_forgets_it(family):
    picture = Image.effect_noise((128, 64), 60).convert("RGB")
    far = []
    for strength in (0.05, 0.5, 1.0):
        config = replace(CONFIG, strength=strength, control=Control(enabled=False))
        made = DRSPO(family, config).paint(request(steps=20), picture)
        large = encode_images(family.vae, from_pil([picture.resize((256, 128), Image.Resampling.LANCZOS)]))[0]
        far.append(float((made.latents - large).abs().mean()))
    assert far[0] < far[1] < far[2]


def test_control_acts_in_its_share_of_the_steps():
    assert active_steps(Control(), 10) == range(10)
    assert active_steps(Control(start=0.2, end=0.8), 10) == range(2, 8)
    assert active_steps(Control(start=0.95, end=1.0), 10) == range(0)
    with pytest.raises(UserError, match="start"):
        active_steps(Control(start=0.8, end=0.2), 10)


def test_a_blueprint_keeps_the_scrolls_proportions(family):
    spec = replace(family.spec, scroll=(128, 512), blueprint=(64, 256))
    assert blueprint_request(request(height=256, width=1280), Blueprint(), spec).width == 640
    assert blueprint_request(request(), Blueprint(steps=7, guidance_scale=1.0), spec).steps == 7
    with pytest.raises(UserError, match="128x256 can") as error:
        blueprint_request(request(height=136), Blueprint(), spec)
    assert "multiples of 8" in error.value.what
    with pytest.raises(UserError, match="aspect"):
        blueprint_request(request(), Blueprint(height=64, width=64), spec)


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (CONFIG, {"height": 100}, "multiple of 8"),
        (replace(CONFIG, windows=replace(WINDOWS, window=512)), {}, "larger than the canvas"),
        (replace(CONFIG, windows=replace(WINDOWS, stride=256)), {}, "stride"),
        (replace(CONFIG, windows=replace(WINDOWS, scheduler="eulr")), {}, "eulr"),
        (replace(CONFIG, windows=replace(WINDOWS, scheduler="ddpm")), {}, "noise"),
        (replace(CONFIG, strength=1.5), {}, "strength"),
        (replace(CONFIG, strength=-0.5), {}, "strength"),
        (replace(CONFIG, control=Control(start=1.0, end=0.0)), {}, "start"),
        (replace(CONFIG, control=Control(scale=-0.5)), {}, "control.scale"),
        (replace(CONFIG, control=Control(lines=LineArt(low=300))), {}, "thresholds"),
        (replace(CONFIG, blueprint=Blueprint(height=0)), {}, "blueprint of 0x"),
        (replace(CONFIG, windows=replace(WINDOWS, stride=0)), {}, "stride of 0 pixels"),
        (CONFIG, {"prompt": "castle " * 90}, "77 tokens"),
        (CONFIG, {"steps": 0}, "step"),
    ],
)
def test_bad_settings_are_the_users_error_before_anything_runs(family, config, changes, message, monkeypatch):
    monkeypatch.setattr(family.unet, "forward", lambda *a, **k: pytest.fail("the UNet ran"))
    with pytest.raises(UserError, match=message):
        DRSPO(family, config).generate([request(), request(**changes)])


def test_control_without_a_controlnet_is_refused(family):
    with pytest.raises(UserError, match="without a ControlNet"):
        DRSPO(replace(family, controlnet=None), CONFIG)
    assert not DRSPO.needs_control(Config(control=Control(enabled=False)))


def test_a_lora_of_other_micro_conditioning_is_refused(family, monkeypatch):
    monkeypatch.setattr(family, "loras", {"highres": {"time_ids": "scroll"}})
    with pytest.raises(UserError, match="micro-conditioning"):
        DRSPO(family, CONFIG).check([request()])
    DRSPO(family, replace(CONFIG, windows=replace(WINDOWS, time_ids="scroll"))).check([request()])


def test_each_stage_wears_its_own_lora_and_none_without_dpo(family, monkeypatch):
    worn = []
    monkeypatch.setattr(type(family), "use_lora", lambda self, name: worn.append(name))
    monkeypatch.setattr(family, "loras", {"blueprint": {}, "highres": {}})
    DRSPO(family, CONFIG).generate([request()])
    DRSPO(family, replace(CONFIG, use_loras=False)).generate([request()])
    assert worn == ["blueprint", "highres", None, None]
