"""LoRAs on a family: loading with a check of the base, switching between them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Protocol

from drspo.errors import UserError, did_you_mean
from drspo.files.lora import FACTS, FILE
from drspo.files.texts import read_json
from generate.models.specs import ModelSpec
from generate.models.weights import tensor_names

OTHER_KINDS = {"hada_w1": "LoHa", "lokr_w1": "LoKr", "oft_blocks": "OFT", "oft_diag": "OFT"}
"""Adapters of other arithmetic, by what only their keys have."""


class Wearer(Protocol):
    """A loaded model that LoRAs are put on."""

    kind: str
    spec: ModelSpec
    model_id: str
    fingerprint: str
    unet: Any
    pipe: Any
    vae: Any
    tokenizers: list[Any]
    text_encoders: list[Any]
    loras: dict[str, dict[str, Any]]

    @property
    def network(self) -> Any: ...


def load_lora(
    family: Wearer,
    path: str | Path,
    weight: float = 1.0,
    name: str = "default",
    *,
    other_base: bool = False,
) -> None:
    """Adds the LoRA at `path` (a folder or a .safetensors file; diffusers or kohya keys) as adapter `name`.

    It is active afterwards, alone. Raises UserError when the file is missing, damaged or of a kind that is
    not known, when it does not fit the UNet, or when the `drspo.json` beside it names another base (unless
    `other_base`).
    """
    if not math.isfinite(weight):
        raise UserError(f"a LoRA's weight is a number, not {weight}")
    file = _file(Path(path))
    facts = read_facts(file)
    if name in family.loras:
        raise UserError(f"A LoRA named {name!r} is loaded already.")
    if not other_base:
        _check_base(family, facts, file)
    pipe = _carrier(family)
    _check_shapes(family, pipe, file)
    try:
        pipe.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=name)
    except (ValueError, KeyError, IndexError, RuntimeError, TypeError) as error:  # the loader's own checks
        raise _unknown_layout(file, error) from error
    family.loras[name] = {"path": str(path), "weight": weight, **facts}
    use_lora(family, name)


def use_lora(family: Wearer, name: str | None) -> None:
    """Makes the LoRA `name` the only active one, at its weight; None switches all of them off."""
    if name is not None and name not in family.loras:
        raise UserError(f"No LoRA named {name!r} is loaded.", hint=did_you_mean(name, family.loras))
    if not family.loras:
        return
    pipe = _carrier(family)
    if name is None:
        pipe.disable_lora()
        return
    pipe.enable_lora()
    pipe.set_adapters([name], [family.loras[name]["weight"]])
    _freeze(family, name)


def _freeze(family: Wearer, name: str) -> None:
    """Activating an adapter makes it trainable; a loaded one is not to be trained, others are left alone."""
    for network in (family.network, *family.text_encoders):
        for key, parameter in network.named_parameters():
            if "lora_" in key and f".{name}." in key:
                parameter.requires_grad_(False)


def _file(path: Path) -> Path:
    path = path.expanduser()
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"There is no LoRA at {path}.", hint=f"Give a .safetensors file or a folder with {FILE}."
        )
    if file.suffix != ".safetensors":
        raise UserError(f"{file} is not a .safetensors file; others can run code when they are opened.")
    return file


def read_facts(path: Path) -> dict[str, Any]:
    """What the `drspo.json` in a LoRA's folder, or beside its file, says; nothing where there is none."""
    beside = (path if path.is_dir() else path.parent) / FACTS
    if not beside.is_file():
        return {}
    facts = read_json(beside)
    if not isinstance(facts, dict):
        raise UserError(f"{beside} is no JSON object")
    return facts


