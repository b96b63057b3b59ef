"""Model families: UNets and transformers behind one face."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from drspo.errors import UserError
from generate.models import loras
from generate.models.controlnet import locate_controlnet, require_canny
from generate.models.denoisers.denoiser import Denoiser
from generate.models.denoisers.flux import FluxDenoiser
from generate.models.denoisers.pixart import PixArtDenoiser
from generate.models.denoisers.sd3 import SD3Denoiser
from generate.models.denoisers.unet import UNetDenoiser
from generate.models.fingerprint import fingerprint
from generate.models.hub import at_revision
from generate.models.ip_adapter import AdapterFiles, IPAdapter, load_ip_adapter, locate_ip_adapter
from generate.models.load import freeze, load_controlnet, load_networks, load_pipeline
from generate.models.offload import Offload, Role
from generate.models.specs import MODELS, ModelSpec, derived_spec
from generate.models.weights import OTHER, TEXT_PARTS, Checkpoint, locate

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(slots=True)
class ModelFamily:
    """One loaded checkpoint: networks in evaluation mode, tokenizers, and the facts samplers need."""

    kind: str
    """"sd", "sdxl", "sd3", "flux", "pixart", or "other" for a pipeline that only diffusers knows."""
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
    commit: str = ""
    """of the Hub's repository that the weights are from; "" for folders"""
    controlnet_commit: str = ""
    controlnet_fingerprint: str = ""
    ip_adapter: IPAdapter | None = None
    """what lets the UNet be shown pictures, worn only where a method asks for it"""
    zero_empty_negative: bool = False
    """What the checkpoint itself does with an empty negative prompt: zeros instead of its encoding."""
    loras: dict[str, dict[str, Any]] = field(default_factory=dict)
    transformer: Any = None
    """what denoises in families that have no UNet"""
    pipe: Any = None
    """diffusers' own pipeline around the networks, in families that have no UNet"""
    offload: Offload | None = None
    """moves networks that rest to host memory; None leaves all of them on the device"""

    def wake(self, *roles: Role) -> None:
        """Puts the networks of some roles on the device, where they may have been resting."""
        if self.offload is not None:
            self.offload.wake(*roles)

    @property
    def network(self) -> Any:
        """What denoises: the UNet or the transformer."""
        return self.transformer if self.unet is None else self.unet

    @property
    def denoiser(self) -> Denoiser:
        """What evaluates the networks; the ControlNet acts where a condition has a picture for it."""
        if self.kind == "sd3":
            return SD3Denoiser(self.transformer, self.factor)
        if self.kind == "pixart":
            return PixArtDenoiser(self.transformer, self.factor)
        if self.kind == "flux":
            return FluxDenoiser(self.transformer, self.factor, self.controlnet, self.vae)
        if self.kind == OTHER:
            raise UserError(
                f"{self.model_id} is a {type(self.pipe).__name__}, which can be used as it is only",
                hint="Choose --method direct.",
            )
        return UNetDenoiser(self.unet, self.controlnet)

    @property
    def networks(self) -> dict[str, Any]:
        """What is evaluated at every step, by name."""
        named = {"unet": self.unet, "transformer": self.transformer, "controlnet": self.controlnet}
        return {name: network for name, network in named.items() if network is not None}

    @property
    def factor(self) -> int:
        """Pixels per latent along each side."""
        return self.spec.factor

    @property
    def coarsest(self) -> int:
        """How many latents one element of the UNet's coarsest feature map spans on each axis."""
        return int(2 ** (len(self.unet.config.block_out_channels) - 1))

    def load_lora(
        self, path: str | Path, weight: float = 1.0, name: str = "default", *, other_base: bool = False
    ) -> None:
        """Adds a LoRA (a folder or a .safetensors file) as adapter `name`; see
        `generate.models.loras.load_lora`."""
        loras.load_lora(self, path, weight, name, other_base=other_base)

    def use_lora(self, name: str | None) -> None:
        """Makes one loaded LoRA active, with the weight it was loaded with; None switches all off."""
        loras.use_lora(self, name)


def load_family(
    model: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    controlnet: bool = False,
    controlnet_source: str = "",
    conditioning: str = "",
    ip_adapter: bool = False,
    ip_adapter_source: str = "",
    image_encoder: str = "",
    revision: str = "",
    offload: bool = False,
) -> ModelFamily:
    """The networks of a named model (MODELS), a Hub id or a folder, ready to sample.

    device "auto" takes CUDA, then Apple's GPU, then the CPU; dtype "auto" is float32 there and float16 on
    CUDA, bfloat16 for transformers. The autoencoder is in bfloat16 where its settings allow it, else float32.
    `controlnet` loads the model's canny ControlNet too, or the one of `controlnet_source` (Hub id or folder),
    whose name must say canny unless `conditioning` does. `ip_adapter` loads the model's IP-Adapter, or the
    one of `ip_adapter_source`, with its image tower or `image_encoder` (see `locate_ip_adapter`).
    `revision` is the Hub's, of a Hub id. `offload` keeps networks in host memory while they rest. UserError
    for weights that are missing and for parts of another base, before anything loads.
    """
    named = MODELS.get(model)
    target = choose_device(device)
    kind = choose_dtype(dtype, target)
    source = at_revision(named.base if named else model, revision)
    found = locate(source, prefer_half=kind == torch.float16, known=MODELS)
    if dtype == "auto" and kind == torch.float16 and found.kind not in TEXT_PARTS:
        kind = torch.bfloat16  # transformers were trained in it, and some overflow in float16
    spec = named or derived_spec(found)
    control = None
    if controlnet:
        require_canny(controlnet_source, conditioning)
        control = locate_controlnet(controlnet_source or spec.controlnet, found, kind)
    adapter = _adapter(ip_adapter_source, image_encoder, spec, found) if ip_adapter else None
    family = ModelFamily(
        kind=found.kind,
        spec=spec,
        model_id=model if named else found.plain,
        commit=found.commit,
        fingerprint=fingerprint(found),
        scheduler_config=found.scheduler_config() if found.kind != OTHER else {},
        device=target,
        dtype=kind,
        zero_empty_negative=found.zero_empty_negative,
        **(load_networks if found.kind in TEXT_PARTS else load_pipeline)(
            found, torch.device("cpu") if offload else target, kind
        ),
    )
    if control is not None:
        _take_control(family, control)
    if adapter is not None:
        family.ip_adapter = load_ip_adapter(adapter, family.unet, family.unet.device, kind)
    if offload:
        family.offload = _offload(family, target)
    return family


def _take_control(family: ModelFamily, control: Checkpoint) -> None:
    family.controlnet = freeze(load_controlnet(control, family.dtype), family.network.device)
    family.controlnet_id, family.controlnet_commit = control.source, control.commit
    family.controlnet_fingerprint = fingerprint(control)


def _adapter(source: str, encoder: str, spec: ModelSpec, found: Checkpoint) -> AdapterFiles:
    """The IP-Adapter that was given, or the model's own with its own image tower."""
    source = source or spec.ip_adapter
    return locate_ip_adapter(
        source, encoder or (spec.image_encoder if source == spec.ip_adapter else ""), found
    )


def _offload(family: ModelFamily, target: torch.device) -> Offload:
    if family.kind == OTHER:
        raise UserError(f"what rests in a {type(family.pipe).__name__} is not known here", "--offload")
    shown = [] if family.ip_adapter is None else [family.ip_adapter.encoder]
    roles: dict[str, list[Any]] = {
        "text": [*family.text_encoders, *shown],
        "denoise": [*family.networks.values()],
        "vae": [family.vae],
    }
    return Offload(target, roles)


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
