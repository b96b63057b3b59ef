"""What a checkpoint's settings say is obeyed, as diffusers' own pipelines obey it, or refused by name."""

import copy
from dataclasses import replace

import diffusers
import pytest
import torch

from drspo.errors import UserError
from generate.canvas.noise import initial_noise, step_noise
from generate.images.vae import decode_latents, decode_windows, encode_images
from generate.methods.multidiffusion import Config as WindowConfig
from generate.methods.multidiffusion import MultiDiffusion
from generate.methods.sdxl import SDXL, Config
from generate.models.schedulers import KNOWN, SCHEDULERS, make_schedule, require_linear
from generate.sampling.loop import denoise
from tests.small_scrolls import distance, family, small_request
from tests.test_generate_schedulers import Perfect

PARITY = 1e-4
EDM = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "prediction_type": "epsilon"}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}


def with_scheduler(model, config, keep=True):
    """The model as if its scheduler folder said something else."""
    return replace(model, scheduler_config=({**model.scheduler_config} if keep else {}) | config)


def pipeline(model):
    """diffusers' own pipeline over the same networks."""
    scheduler = getattr(diffusers, model.scheduler_config["_class_name"]).from_config(model.scheduler_config)
    parts = {"vae": model.vae, "unet": model.unet, "scheduler": scheduler}
    parts |= {"text_encoder": model.text_encoders[0], "tokenizer": model.tokenizers[0]}
    if model.kind == "sdxl":
        parts |= {"text_encoder_2": model.text_encoders[1], "tokenizer_2": model.tokenizers[1]}
        made = diffusers.StableDiffusionXLPipeline(**parts, add_watermarker=False)
    else:
        made = diffusers.StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    made.set_progress_bar_config(disable=True)
    return made


def both(model, guidance_scale=5.0, steps=4):
    """(our final latents, diffusers' own, evaluations) of one small picture."""
    request = small_request(height=64, width=64, guidance_scale=guidance_scale, steps=steps)
    ours = SDXL(model, Config(scheduler="checkpoint")).sample(request)
    theirs = pipeline(model)(
        request.prompt,
        height=64,
        width=64,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        latents=initial_noise(request.seed, (1, 4, 8, 8)),
        generator=step_noise(request.seed),
        output_type="latent",
    ).images
    return ours.latents, theirs, ours.facts["unet_evaluations"]


@pytest.mark.parametrize("name", ["tiny-sd", "tiny-sdxl"])
@pytest.mark.parametrize(("scale", "evaluations"), [(0.0, 4), (0.7, 4), (1.0, 4), (1.1, 8)])
def test_guidance_of_at_most_one_is_one_conditional_evaluation(golden, name, scale, evaluations):
    model = with_scheduler(family(golden, name), {"_class_name": "DDIMScheduler"})
    ours, theirs, count = both(model, scale)
    assert count == evaluations
    assert distance(ours, theirs) < PARITY


