"""Direct sampling on transformers is diffusers' own pipeline, and says where a size is beyond a model."""

from __future__ import annotations

import diffusers
import pytest
import torch

from drspo.errors import UserError
from generate.methods.direct import Config, Direct
from generate.models.family import load_family
from generate.models.limits import bins
from generate.models.schedulers import shift
from generate.models.specs import MODELS
from generate.request import Request
from tests.tiny_transformers import KINDS, tiny

PROMPT = "a misty river"
SIZES = {"pixart-alpha": (512, 2048), "pixart-sigma": (256, 256)}


def _request(kind: str, **changes) -> Request:
    height, width = SIZES.get(kind, (128, 192))
    guidance = {"flux": 3.5, "flux-schnell": 1.0}.get(kind, 4.0)
    told = {
        "prompt": PROMPT,
        "height": height,
        "width": width,
        "steps": 2,
        "seed": 3,
        "guidance_scale": guidance,
    }
    return Request(**(told | changes))


def _plain(folder, request: Request) -> torch.Tensor:
    """The published pipeline's latents [C, h, w]."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    given = {"height": request.height, "width": request.width, "guidance_scale": request.guidance_scale}
    if "PixArt" in type(pipe).__name__:
        given["clean_caption"] = False
    found = pipe(
        request.prompt, num_inference_steps=request.steps, output_type="latent",
        generator=torch.Generator().manual_seed(request.seed), **given,
    ).images  # fmt: skip
    if isinstance(pipe, diffusers.FluxPipeline):
        found = pipe._unpack_latents(found, request.height, request.width, pipe.vae_scale_factor)
    return found[0]


@pytest.mark.parametrize("kind", KINDS)
def test_it_gives_the_published_pipelines_latents_to_the_bit(kind, golden):
    folder, request = tiny(kind, golden), _request(kind)
    made = Direct(load_family(str(folder), device="cpu")).generate([request])[0]
    assert made.image.size == (request.width, request.height)
    assert torch.equal(made.latents, _plain(folder, request))


def test_the_picture_is_the_published_pipelines_too(golden):
    folder, request = tiny("sd3", golden), _request("sd3")
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
    theirs = pipe(
        PROMPT, height=request.height, width=request.width, num_inference_steps=2, guidance_scale=4.0,
        generator=torch.Generator().manual_seed(3),
    ).images[0]  # fmt: skip
    ours = Direct(load_family(str(folder), device="cpu")).generate([request])[0].image
    assert max(abs(a - b) for a, b in zip(ours.tobytes(), theirs.tobytes(), strict=True)) <= 1


def test_a_pipeline_that_is_not_known_here_is_called_as_it_is(golden, tmp_path):
    source = diffusers.DiffusionPipeline.from_pretrained(tiny("sd3", golden))
    parts = {key: part for key, part in source.components.items() if part is not None}
    diffusers.StableDiffusion3PAGPipeline(**parts).save_pretrained(tmp_path)
    family = load_family(str(tmp_path), device="cpu")
    request, seen = _request("sd3"), []
    made = Direct(family).generate([request], seen.append)[0]
    assert made.image.size == (192, 128) and len(seen) == 2
    assert made.facts == {"pipeline": "StableDiffusion3PAGPipeline"}
    with pytest.raises(UserError, match="can be used as it is only"):
        family.denoiser  # noqa: B018


@pytest.mark.parametrize(
    ("model", "size", "said", "advice"),
    [
        ("flux", (1024, 4096), "rated up to 2.1 million", "--upscale 2 paints 512x2048"),
        ("sd3.5-large", (1024, 4096), "positions for 3072 pixels", "--upscale 2 paints 512x2048"),
        ("sd3.5-large", (1000, 1024), "multiples of 16", "can paint 992x1024"),
        (
            "pixart-sigma",
            (1024, 4096),
            "table of sizes, whose nearest is 512x2048",
            "--upscale 2 paints 512x2048",
        ),
        ("pixart-alpha", (1008, 1008), "table of sizes", "can paint 1024x1024"),
    ],
)
def test_a_size_beyond_a_model_is_refused_before_loading_with_what_it_can(model, size, said, advice):
    with pytest.raises(UserError, match=said) as refused:
        Direct.check_settings(Config(), _request(model, height=size[0], width=size[1]), MODELS[model])
    assert advice in str(refused.value.hint)


def test_what_is_only_not_rated_can_be_insisted_on():
    request = _request("flux", height=1024, width=4096)
    Direct.check_settings(Config(beyond=True), request, MODELS["flux"])
    with pytest.raises(UserError, match="positions"):
        Direct.check_settings(Config(beyond=True), request, MODELS["sd3.5-large"])


def test_medium_has_positions_for_the_whole_scroll():
    Direct.check_settings(Config(), _request("sd3", height=1024, width=4096), MODELS["sd3.5-medium"])


def test_pixarts_table_of_2k_holds_the_scroll_itself():
    assert (1024, 4096) in bins(256) and (512, 2048) in bins(128)


@pytest.mark.parametrize(("size", "mu"), [((512, 2048), 1.15), ((720, 2880), 1.83), ((1024, 4096), 3.23)])
def test_flux_is_shifted_by_the_number_of_tokens(size, mu):
    assert shift({}, (size[0] // 8, size[1] // 8)) == pytest.approx(mu, abs=0.005)


def test_a_pipeline_with_code_of_its_own_is_refused(golden, tmp_path):
    pipe = diffusers.DiffusionPipeline.from_pretrained(tiny("sd3", golden))
    pipe.save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    index.write_text(
        index.read_text().replace('"transformers",\n    "T5EncoderModel"', '"mine",\n    "Mine"')
    )
    with pytest.raises(UserError, match="code from 'mine'"):
        load_family(str(tmp_path), device="cpu")
