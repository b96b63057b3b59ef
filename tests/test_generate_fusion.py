"""The fusion core: micro-batches, guidance, sharing of prompts, memory, and restoring what it replaced."""

from contextlib import contextmanager
from unittest import mock

import pytest
import torch

from drspo.errors import UserError
from generate.canvas.noise import initial_noise
from generate.canvas.plan import canvas_time_ids, plan_canvas
from generate.methods.multidiffusion import Config, MultiDiffusion
from generate.methods.sdxl import SDXL
from generate.models.denoisers.denoiser import Picture
from generate.sampling.combine import combine, cut
from generate.sampling.guide import guide
from generate.sampling.loop import Moment
from generate.sampling.predict import Prediction, predicting
from tests.small_scrolls import SMALL, controlled_family, distance, family, small_request

ROUNDING = 5e-5
"""Float32 sums in another order, amplified by guidance; mistakes are larger than 1e-3."""


MOMENT = Moment(0, 2, torch.tensor(501))


@torch.no_grad()
def prediction(model, *, guidance_scale=5.0, control=None, **options):
    """(the canvas's prediction for one step, the predictor)."""
    request = small_request()
    method = MultiDiffusion(model, Config(**SMALL, time_ids="crop"))
    canvas = method.canvas(request)
    latents = initial_noise(0, (1, 4, canvas.height, canvas.width))
    conditions = method.conditions(method.encode(request), control=control)
    with predicting(model, conditions, guidance_scale=guidance_scale, **options) as predict:
        answer = predict(cut(canvas, latents), MOMENT, canvas)
    return combine(canvas, guide(answer, guidance_scale)), predict


def one_window_at_a_time(model, guidance_scale):
    """The same prediction by plain diffusers calls, one window and one guidance half at a time."""
    request, config = small_request(), Config(**SMALL)
    canvas = plan_canvas(model.spec, config, request.height, request.width)
    latents = initial_noise(0, (1, 4, canvas.height, canvas.width))
    text = MultiDiffusion(model, config).encode(request)
    ids = canvas_time_ids("crop", canvas)
    total, count = torch.zeros_like(latents), torch.zeros_like(latents)
    for row, w in enumerate(canvas.windows):
        view = latents[:, :, w.y0 : w.y1, w.x0 : w.x1]
        with torch.no_grad():
            u, c = (
                model.unet(
                    view,
                    torch.tensor(501),
                    embeds,
                    return_dict=False,
                    added_cond_kwargs=None
                    if pooled is None
                    else {"text_embeds": pooled, "time_ids": ids[row : row + 1]},
                )[0]
                for embeds, pooled in (
                    (text.negative_prompt_embeds, text.negative_pooled),
                    (text.prompt_embeds, text.pooled),
                )
            )
        total[:, :, w.y0 : w.y1, w.x0 : w.x1] += u + guidance_scale * (c - u)
        count[:, :, w.y0 : w.y1, w.x0 : w.x1] += 1
    return total / count


@contextmanager
def memory_for(model, samples):
    """A UNet that runs out of memory for more than so many samples."""
    true = model.unet.forward

    def forward(sample, *args, **kwargs):
        if sample.shape[0] > samples:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB")
        return true(sample, *args, **kwargs)

    with mock.patch.object(model.unet, "forward", forward):
        yield


@pytest.mark.parametrize("name", ["tiny-sdxl", "tiny-sd"])
def test_the_prediction_equals_plain_calls_one_window_at_a_time(golden, name):
    model = family(golden, name)
    ours, _ = prediction(model)
    assert distance(ours, one_window_at_a_time(model, 5.0)) < ROUNDING


def test_without_guidance_only_the_conditional_half_is_evaluated(golden):
    model = family(golden)
    ours, predict = prediction(model, guidance_scale=1.0)
    assert predict.evaluations == 4
    assert distance(ours, one_window_at_a_time(model, 1.0)) < ROUNDING


@pytest.mark.parametrize("window_batch", [1, 2, 3])
def test_the_micro_batch_does_not_change_the_prediction(golden, window_batch):
    model = family(golden)
    whole, _ = prediction(model, window_batch=4)
    parts, predict = prediction(model, window_batch=window_batch)
    assert predict.window_batch == window_batch
    assert distance(parts, whole) < ROUNDING


def test_keys_and_values_of_a_prompt_are_computed_once_per_scroll(golden):
    model = family(golden)
    cross = [m for n, m in model.unet.named_modules() if n.endswith("attn2")]
    calls = []
    handles = [m.to_k.register_forward_hook(lambda *_: calls.append(1)) for m in cross]
    try:
        MultiDiffusion(model, Config(**SMALL, window_batch=2)).sample(small_request(steps=3))
    finally:
        for handle in handles:
            handle.remove()
    assert len(calls) == len(cross)


def test_out_of_memory_halves_the_batch_says_so_and_changes_nothing_else(golden, caplog):
    model = family(golden)
    whole, _ = prediction(model, window_batch=4)
    with memory_for(model, samples=4):
        halved, predict = prediction(model, window_batch=4)
    assert predict.window_batch == 2
    assert "out of memory: going on with 2 windows" in caplog.text
    assert distance(halved, whole) < ROUNDING


def test_micro_batches_that_shrink_in_the_middle_are_said_in_the_facts(golden):
    """From then on every step has smaller ones; the last bits of the scroll are those of neither alone."""
    model = family(golden)
    method, true, calls = MultiDiffusion(model, Config(**SMALL, window_batch=4)), model.unet.forward, []

    def forward(sample, *args, **kwargs):
        calls.append(sample.shape[0])
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return true(sample, *args, **kwargs)

    with mock.patch.object(model.unet, "forward", forward):
        facts = method.sample(small_request(steps=3)).facts
    assert calls == [8, 8, 4, 4, 4, 4]
    assert (facts["window_batch"], facts["memory_ran_out_at_step"]) == (2, 1)
    assert "memory_ran_out_at_step" not in method.sample(small_request()).facts


