"""Trained models to the folders that ship: the layouts of diffusers and open_clip, half precision."""

from __future__ import annotations

import hashlib
import json
import shutil
from copy import deepcopy
from pathlib import Path

from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    EulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTokenizer

from miniature.fit_clip import SIDE, clip_config
from miniature.fit_transformer import FlowText, build_flow
from miniature.fit_unet import build_scheduler
from miniature.fit_upscaler import official
from miniature.latents import TextStack


def write(zoo, parts: list[str], out: Path) -> None:
    """Exports whatever the trained parts belong to: sdxl, controlnet, clip, aesthetic, detector."""
    if {"unet", "autoencoder", "text", "decoder"} & set(parts):
        write_pipeline(zoo.unet, zoo.decoder, zoo.text_stack, build_scheduler(), out / "sdxl")
    if "controlnet" in parts:
        write_model(zoo.controlnet, out / "controlnet")
    if "clip" in parts:
        write_clip(zoo.clip, zoo.tokenizer, out / "clip")
    if "aesthetic" in parts:
        clip = (out / "clip" / "open_clip_model.safetensors").read_bytes()
        belongs = {"backbone_sha256": hashlib.sha256(clip).hexdigest()}  # a head is its backbone's weights'
        write_tensors(zoo.aesthetic.layers, out / "aesthetic" / "aesthetic.safetensors", "layers.", belongs)
    if "transformer" in parts:
        write_flow_pipeline(zoo.transformer, zoo.decoder, zoo.text_stack, out / "sd3")
    if "upscaler" in parts:
        write_upscaler(zoo.upscaler, out / "upscaler" / "upscaler.safetensors")
    if "detector" in parts:
        write_tensors(zoo.detector, out / "detector" / "detector.safetensors")
    shutil.copyfile(zoo.work / "fit.log", out / "fit.log")


def assemble(
    unet: UNet2DConditionModel, vae: AutoencoderKL, text: TextStack, scheduler: EulerDiscreteScheduler
) -> StableDiffusionXLPipeline:
    """The diffusers pipeline of these parts."""
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=text.first,
        text_encoder_2=text.second,
        tokenizer=text.tokenizer,
        tokenizer_2=text.tokenizer,
        unet=unet,
        scheduler=scheduler,
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


def write_pipeline(
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    text: TextStack,
    scheduler: EulerDiscreteScheduler,
    folder: Path,
) -> None:
    """SDXL's folder; the models themselves are left in single precision."""
    models = (unet, vae, text.first, text.second)
    for model in models:
        model.half()
    assemble(unet, vae, text, scheduler).save_pretrained(folder, safe_serialization=True)
    for name in ("tokenizer", "tokenizer_2"):
        write_tokenizer(text.tokenizer, folder / name)
    for config in folder.glob("*/config.json"):
        make_portable(config)
    for model in models:
        model.float()


def assemble_flow(
    transformer: SD3Transformer2DModel, vae: AutoencoderKL, text: TextStack
) -> StableDiffusion3Pipeline:
    """The diffusers pipeline around the transformer, with no third text encoder."""
    own = FlowText.of(text)
    vae.register_to_config(shift_factor=0.0)  # which that pipeline adds
    return StableDiffusion3Pipeline(
        transformer=transformer, scheduler=build_flow(), vae=vae, text_encoder=own.first,
        tokenizer=own.tokenizer, text_encoder_2=own.second, tokenizer_2=own.tokenizer, text_encoder_3=None,
        tokenizer_3=None,
    )  # fmt: skip


def write_flow_pipeline(
    transformer: SD3Transformer2DModel, vae: AutoencoderKL, text: TextStack, folder: Path
) -> None:
    """SD3's folder; the models themselves are left in single precision."""
    pipe = assemble_flow(transformer, deepcopy(vae), text)
    pipe.text_encoder_2 = deepcopy(pipe.text_encoder_2)
    for model in (transformer, pipe.vae, pipe.text_encoder, pipe.text_encoder_2):
        model.half()
    pipe.save_pretrained(folder, safe_serialization=True)
    for name in ("tokenizer", "tokenizer_2"):
        write_tokenizer(pipe.tokenizer, folder / name)
    for config in folder.glob("*/config.json"):
        make_portable(config)
    transformer.float()


def write_upscaler(model: nn.Module, path: Path) -> None:
    """Real-ESRGAN's weights under its own names, in half precision."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = official(model.state_dict())
    save_file({name: value.half().contiguous() for name, value in state.items()}, path)


def make_portable(config: Path) -> None:
    """Makes a `config.json` fit for other machines.

    Out goes the folder that the model was loaded from, a path of its maker. The precision becomes single:
    transformers obeys it where diffusers does not, and a pipeline opened with no argument would mix the two.
    """
    kept = {key: value for key, value in json.loads(config.read_text()).items() if key != "_name_or_path"}
    kept |= {key: "float32" for key in ("dtype", "torch_dtype") if key in kept}
    config.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def write_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """The tokenizer's folder with the two files that older readers want, `vocab.json` and `merges.txt`."""
    tokenizer.save_pretrained(folder)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]) + "\n", encoding="utf-8")


def write_model(model: ControlNetModel, folder: Path) -> None:
    """One diffusers model in its folder."""
    model.half().save_pretrained(folder, safe_serialization=True)
    make_portable(folder / "config.json")
    model.float()


def write_clip(model: nn.Module, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """open_clip's folder: configuration, weights, and the tokenizer beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    preprocessing = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    config = {
        "model_cfg": clip_config(tokenizer),
        "preprocess_cfg": {"size": SIDE, "mode": "RGB", **preprocessing},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    write_tokenizer(tokenizer, folder)
    write_tensors(model, folder / "open_clip_model.safetensors")


def write_tensors(
    model: nn.Module, path: Path, prefix: str = "", metadata: dict[str, str] | None = None
) -> None:
    """A model's weights in half precision as one safetensors file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = lambda value: value.half() if value.is_floating_point() else value  # noqa: E731
    save_file(
        {prefix + name: half(value.detach()).contiguous() for name, value in model.state_dict().items()},
        path,
        metadata=metadata,
    )
