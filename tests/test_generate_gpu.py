"""On a GPU the samplers give what the reference implementations give on a CPU."""

from pathlib import Path

import pytest
import torch

from generate.methods.multidiffusion import Config, MultiDiffusion
from generate.models.family import load_family
from tests.small_scrolls import SMALL, distance, small_request
from tests.test_generate_parity import embeddings, load, request

pytestmark = pytest.mark.gpu
DEVICE = "cuda"


@pytest.fixture
def exact():
    """Float32 as the CPU has it: cards from Ampere on shorten convolutions to TF32 unless told not to."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def test_final_latents_equal_the_reference(golden, exact):
    settings, tensors, start = load(Path("multidiffusion/a_w1024_s8_cfg7.5"))
    family = load_family(str(golden / "models" / settings["model"]), device=DEVICE)
    method = MultiDiffusion(family, Config(window=512, stride=64, scheduler="ddim", edge="uncovered"))
    final = method.sample(request(settings), embeddings=embeddings(tensors), latents=start).latents
    assert distance(final.cpu(), tensors["final_latents"]) <= 1e-3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_stays_near_the_cpus_single_precision(golden, dtype):
    folder = str(golden / "models" / "tiny-sdxl")
    single, half = (
        MultiDiffusion(family, Config(**SMALL)).sample(small_request(steps=1)).latents.cpu()
        for family in (load_family(folder, device="cpu"), load_family(folder, device=DEVICE, dtype=dtype))
    )
    assert 0 < distance(half, single) < 0.1


def test_a_scroll_comes_out_whole_and_the_same_twice(golden):
    family = load_family(str(golden / "models" / "tiny-sdxl"), device=DEVICE)
    method = MultiDiffusion(family, Config(**SMALL))
    first, second = (method.generate([small_request()])[0].image for _ in range(2))
    assert first.size == (320, 128) and first.tobytes() == second.tobytes()
