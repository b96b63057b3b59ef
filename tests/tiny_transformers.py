"""Tiny pipelines with random weights, one of each family, in diffusers' layout: the real code at no cost."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp

import diffusers
import torch
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

KINDS = ("sd3", "flux", "flux-schnell", "pixart-alpha", "pixart-sigma")
WIDTH = 32
SIDE = 16


@lru_cache
def tiny(kind: str, golden: Path) -> Path:
    """The folder of a tiny pipeline of this kind, made once a session."""
    folder = Path(mkdtemp(prefix=f"tiny-{kind}-"))
    make(kind, golden, folder)
    return folder


def make(kind: str, golden: Path, folder: Path) -> None:
    """Saves a pipeline of this kind whose weights are drawn from a fixed seed."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        pipe = _BUILDERS[kind](golden)
        for network in pipe.components.values():
            if isinstance(network, torch.nn.Module):
                _shake(network)
    pipe.save_pretrained(folder, safe_serialization=True)


@torch.no_grad()
def _shake(network: torch.nn.Module) -> None:
    """Layers that begin at zero would make conditions and times say nothing."""
    for value in network.parameters():
        if not value.any():
            value.normal_(std=0.05)


def tiny_flux_controlnet(golden: Path, folder: Path) -> Path:
    """A ControlNet for the tiny FLUX, whose outputs are not zero."""
    flux = diffusers.FluxTransformer2DModel.from_pretrained(tiny("flux", golden) / "transformer")
    with torch.random.fork_rng():
        torch.manual_seed(6)
        network = diffusers.FluxControlNetModel.from_transformer(
            flux, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
            load_weights_from_transformer=False,
        )  # fmt: skip
        _shake(network)
    network.save_pretrained(folder)
    return folder


def _vae(channels: int) -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), norm_num_groups=4, latent_channels=channels, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        scaling_factor=0.36, shift_factor=0.1, force_upcast=False, mid_block_add_attention=False,
    )  # fmt: skip


def _clip(golden: Path, cls: type) -> tuple[CLIPTokenizer, torch.nn.Module]:
    tokenizer = CLIPTokenizer.from_pretrained(golden / "models" / "tiny-sdxl" / "tokenizer")
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, projection_dim=16,
        num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=77,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return tokenizer, cls(config)


def _t5() -> tuple[T5Tokenizer, T5EncoderModel]:
    letters = [(letter, -2.0) for letter in "▁abcdefghijklmnopqrstuvwxyz"]
    tokenizer = T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters], extra_ids=0)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=WIDTH, d_ff=32, d_kv=8, num_layers=1, num_heads=2,
    )  # fmt: skip
    return tokenizer, T5EncoderModel(config)


def _sd3(golden: Path) -> diffusers.DiffusionPipeline:
    (first, one), (second, two) = (_clip(golden, CLIPTextModelWithProjection) for _ in range(2))
    third, three = _t5()
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=SIDE, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=WIDTH, caption_projection_dim=WIDTH,
        pooled_projection_dim=32, pos_embed_max_size=24, qk_norm="rms_norm", dual_attention_layers=(0,),
    )  # fmt: skip
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer, vae=_vae(4), scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        tokenizer=first, text_encoder=one, tokenizer_2=second, text_encoder_2=two, tokenizer_3=third,
        text_encoder_3=three,
    )  # fmt: skip


def _flux(golden: Path, dev: bool = True) -> diffusers.DiffusionPipeline:
    first, one = _clip(golden, CLIPTextModel)
    second, two = _t5()
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, pooled_projection_dim=16, guidance_embeds=dev, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=dev, shift=3.0 if dev else 1.0, base_shift=0.5, max_shift=1.15,
        base_image_seq_len=256, max_image_seq_len=4096,
    )  # fmt: skip
    return diffusers.FluxPipeline(
        transformer=transformer, vae=_vae(4), scheduler=scheduler, tokenizer=first, text_encoder=one,
        tokenizer_2=second, text_encoder_2=two,
    )  # fmt: skip


def _pixart(cls: type, sample_size: int) -> diffusers.DiffusionPipeline:
    tokenizer, encoder = _t5()
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=sample_size, in_channels=4, out_channels=8, num_layers=2, attention_head_dim=16,
        num_attention_heads=3, cross_attention_dim=48, caption_channels=WIDTH,
        use_additional_conditions=sample_size == 128, norm_elementwise_affine=False, norm_eps=1e-6,
    )  # fmt: skip
    scheduler = diffusers.DPMSolverMultistepScheduler(
        beta_schedule="linear", beta_start=0.0001, beta_end=0.02, prediction_type="epsilon"
    )
    vae = _vae(4)
    vae.register_to_config(shift_factor=None)
    return cls(
        transformer=transformer, vae=vae, scheduler=scheduler, tokenizer=tokenizer, text_encoder=encoder
    )


_BUILDERS = {
    "sd3": _sd3,
    "flux": _flux,
    "flux-schnell": lambda golden: _flux(golden, dev=False),
    "pixart-alpha": lambda _golden: _pixart(diffusers.PixArtAlphaPipeline, 128),
    "pixart-sigma": lambda _golden: _pixart(diffusers.PixArtSigmaPipeline, 32),
}