CONFIGS = {
    "EDM, Euler": (EDM | {"_class_name": "EDMEulerScheduler"}, False),
    "EDM, DPM++": (EDM | {"_class_name": "EDMDPMSolverMultistepScheduler"}, False),
    "EDM, v": (EDM | {"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction"}, False),
    "TCD": ({"_class_name": "TCDScheduler"}, True),
    "LCM": ({"_class_name": "LCMScheduler"}, True),
    "v": ({"_class_name": "EulerDiscreteScheduler", "prediction_type": "v_prediction"}, True),
    "zero terminal SNR": (
        {
            "_class_name": "DDIMScheduler",
            "rescale_betas_zero_snr": True,
            "prediction_type": "v_prediction",
            "timestep_spacing": "trailing",
        },
        True,
    ),
    "clipping": ({"_class_name": "DDIMScheduler", "clip_sample": True}, True),
    "x0": ({"_class_name": "DDIMScheduler", "prediction_type": "sample"}, True),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_checkpoints_own_schedule_gives_what_diffusers_pipeline_gives(golden, name):
    config, keep = CONFIGS[name]
    ours, theirs, _ = both(with_scheduler(family(golden), config, keep))
    assert torch.isfinite(ours).all()
    assert distance(ours, theirs) < PARITY


def test_a_network_that_is_told_the_guidance_scale_is_told_it_and_evaluated_once(golden):
    base = family(golden, "tiny-sd")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = diffusers.UNet2DConditionModel.from_config({**base.unet.config, "time_cond_proj_dim": 32})
    model = with_scheduler(replace(base, unet=unet.eval()), {"_class_name": "LCMScheduler"})
    ours, theirs, count = both(model, 7.5)
    assert count == 4
    assert distance(ours, theirs) < PARITY
    assert distance(both(model, 2.0)[0], ours) > 1e-3


def test_an_autoencoders_mean_and_spread_of_each_channel_are_obeyed(golden):
    model = copy.copy(family(golden))
    model.vae = copy.deepcopy(model.vae)
    model.vae.register_to_config(latents_mean=[0.5, -1.0, 0.1, 2.0], latents_std=[2.0, 0.5, 1.0, 3.0])
    request = small_request(height=64, width=64)
    with_ddim = with_scheduler(model, {"_class_name": "DDIMScheduler"})
    ours = decode_latents(model.vae, SDXL(model).sample(request).latents)
    theirs = pipeline(with_ddim)(
        request.prompt,
        height=64,
        width=64,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale,
        latents=initial_noise(request.seed, (1, 4, 8, 8)),
        output_type="pt",
    ).images
    assert distance((ours / 2 + 0.5).clamp(0, 1), theirs) < PARITY
    latents = initial_noise(0, (1, 4, 8, 8))
    torch.testing.assert_close(decode_windows(model.vae, latents), decode_latents(model.vae, latents))


def test_encoding_and_decoding_agree_on_mean_and_spread(golden):
    plain = family(golden).vae
    vae = copy.deepcopy(plain)
    mean, std = torch.tensor([0.5, -1.0, 0.1, 2.0]), torch.tensor([2.0, 0.5, 1.0, 3.0])
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    raw = encode_images(plain, image) / plain.config.scaling_factor
    shaped = [each.view(1, 4, 1, 1) for each in (mean, std)]
    expected = (raw - shaped[0]) / shaped[1] * plain.config.scaling_factor
    torch.testing.assert_close(encode_images(vae, image), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "config", "reason"),
    [
        ("ddim", EDM | {"_class_name": "EDMEulerScheduler"}, "EDM"),
        ("euler", FLOW, "flow matching"),
        ("unipc", {"prediction_type": "flow_prediction"}, "flow matching"),
        ("ddim", {"prediction_type": "score"}, "predicts 'score'"),
        ("pndm", {"prediction_type": "sample"}, "predicts x0"),
        ("pndm", {"rescale_betas_zero_snr": True}, "zero terminal SNR"),
        ("checkpoint", FLOW | {"use_dynamic_shifting": True}, "shifted by the size"),
        ("checkpoint", {"_class_name": "HeunDiscreteScheduler"}, "HeunDiscreteScheduler, which is not known"),
        ("checkpoint", {"_class_name": None}, "names no scheduler"),
    ],
)
@pytest.mark.parametrize("method", [SDXL, MultiDiffusion])
def test_a_schedule_that_would_compute_something_else_is_refused_by_name(
    golden, method, name, config, reason
):
    model = with_scheduler(family(golden), config)
    settings = {"scheduler": name} | ({"window": 64} if method is MultiDiffusion else {})
    made = method(model, (WindowConfig if method is MultiDiffusion else Config)(**settings))
    with pytest.raises(UserError, match=reason):
        made.generate([small_request(height=64, width=64)])


@pytest.mark.parametrize("strength", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("name", sorted(KNOWN - set(SCHEDULERS.values()) - {"LCMScheduler"}))
def test_schedules_that_only_checkpoints_bring_follow_a_perfect_predictor_too(golden, name, strength):
    config = EDM if name.startswith("EDM") else FLOW if name.startswith("Flow") else {}
    model = with_scheduler(family(golden), config | {"_class_name": name}, keep=not config)
    schedule = make_schedule(model, "checkpoint", 20)
    require_linear(schedule)
    schedule.enter(strength)
    clean, noise = initial_noise(1, (1, 4, 8, 20)), initial_noise(2, (1, 4, 8, 20))
    start = schedule.noised(clean, noise)
    final = denoise(Perfect(schedule, clean), start, schedule)
    end = float(getattr(schedule.scheduler, "final_alpha_cumprod", 1.0))
    assert distance(final, end**0.5 * clean + (1 - end) ** 0.5 * noise) < 1e-3
