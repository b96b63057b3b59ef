"""The transformer: SD3's blocks in miniature, trained by flow matching on the latents that the UNet has.

Its folder opens as a `StableDiffusion3Pipeline`: the zoo's two text encoders, no third. In that one's place
the pipeline puts zeros, which are all alike and stay alike through every block, so that training may hold
them as one token that counts as many times.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from miniature.fit_text import PROJECTION, WIDTHS, tokenize
from miniature.fit_unet import DROP
from miniature.latents import COUNTS, Encoded, TextStack, caption_of, kept
from miniature.loop import Task, train
from miniature.pictures import BLUEPRINT, SQUARE, WIDE

STEPS = 20000
WORDS = 36  # tokens of a caption, the longest of which has 34
THIRD = 256  # zeros that the pipeline puts where a third encoder's tokens would be
PATCHES = 32  # the longest side, in patches of two latents, that positions are known for
WIDTH, HEAD, LAYERS = 128, 32, 6
TIMES_MEAN = 0.3  # of the logit of the time: a little more often noisy than clean
SHIFT = 1.5
_CYCLE = (SQUARE, BLUEPRINT, SQUARE, BLUEPRINT, SQUARE, BLUEPRINT, WIDE, BLUEPRINT)
BATCH = {SQUARE: 16, BLUEPRINT: 16, WIDE: 8}


def build_transformer() -> SD3Transformer2DModel:
    """An untrained transformer of SD3.5's shape, whose positions lie one apart."""
    model = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=LAYERS,
        attention_head_dim=HEAD,
        num_attention_heads=WIDTH // HEAD,
        joint_attention_dim=sum(WIDTHS),
        caption_projection_dim=WIDTH,
        pooled_projection_dim=WIDTHS[0] + PROJECTION,
        pos_embed_max_size=PATCHES,
        qk_norm="rms_norm",
    )
    positions = get_2d_sincos_pos_embed(WIDTH, PATCHES, base_size=PATCHES, output_type="pt")
    model.pos_embed.pos_embed.copy_(positions.float().unsqueeze(0))
    return model


def build_flow() -> FlowMatchEulerDiscreteScheduler:
    """The straight path from noise to picture."""
    return FlowMatchEulerDiscreteScheduler(shift=SHIFT)


class CountedAttention:
    """SD3's joint attention of which the last text token counts `count` times."""

    def __init__(self, count: int):
        self.weight = math.log(count)

    def __call__(
        self, attn, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_
    ) -> tuple[Tensor, Tensor]:
        """The image's and the text's share of the attention (batch x tokens x width each)."""
        split = lambda value: value.unflatten(2, (attn.heads, -1)).transpose(1, 2)  # noqa: E731
        text = encoder_hidden_states
        assert text is not None, "joint attention has both streams"
        query = [
            attn.norm_q(split(attn.to_q(hidden_states))),
            attn.norm_added_q(split(attn.add_q_proj(text))),
        ]
        key = [attn.norm_k(split(attn.to_k(hidden_states))), attn.norm_added_k(split(attn.add_k_proj(text)))]
        value = [split(attn.to_v(hidden_states)), split(attn.add_v_proj(text))]
        tokens = hidden_states.shape[1] + text.shape[1]
        bias = torch.zeros(1, 1, 1, tokens)
        bias[..., -1] = self.weight
        scores = torch.cat(query, 2) @ torch.cat(key, 2).transpose(2, 3)
        shares = (scores.float() / math.sqrt(query[0].shape[-1]) + bias).softmax(-1)
        mixed = (shares.to(scores.dtype) @ torch.cat(value, 2)).transpose(1, 2).flatten(2)
        image, text = mixed.split([hidden_states.shape[1], text.shape[1]], dim=1)
        return attn.to_out[1](attn.to_out[0](image)), text if attn.context_pre_only else attn.to_add_out(text)


