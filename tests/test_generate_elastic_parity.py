"""ElasticDiffusion gives its reference implementation's latents, from its draws where they were recorded."""

import pytest
import torch

from generate.canvas.reference import Reference
from generate.methods.elastic_steps import Draws, Elastic
from generate.methods.elasticdiffusion import Config, ElasticDiffusion
from generate.methods.one_stage import Run
from generate.models.prompts import PromptEmbeddings
from generate.request import Request
from generate.sampling.loop import Moment
from tests import recordings
from tests.small_scrolls import distance, family

TOLERANCE = 1e-4
CASES = recordings.cases("elasticdiffusion")
WHOLE = [case for case in CASES if "_det" in case.name]
DRAWN = [case for case in CASES if "_det" not in case.name]


class Recorded(Draws):
    """The places and noise that the reference implementation drew."""

    def __init__(self, settings, tensors):
        super().__init__(settings["seed"])
        self.tensors, self.row = tensors, 0

    def places(self, cells, count, new_share):
        rows = self.tensors["sample_indices"][self.row : self.row + count].long()
        self.row += count
        assert rows.shape == (count, cells)
        return rows


class Replayed(ElasticDiffusion):
    """ElasticDiffusion on recorded draws."""

    def draws(self, request):
        return Recorded(*self.recording)


def sampler(golden, settings, tensors):
    config = Config(
        resampling=settings["resampling_steps"], new_share=settings["new_p"],
        repaint=settings["repaint_sampling"], reference_weight=settings["rrg_init_weight"],
        reference_stop=settings["rrg_stop_t"], reference_decay=settings["cosine_scale"],
    )  # fmt: skip
    method = Replayed(family(golden, settings["model"]), config)
    method.recording = settings, tensors
    return method


def request(settings):
    return Request(
        prompt=settings["prompt"], negative_prompt=settings["negative"], height=settings["height"],
        width=settings["width"], seed=settings["seed"], steps=settings["steps"],
        guidance_scale=settings["guidance_scale"],
    )  # fmt: skip


def embeddings(tensors):
    if "prompt_embeds_uncond_cond" in tensors:
        both = tensors["prompt_embeds_uncond_cond"]
        pooled = tensors.get("pooled_uncond_cond")
        halves = (None, None) if pooled is None else (pooled[1:], pooled[:1])
        return PromptEmbeddings(both[1:], both[:1], *halves)
    names = (
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    )
    return PromptEmbeddings(*(tensors[name] for name in names))


def test_golden_cases_are_found():
    assert len(WHOLE) >= 1 and len(DRAWN) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("case", WHOLE, ids=str)
def test_final_latents_equal_the_reference(golden, case):
    settings, tensors = recordings.load(case)
    seen = {}
    final = (
        sampler(golden, settings, tensors)
        .sample(
            request(settings), embeddings=embeddings(tensors), latents=tensors["init_latents"],
            callback=lambda step: seen.__setitem__(step.index, step.latents),
        )
        .latents
    )  # fmt: skip
    assert distance(final, tensors["final_latents"]) <= TOLERANCE
    for row, index in enumerate(settings["latents_per_step_indices"]):
        assert distance(seen[index], tensors["latents_per_step"][row]) <= TOLERANCE


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_first_looks_direction_and_detail_equal_the_reference(golden, case):
    """Of the cases that repaint these are the second look's, at the noised latents that were recorded."""
    settings, tensors = recordings.load(case)
    method = sampler(golden, settings, tensors)
    again = settings["repaint_sampling"] and settings["resampling_steps"]
    latents = tensors["undo_step_outputs"][0] if again else tensors["init_latents"]
    asked, told = request(settings), method.conditions(embeddings(tensors))
    schedule = method.schedule(asked)
    moment = Moment(0, len(schedule), schedule.timesteps[0])
    run = Run(request=asked, canvas=method.canvas(asked), schedule=schedule, conditions=told)
    with torch.no_grad(), method.fused(run) as (_, predict):
        elastic = Elastic(method.family, method.config, run, predict, method.draws(asked))
        elastic.draws.row = settings["resampling_steps"] + 1 if again else 0
        for name, tensor in tensors.items():
            if name.startswith("bg_"):
                axis, number, timestep = (int(name.split("_")[n]) for n in (1, 2, 5))
                assert timestep == int(moment.timestep)
                elastic.backdrops[axis * 2 + number] = timestep, tensor
        resampling = 0 if again else settings["resampling_steps"]
        direction, _, _ = elastic.direction(latents, moment, resampling)
        local = elastic.local(latents, moment)
    assert distance(direction, tensors["first_direction"]) <= TOLERANCE
    if "first_local_uncond" in tensors:
        assert distance(local, tensors["first_local_uncond"]) <= TOLERANCE


@pytest.mark.parametrize("case", CASES, ids=str)
def test_references_have_the_recorded_size_and_first_look_at_the_top_left(case):
    settings, tensors = recordings.load(case)
    side = 64 if settings["model"] == "tiny-sd" else 128
    reference = Reference(settings["height"] // 8, settings["width"] // 8, side)
    assert list(reference.size) == settings["downsample_size"]
    assert not tensors["sample_indices"][0].any()
    assert tensors["sample_indices"].shape[1] == reference.cells


@pytest.mark.slow
@pytest.mark.parametrize("case", DRAWN, ids=str)
def test_a_drawn_case_asks_as_often_as_the_reference(golden, case):
    settings, tensors = recordings.load(case)
    made = sampler(golden, settings, tensors).sample(
        request(settings), embeddings=embeddings(tensors), latents=tensors["init_latents"]
    )
    assert made.facts["unet_evaluations"] == settings["unet_samples"]
