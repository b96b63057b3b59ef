"""The fusion core: micro-batches, guidance, sharing of prompts, memory, and restoring what it replaced."""

from contextlib import contextmanager
from unittest import mock

import pytest
import torch

from drspo.errors import UserError
from generate.methods.multidiffusion import Config, MultiDiffusion
from generate.methods.sdxl import SDXL
from generate.request import initial_noise
from generate.sampling.fusion import Evaluation, windowed
from generate.sampling.guidance import guide
from generate.sampling.scroll import canvas_time_ids, encode_request, plan_canvas
from tests.small_scrolls import SMALL, distance, family, small_request

ROUNDING = 5e-5
"""Float32 sums in another order, amplified by guidance; mistakes are larger than 1e-3."""


def prediction(model, *, guidance_scale=5.0, **options):
    """(the canvas's prediction for one step, the predictor)."""
    request = small_request()
    config = Config(**SMALL)
    canvas = plan_canvas(model.spec, config, request.height, request.width)
    latents = initial_noise(0, (1, 4, canvas.height, canvas.width))
    with windowed(
        model,
        canvas,
        encode_request(model, config, request),
        guidance_scale=guidance_scale,
        time_ids=canvas_time_ids(model, "crop", canvas),
        **options,
    ) as predict:
        return predict(latents, torch.tensor(501), 0), predict


def one_window_at_a_time(model, guidance_scale):
    """The same prediction by plain diffusers calls, one window and one guidance half at a time."""
    request, config = small_request(), Config(**SMALL)
    canvas = plan_canvas(model.spec, config, request.height, request.width)
    latents = initial_noise(0, (1, 4, canvas.height, canvas.width))
    text = encode_request(model, config, request)
    ids = canvas_time_ids(model, "crop", canvas)
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


def test_the_last_resort_is_one_window_and_one_guidance_half(golden):
    model = family(golden)
    whole, _ = prediction(model, window_batch=4)
    with memory_for(model, samples=1):
        single, predict = prediction(model, window_batch=4)
    assert predict.window_batch == 1
    assert predict.split_halves
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


def test_control_residuals_are_asked_for_every_evaluation_and_added(golden):
    model = family(golden)
    plain, _ = prediction(model, window_batch=3)
    seen: list[Evaluation] = []

    class Push:
        network = torch.nn.Module()

        def __call__(self, evaluation):
            seen.append(evaluation)
            return middle_pushed(model, evaluation)

    pushed, _ = prediction(model, window_batch=3, control=Push())
    assert [list(e.windows) for e in seen] == [[0, 1], [2, 3]]
    assert distance(pushed, plain) > 1e-3


def middle_pushed(model, evaluation):
    """Residuals of a ControlNet that leaves the skips alone and adds one to the middle."""
    count, _, h, w = evaluation.samples.shape
    channels = model.unet.config.block_out_channels
    shapes = [(channels[0], 1)]
    for level, width in enumerate(channels):
        shapes += [(width, 2**level)] * model.unet.config.layers_per_block
        if level < len(channels) - 1:
            shapes.append((width, 2 ** (level + 1)))
    return {
        "down_block_additional_residuals": tuple(torch.zeros(count, c, h // f, w // f) for c, f in shapes),
        "mid_block_additional_residual": torch.ones(
            count, channels[-1], h // model.coarsest, w // model.coarsest
        ),
    }


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
    torch.testing.assert_close(guide(u, c, 7.0, rescale), rescale_noise_cfg(plain, c, rescale))


def test_rescaled_guidance_reaches_the_scroll_and_lowers_its_contrast(golden):
    method = MultiDiffusion(family(golden), Config(**SMALL))
    strong = method.sample(small_request(guidance_scale=12.0)).latents
    tamed = method.sample(small_request(guidance_scale=12.0, guidance_rescale=1.0)).latents
    assert float(tamed.std()) < 0.99 * float(strong.std())