def _read_state(family: Wearer, pipe: Any, file: Path) -> dict[str, Any]:
    """The LoRA's tensors under diffusers' keys."""
    keys = tensor_names(file)
    other = next((kind for mark, kind in OTHER_KINDS.items() if any(mark in key for key in keys)), "")
    if other:
        raise UserError(f"{file} holds a {other}, which is no LoRA and cannot be worn here.")
    try:
        options = {} if family.unet is None else {"unet_config": family.unet.config}
        found = pipe.lora_state_dict(str(file.parent), weight_name=file.name, **options)
        state: dict[str, Any] = found[0] if isinstance(found, tuple) else found
    except (ValueError, KeyError, IndexError, RuntimeError, TypeError, AttributeError) as error:
        raise _unknown_layout(file, error) from error
    return state


def _unknown_layout(file: Path, error: Exception) -> UserError:
    return UserError(
        f"{file} is laid out in a way that diffusers does not know as a LoRA: {error}",
        hint="A LoRA of this base in diffusers' or kohya's layout works.",
    )


def _check_base(family: Wearer, facts: dict[str, Any], file: Path) -> None:
    base, mark = (str(facts.get(name) or "") for name in ("base_model", "base_fingerprint"))
    same = {base} & {family.model_id, family.spec.base} - {""} or mark == family.fingerprint
    if (base or mark) and not same:
        raise UserError(
            f"This LoRA was trained on {base or 'another model'} (weights {mark or 'unknown'}), "
            f"not on {family.model_id} (weights {family.fingerprint}).",
            where=str(file),
            hint="Load the base it was trained on, or allow another base explicitly.",
        )


def _check_shapes(family: Wearer, pipe: Any, file: Path) -> None:
    state = _read_state(family, pipe, file)
    modules = dict(family.network.named_modules())
    prefix = "transformer." if family.unet is None else "unet."
    layers = [key for key in state if key.startswith(prefix)]
    if not layers:
        what = "transformer" if family.unet is None else "UNet"
        raise UserError(f"The file holds no LoRA for a {what}.", where=str(file))
    for key in layers:
        layer, side = _target(key.removeprefix(prefix))
        module = modules.get(f"{layer}.base_layer", modules.get(layer))
        problem = _mismatch(module, side, state[key])
        if problem:
            raise UserError(
                f"This LoRA is of another base than {family.model_id}: {layer} {problem}.",
                where=str(file),
                hint="Load the base it was trained on.",
            )


def _target(key: str) -> tuple[str, str]:
    """("down_blocks...to_q", "down" | "up" | "other") of a diffusers or peft key."""
    for mark, side in (
        (".lora_A.", "down"),
        (".lora_B.", "up"),
        (".lora.down.", "down"),
        (".lora.up.", "up"),
    ):
        if mark in key:
            return key.split(mark)[0], side
    return key.rpartition(".")[0], "other"


def _mismatch(module: Any, side: str, tensor: Any) -> str:
    if side == "other":
        return ""
    if module is None:
        return "is not a layer of it"
    ours = module.weight.shape[1 if side == "down" else 0]
    if tensor.ndim < 2:
        return f"has a matrix there, the LoRA {tensor.ndim} dimensions"
    theirs = tensor.shape[1 if side == "down" else 0]
    return f"has {ours} features there, the LoRA {theirs}" if ours != theirs else ""


def _carrier(family: Wearer) -> Any:
    """A diffusers pipeline around the family's own networks: it knows every LoRA file format."""
    if family.pipe is not None:
        if not hasattr(family.pipe, "load_lora_weights"):
            raise UserError(f"diffusers loads no LoRA into a {type(family.pipe).__name__}")
        return family.pipe
    from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

    parts = {
        "vae": family.vae,
        "unet": family.unet,
        "scheduler": DDIMScheduler(),
        "text_encoder": family.text_encoders[0],
        "tokenizer": family.tokenizers[0],
    }
    if family.kind == "sdxl":
        parts |= {"text_encoder_2": family.text_encoders[1], "tokenizer_2": family.tokenizers[1]}
        return StableDiffusionXLPipeline(**parts, add_watermarker=False)
    return StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
