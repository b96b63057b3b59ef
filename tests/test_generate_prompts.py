"""Prompts are encoded as diffusers does, and nothing about them is changed in silence."""

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from drspo.errors import UserError
from generate.canvas.sizes import time_ids, window_time_ids
from generate.canvas.windows import Window
from generate.methods.multidiffusion import Config, MultiDiffusion
from generate.models.prompts import check_prompt, encode_prompts, encode_text
from generate.request import Request
from tests.small_scrolls import SMALL, family, small_request

LONG = "a very long river " * 12


@pytest.mark.parametrize("negative", ["blurry", ""])
def test_sdxl_embeddings_equal_diffusers(golden, negative):
    pipe = StableDiffusionXLPipeline.from_pretrained(golden / "models" / "tiny-sdxl")
    theirs = pipe.encode_prompt("a misty mountain", negative_prompt=negative or None)
    ours = encode_prompts(family(golden), ["a misty mountain"], [negative])
    mine = (ours.prompt_embeds, ours.negative_prompt_embeds, ours.pooled, ours.negative_pooled)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_sd_embeddings_equal_diffusers(golden):
    pipe = StableDiffusionPipeline.from_pretrained(golden / "models" / "tiny-sd", safety_checker=None)
    positive, negative = pipe.encode_prompt("a misty mountain", "cpu", 1, True, "")
    ours = encode_prompts(family(golden, "tiny-sd"), ["a misty mountain"], [""])
    torch.testing.assert_close(ours.prompt_embeds, positive)
    torch.testing.assert_close(ours.negative_prompt_embeds, negative)
    assert ours.pooled is None


def test_an_empty_negative_is_zeros_or_encoded_as_asked(golden):
    model = family(golden)
    zeros = encode_prompts(model, ["a"], [""], empty_negative="zeros")
    encoded = encode_prompts(model, ["a"], [""], empty_negative="encoded")
    assert not zeros.negative_prompt_embeds.any() and not zeros.negative_pooled.any()
    torch.testing.assert_close(encoded.negative_prompt_embeds, encode_text(model, [""])[0])
    kept = encode_prompts(model, ["a"], ["fog"], empty_negative="zeros")
    assert kept.negative_prompt_embeds.any()


def test_embeddings_do_not_depend_on_the_company(golden):
    model = family(golden)
    texts = ["a castle", "a lighthouse at dusk"]
    together, pooled = encode_text(model, texts)
    for row, text in enumerate(texts):
        alone, alone_pooled = encode_text(model, [text])
        assert torch.equal(together[row : row + 1], alone)
        assert torch.equal(pooled[row : row + 1], alone_pooled)


def test_a_long_prompt_is_refused_naming_what_would_be_cut(golden):
    model = family(golden)
    rest = check_prompt(model, LONG)
    assert rest and rest.strip() in LONG
    with pytest.raises(UserError, match="this would be cut: ") as error:
        encode_prompts(model, [LONG], [""])
    assert rest in str(error.value)


def test_a_long_negative_prompt_is_refused_before_sampling(golden):
    method = MultiDiffusion(family(golden), Config(**SMALL))
    called = []
    with pytest.raises(UserError, match="77 tokens"):
        method.generate([small_request(), small_request(negative_prompt=LONG)], callback=called.append)
    assert called == []


def test_truncating_says_what_is_left_out_and_equals_the_shorter_prompt(golden, caplog):
    model = family(golden)
    rest = check_prompt(model, LONG)
    cut, _ = encode_text(model, [LONG], long_prompt="truncate")
    assert cut.shape[1] == 77
    assert rest in caplog.text
    whole, _ = encode_text(model, [LONG.rstrip().removesuffix(rest.strip())])
    torch.testing.assert_close(cut, whole)


def test_chunks_are_laid_end_to_end_for_prompt_and_negative(golden):
    model = family(golden)
    text = encode_prompts(model, [LONG], ["fog"], long_prompt="chunk")
    pieces = text.prompt_embeds.shape[1] // 77
    assert pieces == -(-len(model.tokenizers[0](LONG, add_special_tokens=False).input_ids) // 75)
    assert text.negative_prompt_embeds.shape == text.prompt_embeds.shape
    torch.testing.assert_close(
        text.prompt_embeds[:, :77], encode_text(model, [LONG], long_prompt="truncate")[0]
    )
    assert not torch.equal(text.prompt_embeds[:, 77:154], text.prompt_embeds[:, :77])


def test_a_chunked_prompt_makes_a_scroll(golden):
    method = MultiDiffusion(family(golden), Config(**SMALL, long_prompt="chunk"))
    long = method.sample(small_request(prompt=LONG, steps=1)).latents
    assert torch.isfinite(long).all()
    cut = (
        MultiDiffusion(family(golden), Config(**SMALL, long_prompt="truncate"))
        .sample(small_request(prompt=LONG, steps=1))
        .latents
    )
    assert not torch.equal(long, cut)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("scroll", (1024, 4096, 0, 0, 1024, 4096)),
        ("window", (1024, 1024, 0, 0, 1024, 1024)),
        ("crop", (1024, 4096, 0, 768, 1024, 1024)),
    ],
)
def test_micro_conditioning_is_in_pixels(mode, expected):
    assert time_ids(mode, (1024, 4096), Window(0, 1024, 768, 1792)) == expected


def test_micro_conditioning_of_a_plan_is_one_row_per_window():
    windows = [Window(0, 64, 0, 64), Window(0, 64, 96, 160)]
    assert window_time_ids("crop", (64, 128), windows).tolist() == [
        [64, 128, 0, 0, 64, 64],
        [64, 128, 0, 96, 64, 64],
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 324}, "nearest sizes are 320 and 328"),
        ({"height": 0}, "not a positive multiple of 8"),
        ({"height": 64, "width": 320}, "larger than the canvas of 64x320"),
        ({"steps": 0}, "at least one step"),
        ({"seed": -1}, "non-negative"),
        ({"guidance_scale": -2.0}, "from 0 on"),
        ({"guidance_rescale": 1.5}, "between 0 and 1"),
    ],
)
def test_impossible_requests_are_refused_before_any_sampling(golden, change, message):
    method = MultiDiffusion(family(golden), Config(**SMALL))
    settings = {"prompt": "a", "height": 128, "width": 320, "steps": 2} | change
    with pytest.raises(UserError, match=message):
        method.generate([small_request(), Request(**settings)], callback=lambda step: pytest.fail("sampled"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 100}, "nearest are 96 and 104"),
        ({"window": 128, "stride": 136}, "stride of 136 pixels is larger than the window of 128"),
        ({"window": 512}, "larger than the canvas"),
        ({"window": 0}, "window of 0"),
        ({"window": 128, "stride": 0}, "stride of 0 pixels"),
        ({"window": 128, "stride": -32}, "stride of -32 pixels"),
        ({"window_batch": -1}, "window_batch"),
    ],
)
def test_impossible_windows_are_refused(golden, settings, message):
    with pytest.raises(UserError, match=message):
        MultiDiffusion(family(golden), Config(**settings)).generate([small_request()])
