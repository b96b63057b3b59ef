"""DRSPO is loaded and called as pipelines of diffusers are."""

import numpy as np
import pytest
import torch

from drspo.errors import UserError
from generate.config import WindowSettings
from generate.methods.call import _seeds
from generate.methods.drspo.blueprint import Blueprint
from generate.methods.drspo.control import Control
from generate.methods.drspo.two_stage import DRSPO, Config
from generate.request import Request
from tests.small_scrolls import controlled_family
from tests.test_generate_models import write_lora
from tests.tiny_models import make_controlnet

CONFIG = Config(
    strength=0.67,
    blueprint=Blueprint(height=64, width=128),
    windows=WindowSettings(window=128, stride=64),
    control=Control(scale=1.0),
)


@pytest.fixture(scope="module")
def family(golden):
    return controlled_family(golden)


@pytest.fixture(scope="module")
def scroll(family):
    request = Request(prompt="a castle", height=128, width=256, seed=1, steps=3, guidance_scale=3.0)
    return DRSPO(family, CONFIG).generate([request])[0]


def test_from_pretrained_brings_the_controlnet_and_each_stage_its_lora(golden, tmp_path):
    base = golden / "models" / "tiny-sdxl"
    control = make_controlnet(base, tmp_path / "control")
    lora = write_lora(tmp_path / "lora", controlled_family(golden))
    drspo = DRSPO.from_pretrained(
        str(base),
        device="cpu",
        controlnet=str(control),
        conditioning="canny",
        lora_highres=str(lora),
        lora_weight=0.5,
    )
    assert drspo.family.controlnet_id == str(control)
    assert {name: lora["weight"] for name, lora in drspo.family.loras.items()} == {"highres": 0.5}
    without = DRSPO.from_pretrained(str(base), device="cpu", config=Config(control=Control(enabled=False)))
    assert without.family.controlnet is None


def test_the_call_is_that_of_a_diffusers_pipeline(family, scroll):
    drspo = DRSPO(family, CONFIG)
    seen = []
    options = {"height": 128, "width": 256, "num_inference_steps": 3, "guidance_scale": 3.0}
    output = drspo(
        "a castle", seed=1, num_images_per_prompt=2, **options,
        callback_on_step_end=lambda pipe, index, t, kwargs: seen.append((pipe, kwargs["latents"].shape)),
    )  # fmt: skip
    assert output.images[0].tobytes() == scroll.image.tobytes()
    assert output.blueprints[0].tobytes() == scroll.extras["blueprint"].tobytes()
    assert output.seeds == [1, 2]
    assert len(seen) == 10 and seen[0][0] is drspo
    latent = drspo("a castle", seed=1, output_type="latent", **options).images
    assert torch.equal(latent[0], scroll.latents)
    array = drspo("a castle", seed=1, output_type="np", **options).images
    assert np.array_equal((array[0] * 255).round().astype(np.uint8), np.asarray(scroll.image))


def test_a_torch_generator_decides_the_seeds(family):

    def seeds() -> list[int]:
        return _seeds(None, torch.Generator().manual_seed(5), 2, 2)

    assert seeds() == seeds()
    assert len(set(seeds())) == 4
    for bad in ({"seed": 1, "generator": torch.Generator()}, {"seed": [1, 2, 3]}, {"output_type": "jpeg"}):
        with pytest.raises(UserError):
            DRSPO(family, CONFIG)(["a", "b"], **bad)