@dataclass(frozen=True)
class FlowText:
    """The zoo's text encoders as SD3 wants them: both with a pooled output, and a tokenizer of few words."""

    tokenizer: CLIPTokenizer
    first: CLIPTextModelWithProjection
    second: CLIPTextModelWithProjection

    @classmethod
    def of(cls, text: TextStack) -> FlowText:
        """The encoders of a text stack; the first one's projection, which it lacks, is the identity."""
        settings = text.first.config.to_dict() | {"projection_dim": text.first.config.hidden_size}
        first = CLIPTextModelWithProjection(type(text.first.config)(**settings))
        first.text_model.load_state_dict(text.first.state_dict())
        with torch.no_grad():
            first.text_projection.weight.copy_(torch.eye(settings["projection_dim"]))
        tokenizer = deepcopy(text.tokenizer)
        tokenizer.model_max_length = WORDS
        return cls(tokenizer, first.eval().requires_grad_(False), text.second)

    @torch.no_grad()
    def embed(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Hidden states (count x words x 160) and pooled outputs (count x 160) of both, side by side."""
        tokens = tokenize(self.tokenizer, texts)
        outputs = [model(tokens, output_hidden_states=True) for model in (self.first, self.second)]
        hidden = torch.cat([output.hidden_states[-2] for output in outputs], -1)
        return hidden, torch.cat([output.text_embeds for output in outputs], -1)


@dataclass(frozen=True)
class FlowBucket:
    """One bucket of cached latents with what SD3's shape wants beside them."""

    encoded: Encoded
    pooled: np.ndarray  # count x 160

    @classmethod
    def of(cls, bucket: Encoded, text: FlowText, work: Path) -> FlowBucket:
        """The bucket with both encoders' pooled outputs, from disk if an earlier run made them."""
        count = COUNTS[bucket.size]
        chosen = [caption_of(bucket.size, index) for index in range(count)]
        path = work / f"pooled-both-{bucket.size[0]}x{bucket.size[1]}.npy"
        return cls(bucket, kept(path, count, lambda part: text.embed(chosen[part])[1]))

    def draw(self, step: int, count: int, empty: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """A batch of latents, text tokens and pooled outputs, a tenth of the captions left empty."""
        rng = np.random.default_rng([step, 35])
        index = np.sort(rng.integers(len(self.pooled), size=count))
        latents, hidden, _ = self.encoded.rows(index)
        hidden, pooled = hidden[:, :WORDS], torch.from_numpy(self.pooled[index]).float()
        dropped = torch.from_numpy(rng.random(count) < DROP)
        hidden[dropped], pooled[dropped] = empty
        return latents, functional.pad(hidden, (0, 0, 0, 1)), pooled


def fit_transformer(
    buckets: list[Encoded],
    text: TextStack,
    work: Path,
    steps: int = STEPS,
    sample=None,
    compiled: bool = False,
) -> SD3Transformer2DModel:
    """Trains the transformer on cached latents; `sample(step, model)` may draw what it can do by then.

    `compiled` blocks halve the time and need a C++ compiler. Products are computed in bfloat16.
    """
    torch.manual_seed(4)
    model, flow_text = build_transformer(), FlowText.of(text)
    by_size = {bucket.size: FlowBucket.of(bucket, flow_text, work) for bucket in buckets}
    empty = tuple(value[0] for value in flow_text.embed([""]))
    plain = model.attn_processors
    model.set_attn_processor(CountedAttention(THIRD))
    if compiled:
        for block in model.transformer_blocks:
            block.compile(options={"pattern_matcher": False})

    def loss(step: int) -> Tensor:
        size = _CYCLE[step % len(_CYCLE)]
        latents, hidden, pooled = by_size[size].draw(step, BATCH[size], empty)
        times = torch.sigmoid(TIMES_MEAN + torch.randn(len(latents)))
        noise = torch.randn_like(latents)
        mixed = torch.lerp(latents, noise, times[:, None, None, None])
        with torch.autocast("cpu", torch.bfloat16):
            velocity = model(mixed, hidden, pooled, 1000 * times).sample
        return functional.mse_loss(velocity.float(), noise - latents)

    def draw_samples(step: int) -> None:
        if sample:
            sample(step, model)

    task = Task(
        "transformer", model, loss, steps, rate=1e-3, warmup=400, average=0.999,
        sample=draw_samples, sample_every=1000,
    )  # fmt: skip
    train(task, work)
    model.set_attn_processor(plain)
    return model
