"""Strips give the numbers of one piece; what usual tiling does is shown to fail the same tests."""

import pytest
import torch
from PIL import Image

from generate.images import streaming
from generate.images.vae import decode_latents, encode_images, from_pil, to_pil


@pytest.fixture(scope="module", params=["tiny-sd", "tiny-sdxl"])
def vae(request, golden):
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(golden / "models" / request.param / "vae").eval()


@pytest.fixture(scope="module")
def latents():
    # A drift across the canvas: left and right have other statistics, as day and night in one scroll.
    noise = torch.randn(1, 4, 16, 96, generator=torch.Generator().manual_seed(3))
    return noise * torch.linspace(0.2, 1.2, 96) + torch.linspace(-0.7, 0.7, 96)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("strip", [1, 2, 3, 7])
def test_strips_decode_to_the_same_image_as_one_piece(vae, latents, strip):
    assert relative(decode_latents(vae, latents, strip=strip), decode_latents(vae, latents, strip=0)) < 1e-5


@pytest.mark.parametrize(("height", "width"), [(64, 520), (128, 256), (256, 136)])
def test_strips_encode_to_the_same_latents_as_one_piece(vae, height, width):
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1
    whole, strips = encode_images(vae, image, strip=0), encode_images(vae, image, strip=1)
    assert whole.shape == (1, 4, height // 8, width // 8)
    assert relative(strips, whole) < 1e-5


def test_encoding_equals_the_scaled_mode_of_diffusers(vae):
    image = torch.rand(2, 3, 64, 128, generator=torch.Generator().manual_seed(2)) * 2 - 1
    with torch.no_grad():
        expected = vae.encode(image).latent_dist.mode() * vae.config.scaling_factor
    assert relative(encode_images(vae, image), expected) < 1e-5


def test_seams_at_strip_borders_are_those_of_the_untiled_image_and_independent_tiles_are_worse(vae, latents):
    whole = decode_latents(vae, latents, strip=0)
    strips = decode_latents(vae, latents, strip=2)
    apart = torch.cat([decode_latents(vae, piece, strip=0) for piece in latents.split(16, dim=-1)], dim=-1)
    borders = [b * 8 for _, b in streaming.strip_bounds(96, 16)[:-1]]

    def seam(image: torch.Tensor) -> float:
        steps = (image[..., 1:] - image[..., :-1]).abs().mean(dim=(0, 1, 2))
        return float(steps[[b - 1 for b in borders]].mean() / steps.mean())

    assert abs(seam(strips) - seam(whole)) < 1e-4
    assert abs(seam(apart) - seam(whole)) > 0.05
    assert relative(apart, whole) > 0.01


def test_no_convolution_sees_more_than_one_strip_and_its_halo(vae, latents, monkeypatch):
    seen = []
    convolve = torch.nn.functional.conv2d

    def record(part, *args, **kwargs):
        seen.append(part.shape[-1])
        return convolve(part, *args, **kwargs)

    monkeypatch.setattr(streaming.F, "conv2d", record)
    decode_latents(vae, latents, strip=1)
    assert max(seen) <= 8 * 8 + 2


def test_attention_in_chunks_of_queries_is_the_same(vae, latents, monkeypatch):
    expected = decode_latents(vae, latents, strip=2)
    monkeypatch.setattr(streaming, "QUERY_CHUNK", 100)
    assert relative(decode_latents(vae, latents, strip=2), expected) < 1e-5


def test_decoding_twice_gives_the_same_bits(vae, latents):
    assert torch.equal(decode_latents(vae, latents, strip=2), decode_latents(vae, latents, strip=2))


def test_statistics_keep_their_digits_where_the_mean_is_large():
    values = torch.randn(1, 4, 3, 40, generator=torch.Generator().manual_seed(0)) * 1e-2 + 1e3
    strips = streaming.Strips.cut(values, streaming.strip_bounds(40, 7), torch.device("cpu"))
    mean, rstd = streaming.group_statistics(strips, 2, 0.0)
    exact = values.double().reshape(2, -1)
    assert torch.allclose(mean, exact.mean(1), rtol=1e-7)
    assert torch.allclose(rstd, exact.var(1, correction=0).rsqrt(), rtol=1e-2)


def test_float16_autoencoder_is_refused(vae):
    half = type(vae).from_config(vae.config).half()
    with pytest.raises(ValueError, match="float16"):
        decode_latents(half, torch.zeros(1, 4, 8, 8))


def test_pictures_survive_the_round_trip_through_tensors():
    picture = Image.effect_noise((40, 24), 90).convert("RGB")
    assert to_pil(from_pil([picture]))[0].tobytes() == picture.tobytes()


def test_values_outside_the_range_are_clipped_not_wrapped():
    image = to_pil(torch.tensor([-3.0, 3.0]).reshape(1, 1, 1, 2).expand(1, 3, 1, 2))[0]
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [(0, 0, 0), (255, 255, 255)]
