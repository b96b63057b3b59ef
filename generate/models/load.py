"""A checkpoint's files to networks in memory; the only place that reads weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from drspo.errors import UserError
from generate.models.quiet import quiet
from generate.models.weights import Checkpoint


def load_pipeline(found: Checkpoint, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """transformer, vae, tokenizers, text_encoders and the pipeline around them, on the device and frozen.

    The pipeline is diffusers' own: it knows how its text encoders are asked. The autoencoder is in float32
    where a float16 one would overflow. UserError for a pipeline with parts from elsewhere.
    """
    import diffusers

    quiet()
    _require_known_parts(found)
    half = any(found.variant(part) for part in found.files)
    absent = {part: None for part, named in found.index.items() if named == [None, None]}
    with _damage_named(found, "pipeline"):
        pipe = diffusers.DiffusionPipeline.from_pretrained(
            found.folder, dtype=dtype, use_safetensors=True, variant="fp16" if half else None,
            local_files_only=True, **absent,
        )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    vae = getattr(pipe, "vae", None)
    for name, network in pipe.components.items():
        if isinstance(network, torch.nn.Module):
            freeze(network, device)
            if name == "vae" and dtype == torch.float16:
                network.to(torch.float32)
    parts = {name: getattr(pipe, name, None) for name in found.text_parts}
    tokenizers = [getattr(pipe, name.replace("text_encoder", "tokenizer")) for name in parts]
    return {
        "unet": None, "transformer": getattr(pipe, "transformer", None), "vae": vae, "pipe": pipe,
        "tokenizers": tokenizers, "text_encoders": [*parts.values()],
    }  # fmt: skip


def _require_known_parts(found: Checkpoint) -> None:
    for part, named in found.index.items():
        if isinstance(named, list) and named and named[0] not in (None, "diffusers", "transformers"):
            raise UserError(
                f"the {part} of {found.source} is code from {named[0]!r}, which is not run here",
                hint="Choose a pipeline whose parts are diffusers' and transformers'.",
            )


def load_networks(found: Checkpoint, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """unet, vae, tokenizers and text_encoders of a checkpoint, on the device and frozen.

    The autoencoder is never in float16, and in bfloat16 only where its configuration allows that.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel

    quiet()
    with _damage_named(found, "unet"):
        unet = UNet2DConditionModel.from_pretrained(
            found.folder, subfolder="unet", dtype=dtype, use_safetensors=True, variant=found.variant("unet")
        )
    overflows = found.config("vae").get("force_upcast", True) or dtype == torch.float16
    vae_dtype = torch.float32 if overflows else dtype
    with _damage_named(found, "vae"):
        vae = AutoencoderKL.from_pretrained(
            found.folder, subfolder="vae", dtype=vae_dtype, use_safetensors=True, variant=found.variant("vae")
        )
    tokenizers, encoders = _load_text(found, dtype)
    for network in (unet, vae, *encoders):
        freeze(network, device)
    return {"unet": unet, "vae": vae, "tokenizers": tokenizers, "text_encoders": encoders}


def _load_text(found: Checkpoint, dtype: torch.dtype) -> tuple[list[Any], list[Any]]:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    classes = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
    tokenizers, encoders = [], []
    for part in found.text_parts:
        tokenizer = part.replace("text_encoder", "tokenizer")
        with _damage_named(found, tokenizer):
            tokenizers.append(CLIPTokenizer.from_pretrained(found.folder / tokenizer))
        with _damage_named(found, part):
            encoders.append(
                classes[part].from_pretrained(
                    found.folder / part, dtype=dtype, use_safetensors=True, variant=found.variant(part)
                )
            )
    return tokenizers, encoders


def load_controlnet(found: Checkpoint, dtype: torch.dtype) -> Any:
    """A ControlNet, as it comes from its file."""
    import diffusers

    quiet()
    with _damage_named(found, "ControlNet"):
        return getattr(diffusers, found.config("")["_class_name"]).from_pretrained(
            found.folder, dtype=dtype, use_safetensors=True, variant=found.variant("")
        )


def load_denoiser(found: Checkpoint) -> Any:
    """A UNet or transformer by itself, in float32."""
    import diffusers

    quiet()
    with _damage_named(found, ""):
        return getattr(diffusers, found.config("")["_class_name"]).from_pretrained(
            found.folder, dtype=torch.float32, use_safetensors=True, variant=found.variant("")
        )


@contextlib.contextmanager
def _damage_named(found: Checkpoint, part: str) -> Iterator[None]:
    """Turns what the libraries raise for files that are cut off or contradictory into a UserError."""
    inside = "" if part == "ControlNet" else part
    if (found.folder / inside / "config.json").is_file():
        found.config(inside)  # bounded, before anything is built by it
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of every kind: diffusers', transformers', safetensors', tokenizers'
        said = f"{type(error).__name__}: {error}".strip().partition("\n")[0][:300]
        hint = "A file of it is damaged, or its settings do not fit its weights: fetch it again."
        raise UserError(
            f"The {part} of {found.source} cannot be loaded: {said}", str(found.folder), hint
        ) from error


def freeze(network: Any, device: torch.device) -> Any:
    """The network on its device, to be evaluated and not trained."""
    network.requires_grad_(False)
    network.eval()
    return network.to(device)
