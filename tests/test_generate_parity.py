"""MultiDiffusion, diffusers' panorama and MAD give the latents of their reference implementations."""

from pathlib import Path

import pytest

from generate.methods.mad import MAD
from generate.methods.mad import Config as MADConfig
from generate.methods.multidiffusion import Config, MultiDiffusion
from generate.models.prompts import PromptEmbeddings, encode_prompts
from generate.request import Request
from tests import recordings
from tests.small_scrolls import distance, family

TOLERANCE = 1e-4
METHODS = ("multidiffusion", "diffusers_panorama", "mad")
SCHEDULERS = {
    "DDIMScheduler": "ddim",
    "EulerDiscreteScheduler": "euler",
    "PNDMScheduler": "pndm",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
}
CASES = recordings.cases(*METHODS)


class Enough(Exception):
    """Ends a sampling after the steps a test looks at."""


def sampler(golden, settings):
    """The reference's settings on our sampler."""
    common = {
        "window": settings["window"] * 8,
        "stride": settings["stride"] * 8,
        "scheduler": SCHEDULERS[settings["scheduler"]],
        "wrap": settings.get("circular_padding", False),
    }
    model = family(golden, settings["model"])
    if settings["method"] == "mad":
        return MAD(model, MADConfig(threshold=settings["mad_threshold"], **common))
    return MultiDiffusion(model, Config(edge="uncovered", **common))


def request(settings):
    return Request(
        prompt=settings["prompt"],
        negative_prompt=settings["negative"],
        height=settings["height"],
        width=settings["width"],
        seed=settings["seed"],
        steps=settings["steps"],
        guidance_scale=settings["guidance_scale"],
    )


def embeddings(tensors):
    if "prompt_embeds_uncond_cond" in tensors:
        both, pooled = tensors["prompt_embeds_uncond_cond"], tensors.get("pooled_uncond_cond")
        apart = (None, None) if pooled is None else (pooled[1:], pooled[:1])
        return PromptEmbeddings(both[1:], both[:1], *apart)
    return PromptEmbeddings(
        tensors["prompt_embeds"],
        tensors["negative_prompt_embeds"],
        tensors["pooled_prompt_embeds"],
        tensors["negative_pooled_prompt_embeds"],
    )


def load(case):
    settings, tensors = recordings.load(case)
    return settings, tensors, tensors.get("init_latents", tensors.get("init_latents_scaled"))


def test_golden_cases_are_found():
    assert len(CASES) == 7


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_final_latents_equal_the_reference(golden, case):
    settings, tensors, start = load(case)
    seen = {}
    final = (
        sampler(golden, settings)
        .sample(
            request(settings),
            embeddings=embeddings(tensors),
            latents=start,
            callback=lambda step: seen.__setitem__(step.index, step.latents),
        )
        .latents
    )
    assert distance(final, tensors["final_latents"]) <= TOLERANCE
    for row, index in enumerate(settings["latents_per_step_indices"]):
        assert distance(seen[index], tensors["latents_per_step"][row]) <= TOLERANCE


@pytest.mark.parametrize("case", [c for c in CASES if "sd_a" in c.name or "sdxl_a" in c.name], ids=str)
def test_the_first_step_of_mad_equals_the_reference(golden, case):
    settings, tensors, start = load(case)
    assert settings["latents_per_step_indices"][0] == 0

    def stop(step):
        assert distance(step.latents, tensors["latents_per_step"][0]) <= TOLERANCE
        raise Enough

    with pytest.raises(Enough):
        sampler(golden, settings).sample(
            request(settings), embeddings=embeddings(tensors), latents=start, callback=stop
        )


@pytest.mark.parametrize("case", [c for c in CASES if c.name.startswith("a_w1024_s8")], ids=str)
def test_a_request_alone_reproduces_the_references_first_step(golden, case):
    """Prompt, noise and windows are all ours here; nothing is taken from the reference but its settings."""
    settings, tensors, _ = load(case)

    def stop(step):
        assert distance(step.latents, tensors["latents_per_step"][0]) <= TOLERANCE
        raise Enough

    with pytest.raises(Enough):
        sampler(golden, settings).sample(request(settings), callback=stop)


def test_prompt_embeddings_equal_the_reference(golden):
    settings, tensors, _ = load(Path("multidiffusion/a_w1024_s8_cfg7.5"))
    model = family(golden, settings["model"])
    ours = encode_prompts(model, [settings["prompt"]], [settings["negative"]])
    theirs = embeddings(tensors)
    assert distance(ours.prompt_embeds, theirs.prompt_embeds) <= 1e-5
    assert distance(ours.negative_prompt_embeds, theirs.negative_prompt_embeds) <= 1e-5
