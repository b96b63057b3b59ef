"""What the training takes for granted: counted tokens, positions, and SD3's own text embeddings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import miniature
from miniature.fit_transformer import PATCHES, THIRD, WORDS, CountedAttention, FlowText, build_transformer
from miniature.latents import TextStack

SDXL = Path(miniature.__path__[0]) / "weights" / "sdxl"


@pytest.fixture(scope="module")
def stack():
    first = CLIPTextModel.from_pretrained(SDXL / "text_encoder", dtype=torch.float32)
    second = CLIPTextModelWithProjection.from_pretrained(SDXL / "text_encoder_2", dtype=torch.float32)
    return TextStack(CLIPTokenizer.from_pretrained(SDXL / "tokenizer"), first.eval(), second.eval())


@torch.no_grad()
def test_one_token_that_counts_many_times_stands_for_as_many():
    torch.manual_seed(0)
    model = build_transformer().eval()
    for value in model.parameters():
        value.normal_(std=0.05)
    latents, text, pooled = torch.randn(2, 4, 4, 8), torch.randn(2, 5, 160), torch.randn(2, 160)
    times = torch.tensor([100.0, 900.0])
    zeros = torch.zeros(2, THIRD, 160)
    plain = model(latents, torch.cat([text, zeros], 1), pooled, times).sample
    model.set_attn_processor(CountedAttention(THIRD))
    counted = model(latents, torch.cat([text, zeros[:, :1]], 1), pooled, times).sample
    assert torch.allclose(plain, counted, atol=1e-5)


def test_a_shorter_text_is_the_beginning_of_the_longer_one(stack):
    caption = ["a lighthouse by the sea at dusk, under drifting clouds"]
    hidden, pooled = FlowText.of(stack).embed(caption)
    whole, second_pooled = stack.embed(caption)
    assert torch.allclose(hidden, whole[:, :WORDS], atol=1e-5)
    assert torch.allclose(pooled[:, 64:], second_pooled, atol=1e-5)


def test_neighbouring_patches_lie_one_apart():
    table = build_transformer().pos_embed.pos_embed.reshape(PATCHES, PATCHES, -1)
    quarter = table.shape[-1] // 4
    assert torch.allclose(table[0, :3, 0], torch.arange(3).float().sin(), atol=1e-6)
    assert torch.allclose(table[:3, 0, 2 * quarter], torch.arange(3).float().sin(), atol=1e-6)
