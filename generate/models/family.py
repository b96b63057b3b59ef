"""Model families: Stable Diffusion and SDXL checkpoints behind one face; the only place that loads them."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from drspo.errors import UserError
from generate.models.controlnet import SDXL_CANNY, load_controlnet, locate_controlnet
from generate.models.fingerprint import fingerprint
from generate.models.weights import Checkpoint, locate

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """What a checkpoint is and the geometry it was made for; all sizes in pixels, (height, width)."""

    base: str
    """A Hub id, a folder, or `package:NAME/FOLDER` for weights that ship inside an installed package."""
    controlnet: str = ""
    """The canny ControlNet that belongs to the base, in the same notation; "" when there is none."""
    window: int = 1024
    stride: int = 256
    scroll: tuple[int, int] = (1024, 4096)
    blueprint: tuple[int, int] = (512, 2048)
    steps: int = 50
    guidance_scale: float = 5.0
    strength: float = 0.7
    control_scale: float = 0.5


MODELS: dict[str, ModelSpec] = {
    "miniature": ModelSpec(
        base="package:miniature/weights/sdxl",
        controlnet="package:miniature/weights/controlnet",
        window=128,
        stride=32,
        scroll=(128, 512),
        blueprint=(64, 256),
        steps=25,
        guidance_scale=3.0,
        strength=0.7,
        control_scale=1.0,
    ),
    "sdxl": ModelSpec(
        base="stabilityai/stable-diffusion-xl-base-1.0",
        controlnet=SDXL_CANNY,
    ),
}

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(slots=True)
class ModelFamily:
    """One loaded checkpoint: networks in evaluation mode, tokenizers, and the facts samplers need."""

    kind: str
    """"sd" or "sdxl"."""
    spec: ModelSpec
    model_id: str
    fingerprint: str
    """Identifies the weights' content, wherever they lie (see `generate.models.fingerprint`)."""
    unet: Any
    vae: Any
    tokenizers: list[Any]
    text_encoders: list[Any]
    scheduler_config: dict[str, Any]
    device: torch.device
    dtype: torch.dtype
    controlnet: Any = None
    controlnet_id: str = ""
    zero_empty_negative: bool = False
    """What the checkpoint itself does with an empty negative prompt: zeros instead of its encoding."""
    loras: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def prediction_type(self) -> str:
        return str(self.scheduler_config.get("prediction_type", "epsilon"))

    @property
    def vae_scale_factor(self) -> int:
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def latent_scaling(self) -> float:
        return float(self.vae.config.scaling_factor)

    @property
    def latent_channels(self) -> int:
        return int(self.unet.config.in_channels)

    @property
    def sample_size(self) -> int:
        """Side of the square the UNet was trained on, in latents."""
        return int(self.unet.config.sample_size)

    @property
    def coarsest(self) -> int:
        """How many latents one element of the UNet's coarsest feature map spans on each axis."""
        return int(2 ** (len(self.unet.config.block_out_channels) - 1))

    def load_lora(
        self, path: str | Path, weight: float = 1.0, name: str = "default", *, other_base: bool = False
    ) -> None:
        """Adds a LoRA (a folder or a .safetensors file) as adapter `name`; see
        `generate.models.loras.load_lora`."""
        from generate.models.loras import load_lora

        load_lora(self, path, weight, name, other_base=other_base)

    def use_lora(self, name: str | None) -> None:
        """Makes one loaded LoRA active, with the weight it was loaded with; None switches all off."""
        from generate.models.loras import use_lora

        use_lora(self, name)


def load_family(
    model: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    controlnet: bool = False,
    controlnet_source: str = "",
) -> ModelFamily:
    """The networks of a named model (MODELS), a Hub id or a folder, ready to sample.

    device "auto" takes CUDA, then Apple's GPU, then the CPU; dtype "auto" is float16 on CUDA and float32
    elsewhere. The autoencoder is never in float16, and in bfloat16 only where its configuration allows that.
    `controlnet` loads the model's canny ControlNet too, or the one of `controlnet_source` (Hub id or folder).
    Weights that are missing raise UserError, naming id, file and how to get it, before anything loads; so
    does a ControlNet of another base.
    """
    spec = MODELS.get(model)
    target = choose_device(device)
    kind = choose_dtype(dtype, target)
    found = locate(spec.base if spec else model, prefer_half=kind == torch.float16)
    source = controlnet_source or (spec.controlnet if spec else "")
    control = locate_controlnet(source, found, kind) if controlnet else None
    family = _load(found, spec or ModelSpec(base=model), target, kind)
    family.model_id = model
    if spec is None:
        family.spec = derived_spec(family)
    if control is not None:
        family.controlnet = load_controlnet(control, family.dtype)
        freeze(family.controlnet, target)
        family.controlnet_id = control.source
    return family


def choose_device(name: str) -> torch.device:
    """The torch device of that name; "auto" takes the best there is, and an absent one is a UserError."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"Unknown device {name!r}.", hint="Use auto, cpu, cuda, cuda:1 or mps.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("There is no CUDA device on this machine.", hint="Use --device cpu or auto.")
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The torch dtype of that name; "auto" is float16 on CUDA and float32 elsewhere."""
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise UserError(f"Unknown dtype {name!r}.", hint=f"Use auto, {', '.join(DTYPES)}.")
    return DTYPES[name]


def derived_spec(family: ModelFamily) -> ModelSpec:
    """The paper's geometry at a checkpoint's own size: window the training square, stride a quarter of it."""
    side = family.sample_size * family.vae_scale_factor
    guidance = 7.5 if family.kind == "sd" else 5.0
    return replace(
        family.spec,
        window=side,
        stride=side // 4,
        scroll=(side, 4 * side),
        blueprint=(side // 2, 2 * side),
        guidance_scale=guidance,
    )


def _load(found: Checkpoint, spec: ModelSpec, device: torch.device, dtype: torch.dtype) -> ModelFamily:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(
        found.folder, subfolder="unet", dtype=dtype, use_safetensors=True, variant=found.variant("unet")
    )
    overflows = found.config("vae").get("force_upcast", True) or dtype == torch.float16
    vae_dtype = torch.float32 if overflows else dtype
    vae = AutoencoderKL.from_pretrained(
        found.folder, subfolder="vae", dtype=vae_dtype, use_safetensors=True, variant=found.variant("vae")
    )
    tokenizers, encoders = _load_text(found, dtype)
    family = ModelFamily(
        kind=found.kind,
        spec=spec,
        model_id=found.source,
        fingerprint=fingerprint(found),
        unet=unet,
        vae=vae,
        tokenizers=tokenizers,
        text_encoders=encoders,
        scheduler_config=found.scheduler_config(),
        device=device,
        dtype=dtype,
        zero_empty_negative=found.zero_empty_negative,
    )
    for network in (unet, vae, *encoders):
        freeze(network, device)
    return family


def _load_text(found: Checkpoint, dtype: torch.dtype) -> tuple[list[Any], list[Any]]:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    classes = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
    tokenizers, encoders = [], []
    for part in found.text_parts:
        tokenizer = part.replace("text_encoder", "tokenizer")
        tokenizers.append(CLIPTokenizer.from_pretrained(found.folder / tokenizer))
        encoders.append(
            classes[part].from_pretrained(
                found.folder / part, dtype=dtype, use_safetensors=True, variant=found.variant(part)
            )
        )
    return tokenizers, encoders


def freeze(network: Any, device: torch.device) -> None:
    """Puts a network on its device, to be evaluated and not trained."""
    network.requires_grad_(False)
    network.eval()
    network.to(device)
