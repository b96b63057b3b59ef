"""IP-Adapters: the published layout loads, pictures act as diffusers has it, and nothing else is touched."""

import json
import shutil

import pytest
import torch
from PIL import Image

from drspo.errors import UserError
from generate.canvas.plan import canvas_time_ids
from generate.canvas.windows import plan_windows
from generate.methods.drspo.control import Control
from generate.methods.drspo.two_stage import DRSPO
from generate.methods.drspo.two_stage import Config as TwoStageConfig
from generate.methods.image_prompt import ImagePrompt, pictures, picturing
from generate.methods.mad import MAD
from generate.methods.mad import Config as MADConfig
from generate.methods.multidiffusion import Config, MultiDiffusion
from generate.models.family import load_family
from generate.models.ip_adapter import _layers, locate_ip_adapter
from generate.models.prompts import encode_prompts
from generate.models.weights import Checkpoint, locate
from tests.small_scrolls import SMALL, distance, family, small_request
from tests.tiny_adapters import make_adapter, make_encoder

ROUNDING = 1e-5
KINDS = [("tiny-sd", False), ("tiny-sd", True), ("tiny-sdxl", False), ("tiny-sdxl", True)]


@pytest.fixture(scope="module")
def adapters(golden, tmp_path_factory):
    """Adapters for both golden models, plain and plus, with the tower beside them."""
    folder = tmp_path_factory.mktemp("adapters")
    make_encoder(folder / "models" / "image_encoder")
    for name, plus in KINDS:
        make_adapter(family(golden, name).unet, folder / "models" / f"{name}-{plus}.safetensors", plus=plus)
    return folder / "models"


@pytest.fixture(scope="module")
def loaded(golden, adapters):
    """Loads a golden model with its adapter, once for each kind."""
    kept = {}

    def load(name="tiny-sdxl", plus=False):
        if (name, plus) not in kept:
            source = str(adapters / f"{name}-{plus}.safetensors")
            kept[name, plus] = load_family(
                str(golden / "models" / name), device="cpu", ip_adapter=True, ip_adapter_source=source
            )
        return kept[name, plus]

    return load


def striped() -> Image.Image:
    """A blueprint whose ends look different."""
    picture = Image.new("RGB", (160, 64), (200, 40, 40))
    picture.paste((20, 60, 220), (80, 0, 160, 64))
    return picture


def windows(model, **settings):
    return MultiDiffusion(model, Config(**SMALL, **settings))


@pytest.mark.parametrize(("name", "plus"), KINDS)
def test_a_published_layout_predicts_as_diffusers_own_loader_has_it(golden, loaded, adapters, name, plus):
    from diffusers import UNet2DConditionModel
    from safetensors.torch import load_file

    model = loaded(name, plus)
    request = small_request(width=128, guidance_scale=3.0)
    method = windows(model)
    canvas, schedule = method.canvas(request), method.schedule(request)
    adapter = model.ip_adapter
    shown = adapter.embed([striped()])
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    seen = []
    with adapter.worn(model.unet, 0.7), pytest.raises(StopIteration):
        method.sample(
            request, shown=shown, latents=latents, callback=lambda step: seen.append(step) or stop()
        )
    unet = UNet2DConditionModel.from_pretrained(golden / "models" / name / "unet")
    state = {"image_proj": {}, "ip_adapter": {}}
    for key, value in load_file(adapters / f"{name}-{plus}.safetensors").items():
        state[key.partition(".")[0]][key.partition(".")[2]] = value
    unet._load_ip_adapter_weights([state], low_cpu_mem_usage=False)
    for processor in unet.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [0.7]
    told = encode_prompts(model, [request.prompt], [request.negative_prompt])
    added = {"image_embeds": [shown]}
    if told.pooled is not None:
        added |= {"text_embeds": torch.cat([told.negative_pooled, told.pooled])}
        added |= {"time_ids": canvas_time_ids("window", canvas).repeat(2, 1)}
    t, both = schedule.timesteps[0], torch.cat([told.negative_prompt_embeds, told.prompt_embeds])
    with torch.no_grad():
        u, c = unet(torch.cat([latents] * 2), t, both, added_cond_kwargs=added).sample.chunk(2)
    expected = schedule.step(u + 3.0 * (c - u), t, latents)
    assert distance(seen[0].latents, expected) < ROUNDING


def stop():
    raise StopIteration


@pytest.mark.parametrize(("name", "plus"), KINDS)
def test_a_picture_changes_what_is_painted_and_a_scale_of_zero_does_not(loaded, name, plus):
    model, request = loaded(name, plus), small_request()
    without = windows(model).sample(request).latents
    method = windows(model)
    for scale, acts in ((0.0, False), (0.9, True)):
        settings = ImagePrompt(enabled=True, scale=scale)
        with picturing(model, settings, method.canvas(request), striped()) as shown:
            pictured = method.sample(request, shown=shown).latents
        assert (distance(pictured, without) > 1e-3) == acts
        assert acts or distance(pictured, without) < ROUNDING


def test_the_network_is_left_as_it_was(loaded):
    model = loaded()
    before, names = dict(model.unet.attn_processors), {n for n, _ in model.unet.named_parameters()}
    with pytest.raises(KeyError), model.ip_adapter.worn(model.unet, 1.0):
        assert any("to_k_ip" in name for name, _ in model.unet.named_parameters())
        raise KeyError
    assert model.unet.attn_processors == before and model.unet.encoder_hid_proj is None
    assert {n for n, _ in model.unet.named_parameters()} == names
    assert model.unet.config.encoder_hid_dim_type is None


