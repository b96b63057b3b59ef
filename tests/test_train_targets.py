"""Noising and targets against diffusers' schedulers, and what they refuse."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from drspo.errors import UserError
from train.engine.predictor import check_network
from train.objective.noise import draw_noise, draw_timestep, noise_process

SDXL = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
}


def pair():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 4, 8, 8, generator=generator)


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("t", [0, 1, 500, 999])
def test_noise_and_v_targets_are_those_of_diffusers(t, zero_snr):
    clean, noise = pair()
    config = SDXL | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": zero_snr}
    theirs = DDPMScheduler.from_config(config)
    steps = torch.tensor([t, t])
    ours = noise_process(config, "v")
    assert torch.allclose(ours.noisy(clean, noise, t), theirs.add_noise(clean, noise, steps), atol=1e-5)
    assert torch.allclose(ours.answer(clean, noise, t), theirs.get_velocity(clean, noise, steps), atol=1e-5)
    assert ours.timesteps == 1000 and ours.model_time(t) == t
    abar = float(theirs.alphas_cumprod[t])
    assert ours.snr(t) == pytest.approx(abar / (1 - abar), rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_noise_is_that_of_diffusers(shift):
    clean, noise = pair()
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": shift}
    theirs = FlowMatchEulerDiscreteScheduler.from_config(config)
    ours = noise_process(config, "flow")
    for t in (0, 400, 999):
        index = 999 - t  # diffusers lists sigmas from 1 down
        sigma = float(theirs.sigmas[index])
        assert ours.noise[t] == pytest.approx(sigma, abs=1e-6)
        assert ours.model_time(t) == pytest.approx(float(theirs.timesteps[index]), abs=1e-3)
        scaled = theirs.scale_noise(clean, theirs.timesteps[index : index + 1], noise)
        assert torch.allclose(ours.noisy(clean, noise, t), scaled, atol=1e-5)
    assert torch.equal(ours.answer(clean, noise, 3), noise - clean)


@pytest.mark.parametrize("target", ["epsilon", "v", "flow"])
def test_the_error_scale_turns_any_error_into_the_epsilon_error(target):
    clean, noise = pair()
    flow = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
    kinds = {"epsilon": SDXL, "v": SDXL | {"prediction_type": "v_prediction"}, "flow": flow}
    process = noise_process(kinds[target], target)
    t = 300
    clean, noise = clean.double(), noise.double()
    seen = process.noisy(clean, noise, t)
    guess = process.answer(clean, noise, t) + 0.1 * torch.randn_like(clean)
    a, b = process.signal[t], process.noise[t]
    implied = {"epsilon": guess, "v": a * guess + b * seen, "flow": seen + a * guess}[target]
    native = (guess - process.answer(clean, noise, t)).square().mean()
    epsilon = (implied - noise).square().mean()
    assert float(native) * process.error_scale(t, "epsilon") == pytest.approx(float(epsilon), rel=1e-9)
    assert process.error_scale(t, "native") == 1.0


@pytest.mark.parametrize(
    ("config", "target", "says"),
    [
        (SDXL, "v", "'epsilon'"),
        (SDXL | {"prediction_type": "v_prediction"}, "epsilon", "'v'"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "epsilon", "'flow'"),
        (SDXL | {"prediction_type": "sample"}, "epsilon", "sample"),
        (SDXL | {"beta_schedule": "squaredcos_cap_v2"}, "epsilon", "squaredcos"),
        (SDXL | {"_class_name": "EDMEulerScheduler"}, "epsilon", "EDM's noise"),
    ],
)
def test_a_scheduler_that_contradicts_the_target_is_refused(config, target, says):
    with pytest.raises(UserError, match=says):
        noise_process(config, target)


@pytest.mark.parametrize(
    ("config", "says"),
    [({"time_cond_proj_dim": 256}, "told its guidance"), ({"addition_embed_type": "image"}, "'image'")],
)
def test_a_network_that_is_told_what_training_does_not_tell_it_is_refused(config, says):
    with pytest.raises(UserError, match=says):
        check_network(SimpleNamespace(kind="sdxl", unet=SimpleNamespace(config=SimpleNamespace(**config))))


def test_draws_are_functions_of_the_seed():
    shared = draw_noise(3, (1, 4, 2, 2))
    assert shared[0] is shared[1] and torch.equal(shared[0], draw_noise(3, (1, 4, 2, 2))[0])
    apart = draw_noise(3, (1, 4, 2, 2), independent=True)
    assert torch.equal(apart[0], shared[0]) and not torch.equal(apart[0], apart[1])
    times = [draw_timestep(seed, 10, 20) for seed in range(300)]
    assert set(times) == set(range(10, 20)) and times[:5] == [draw_timestep(s, 10, 20) for s in range(5)]
