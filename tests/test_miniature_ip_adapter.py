"""The shipped IP-Adapter fits the shipped models, and tells the network what a picture shows."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from generate.methods.image_prompt import ImagePrompt
from generate.methods.multidiffusion import Config, MultiDiffusion
from generate.models.family import load_family
from generate.request import Request
from miniature.fit_ip_adapter import FILE, WEIGHTS, Adapter, write_ip_adapter
from miniature.fit_unet import added, build_scheduler
from miniature.latents import picture_latents
from miniature.pictures import FRESH_SEED, SQUARE
from miniature.world import paint, sample_scene


@pytest.fixture(scope="module")
def model():
    return load_family("miniature", device="cpu", ip_adapter=True)


def test_a_picture_of_what_is_there_helps_the_network_more_than_one_of_something_else(model):
    """Without words, at strong noise: what the picture says is all that is known."""
    count = 24
    scenes = [sample_scene(FRESH_SEED + 800_000 + number, *SQUARE) for number in range(count)]
    pictures = np.stack([paint(scene) for scene in scenes])
    shown = model.ip_adapter.embed([Image.fromarray(picture) for picture in pictures])[count:]
    latents, time = picture_latents(model.vae, pictures), 850
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    kept = build_scheduler().alphas_cumprod[time]
    noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
    told = added(torch.zeros(count, model.text_encoders[1].config.projection_dim), SQUARE)
    hidden = torch.zeros(count, 77, model.unet.config.cross_attention_dim)

    def error(embeddings, scale=1.0):
        conditions = told | {"image_embeds": [embeddings]}
        with torch.no_grad(), model.ip_adapter.worn(model.unet, scale):
            said = model.unet(noisy, time, hidden, added_cond_kwargs=conditions).sample
        return (said - noise).square().mean((1, 2, 3))

    own, others, without = error(shown), error(shown.roll(1, 0)), error(shown, 0.0)
    assert own.mean() < 0.97 * others.mean() and own.mean() < 0.97 * without.mean()
    assert (own < others).float().mean() >= 0.6


def test_a_scroll_is_painted_through_it_and_replays(model):
    told = Config(window=128, stride=64, image_prompt=ImagePrompt(enabled=True))
    asked = Request(prompt="a castle at dusk", height=128, width=512, steps=2, guidance_scale=3.0)
    one, two = (MultiDiffusion(model, told).generate([asked])[0] for _ in range(2))
    assert torch.equal(one.latents, two.latents) and one.extras["blueprint"].size == (256, 64)


def test_it_is_small_and_in_the_published_layout(model, tmp_path):
    file = WEIGHTS / "ip_adapter" / FILE
    assert file.stat().st_size < 1.2e6
    with safe_open(file, "pt") as opened:
        names = set(opened.keys())
    assert {"image_proj.proj.weight", "image_proj.norm.bias", "ip_adapter.1.to_k_ip.weight"} <= names
    unet = load_family("miniature", device="cpu").unet
    write_ip_adapter(Adapter(unet), tmp_path)
    with safe_open(tmp_path / FILE, "pt") as opened:
        assert set(opened.keys()) == names