@pytest.mark.parametrize("method", ["multidiffusion", "mad", "drspo"])
@pytest.mark.parametrize("shown", ["whole", "window"])
def test_every_windowed_method_is_shown_its_blueprint(loaded, method, shown):
    model, request = loaded(), small_request()
    told = ImagePrompt(enabled=True, scale=0.8, shown=shown)

    def made(told):
        if method == "multidiffusion":
            return windows(model, image_prompt=told).generate([request])[0]
        if method == "mad":
            return MAD(model, MADConfig(**SMALL, image_prompt=told, threshold=1)).generate([request])[0]
        settings = {"control": Control(enabled=False), "image_prompt": told, "windows": Config(**SMALL)}
        return DRSPO(model, TwoStageConfig(**settings)).generate([request])[0]

    plain, pictured, again = made(ImagePrompt()), made(told), made(told)
    assert torch.equal(pictured.latents, again.latents)
    assert distance(pictured.latents, plain.latents) > 1e-3
    assert pictured.extras["blueprint"].size == (160, 64)
    assert pictured.facts["blueprint_evaluations"] == 4


@pytest.mark.parametrize("shown", ["whole", "window"])
def test_pictures_do_not_depend_on_how_many_windows_go_together(loaded, shown):
    model, request = loaded(), small_request()
    told = ImagePrompt(enabled=True, scale=0.8, shown=shown)
    results = []
    for batch in (1, 3, 4):
        method = windows(model, window_batch=batch)
        with picturing(model, told, method.canvas(request), striped()) as tokens:
            results.append(method.sample(request, shown=tokens).latents)
    assert distance(results[1], results[0]) < ROUNDING and distance(results[2], results[0]) < ROUNDING


def test_each_window_is_shown_its_own_part(loaded):
    model, request = loaded(), small_request()
    method = windows(model)
    seen = pictures("window", method.canvas(request), striped())
    assert [one.size for one in seen] == [(128, 128)] * 4
    assert seen[0].getpixel((4, 4))[0] > 150 and seen[-1].getpixel((120, 4))[2] > 150


def test_on_a_ring_the_last_windows_part_goes_round(loaded):
    method = windows(loaded(), wrap=True)
    canvas = method.canvas(small_request())
    assert max(window.x1 for window in canvas.windows) > canvas.width
    last = pictures("window", canvas, striped())[-1]
    assert last.getpixel((4, 4))[2] > 150 and last.getpixel((124, 4))[0] > 150


def test_an_adapter_of_another_model_is_refused_before_anything_loads(golden, adapters, monkeypatch):
    monkeypatch.setattr("generate.models.family.load_networks", lambda *_: pytest.fail("weights were read"))
    for source in (adapters / "tiny-sd-False.safetensors", adapters / "tiny-sd-True.safetensors"):
        with pytest.raises(UserError, match="adapter for another model"):
            load_family(
                str(golden / "models" / "tiny-sdxl"), device="cpu", ip_adapter=True,
                ip_adapter_source=str(source),
            )  # fmt: skip


def test_what_is_no_adapter_and_a_tower_that_does_not_fit_are_refused(golden, adapters, tmp_path):
    base = locate(str(golden / "models" / "tiny-sdxl"))
    good = adapters / "tiny-sdxl-False.safetensors"
    for source, said in (
        (golden / "models" / "tiny-sdxl" / "vae" / "diffusion_pytorch_model.safetensors", "no IP-Adapter"),
        (tmp_path / "gone.safetensors", "there is no IP-Adapter"),
    ):
        with pytest.raises(UserError, match=said):
            locate_ip_adapter(str(source), "", base)
    (tmp_path / "adapter.bin").write_bytes(b"")
    with pytest.raises(UserError, match="can run code"):
        locate_ip_adapter(str(tmp_path / "adapter.bin"), "", base)
    alone = tmp_path / "alone.safetensors"
    shutil.copy(good, alone)
    with pytest.raises(UserError, match="no image encoder lies beside it"):
        locate_ip_adapter(str(alone), "", base)
    other = tmp_path / "tower"
    shutil.copytree(adapters / "image_encoder", other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"projection_dim": 99}))
    with pytest.raises(UserError, match="looks at 24 numbers of a picture, and the image encoder gives 99"):
        locate_ip_adapter(str(good), str(other), base)
    with pytest.raises(UserError, match="made for UNets"):
        locate_ip_adapter(str(good), "", locate("package:miniature/weights/sd3"))


def test_a_method_asks_for_an_adapter_only_where_pictures_are_shown(golden):
    asked = Config(**SMALL, image_prompt=ImagePrompt(enabled=True))
    assert MultiDiffusion.needs_ip_adapter(asked) and not MultiDiffusion.needs_ip_adapter(Config())
    with pytest.raises(UserError, match="loaded without an IP-Adapter"):
        MultiDiffusion(family(golden), asked).generate([small_request()])


PUBLISHED = {
    "sd15": (
        {"block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 768, "attention_head_dim": 8},
        (16, 320, 1280),
    ),
    "sdxl": (
        {
            "block_out_channels": [320, 640, 1280],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "transformer_layers_per_block": [1, 2, 10],
            "attention_head_dim": [5, 10, 20],
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        (70, 640, 1280),
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_layers_of_the_published_models_are_those_of_the_published_adapters(tmp_path, name):
    config, (count, first, middle) = PUBLISHED[name]
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps(config))
    layers = _layers(Checkpoint("published", tmp_path, "sd"))
    assert len(layers) == count and layers[0][1:] == (first, config["cross_attention_dim"])
    assert layers[-1][0].startswith("mid_block") and layers[-1][1] == middle


def test_windows_are_planned_alike_for_pictures_and_latents():
    boxes = plan_windows(16, 40, 16, 8)
    assert [box.x0 for box in boxes] == [0, 8, 16, 24]