def test_the_last_resort_is_one_window_and_one_guidance_half(golden):
    model = family(golden)
    whole, _ = prediction(model, window_batch=4)
    with memory_for(model, samples=1):
        single, predict = prediction(model, window_batch=4)
    assert predict.window_batch == 1
    assert predict.halves_apart
    assert distance(single, whole) < ROUNDING


def test_memory_for_nothing_is_a_clear_error(golden):
    model = family(golden)
    with memory_for(model, samples=0), pytest.raises(UserError, match="Not enough memory"):
        prediction(model)


def test_other_errors_of_the_network_are_not_taken_for_lack_of_memory(golden):
    model = family(golden)
    with mock.patch.object(model.unet, "forward", side_effect=RuntimeError("shapes differ")):
        with pytest.raises(RuntimeError, match="shapes differ"):
            prediction(model)


def test_attention_processors_come_back_after_success_and_after_failure(golden):
    model = family(golden)
    before = dict(model.unet.attn_processors)
    prediction(model)
    with memory_for(model, samples=0), pytest.raises(UserError):
        prediction(model)
    assert model.unet.attn_processors == before


def test_an_unknown_attention_processor_still_works_with_a_shared_prompt(golden):
    model = family(golden)
    expected, _ = prediction(model)
    cross = next(m for n, m in model.unet.named_modules() if n.endswith("attn2"))
    own, seen = cross.processor, []

    class Custom:
        def __call__(self, attn, hidden_states, encoder_hidden_states=None, **kwargs):
            seen.append(encoder_hidden_states.shape[0] == hidden_states.shape[0])
            return own(attn, hidden_states, encoder_hidden_states, **kwargs)

    cross.set_processor(Custom())
    try:
        ours, _ = prediction(model)
    finally:
        cross.set_processor(own)
    assert seen and all(seen)
    assert distance(ours, expected) < ROUNDING


def test_the_controlnet_is_shown_every_windows_own_picture_at_every_evaluation(golden):
    model = controlled_family(golden)
    pixels = torch.rand(4, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    true, seen = model.controlnet.forward, []

    def forward(*args, controlnet_cond, **kwargs):
        seen.append(controlnet_cond)
        return true(*args, controlnet_cond=controlnet_cond, **kwargs)

    with mock.patch.object(model.controlnet, "forward", forward):
        pushed, predict = prediction(
            model, window_batch=3, control=lambda canvas, index: Picture(pixels, 1.0)
        )
    assert len(seen) == 2
    for shown, rows in zip(seen, ([0, 1, 0, 1], [2, 3, 2, 3]), strict=True):
        assert torch.equal(shown, pixels[rows])
    assert predict.control_evaluations == predict.evaluations == 8
    plain, _ = prediction(model, window_batch=3)
    assert distance(pushed, plain) > 1e-3


@pytest.mark.parametrize("cls", [MultiDiffusion, SDXL])
def test_a_batch_equals_a_loop_of_singles_to_the_bit(golden, cls):
    model = family(golden)
    method = cls(model, cls.config_class(**(SMALL if cls is MultiDiffusion else {})))
    requests = [
        small_request(),
        small_request(prompt="a castle by night", seed=4, width=384),
        small_request(seed=5),
    ]
    together = method.generate(requests)
    for request, one in zip(requests, together, strict=True):
        alone = method.generate([request])[0]
        assert torch.equal(one.latents, alone.latents)
        assert one.image.tobytes() == alone.image.tobytes()


def test_initial_noise_depends_on_the_seed_alone():
    assert torch.equal(initial_noise(7, (1, 4, 3, 5)), initial_noise(7, (1, 4, 3, 5)))
    assert not torch.equal(initial_noise(7, (1, 4, 3, 5)), initial_noise(8, (1, 4, 3, 5)))


def test_a_wrapped_scroll_does_not_care_where_it_is_cut(golden):
    """Rolling the first latents by one stride rolls the result by one stride."""
    method = MultiDiffusion(family(golden), Config(**SMALL, wrap=True, time_ids="window"))
    start = initial_noise(0, (1, 4, 16, 40))
    one = method.sample(small_request(), latents=start).latents
    other = method.sample(small_request(), latents=start.roll(8, dims=3)).latents
    assert distance(other, one.roll(8, dims=3)) < ROUNDING


def test_progress_is_reported_step_by_step(golden):
    seen = []
    method = MultiDiffusion(family(golden), Config(**SMALL))
    method.generate([small_request(), small_request(seed=9)], callback=seen.append)
    assert [(s.request_index, s.index, s.count, s.stage) for s in seen] == [
        (i, k, 2, "multidiffusion") for i in range(2) for k in range(2)
    ]
    assert seen[0].timestep > seen[1].timestep


@pytest.mark.parametrize("rescale", [0.0, 0.4, 1.0])
def test_guidance_and_its_rescaling_equal_diffusers(rescale):
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import rescale_noise_cfg

    u, c = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    plain = u + 7.0 * (c - u)
    ours = guide(Prediction(u, c), 7.0, rescale)
    torch.testing.assert_close(ours, rescale_noise_cfg(plain, c, rescale))


def test_rescaled_guidance_reaches_the_scroll_and_lowers_its_contrast(golden):
    method = MultiDiffusion(family(golden), Config(**SMALL))
    strong = method.sample(small_request(guidance_scale=12.0)).latents
    tamed = method.sample(small_request(guidance_scale=12.0, guidance_rescale=1.0)).latents
    assert float(tamed.std()) < 0.99 * float(strong.std())
