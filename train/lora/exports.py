"""A trained LoRA as files: the layouts of diffusers, peft and kohya, and what it was trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save
from torch import Tensor

from drspo.files.lora import FACTS, FILE, PEFT_CONFIG, PEFT_FILE
from drspo.files.storage import Storage
from train.lora.adapters import lora_settings, lora_state, named_lora_parameters
from train.lora.names import original_name


def lora_metadata(
    network: Any, *, stage: str, base_model: str, base_fingerprint: str, **facts: Any
) -> dict[str, Any]:
    """What drspo.json holds: stage, base model and its fingerprint, rank, alpha, targets, and the given
    facts.

    Facts are JSON values: canvas, window, stride (latents), time_ids, dataset, step, loss, ...
    """
    own = lora_settings(network)
    head = {"stage": stage, "base_model": base_model, "base_fingerprint": base_fingerprint}
    return head | {"rank": own["rank"], "alpha": own["alpha"], "targets": own["targets"]} | facts


def save_lora(
    directory: str | Path,
    network: Any,
    metadata: Mapping[str, Any],
    *,
    state: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write DIRECTORY/pytorch_lora_weights.safetensors and drspo.json; `pipe.load_lora_weights(DIRECTORY)`
    opens it.

    Rank and alpha travel in the file's `lora_adapter_metadata`: without them diffusers takes alpha = rank,
    and a LoRA of alpha = 2 rank comes back at half its strength. state: other weights for the same adapter
    (an EMA), by parameter name. Each file is replaced atomically, weights first.
    """
    root, chosen = component(network), _state(network, state)
    tensors = {f"{root}.{_plain(name)}": tensor.to(dtype).contiguous() for name, tensor in chosen.items()}
    config = {f"{root}.{key}": value for key, value in _adapter_config(network).items()}
    header = {"format": "pt", "lora_adapter_metadata": _json(config), "drspo": _json(metadata)}
    folder = Storage(str(directory))
    folder.write(FILE, _encode(tensors, header))
    folder.write(FACTS, (json.dumps(dict(metadata), indent=2, sort_keys=True) + "\n").encode())
    return Path(directory) / FILE


def save_peft(directory: str | Path, network: Any, *, dtype: torch.dtype = torch.float32) -> Path:
    """Write DIRECTORY/adapter_model.safetensors and adapter_config.json, which
    `peft.PeftModel.from_pretrained(network, DIRECTORY)` opens."""
    tensors = {
        f"base_model.model.{_plain(name)}": t.to(dtype).contiguous()
        for name, t in _state(network, None).items()
    }
    own = lora_settings(network)
    config = {
        "peft_type": "LORA",
        "r": own["rank"],
        "lora_alpha": own["alpha"],
        "lora_dropout": own["dropout"],
        "target_modules": _modules(network),
        "bias": "none",
        "inference_mode": True,
    }
    folder = Storage(str(directory))
    folder.write(PEFT_FILE, _encode(tensors, {"format": "pt"}))
    folder.write(PEFT_CONFIG, (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())
    return Path(directory) / PEFT_FILE


def save_kohya(
    path: str | Path,
    network: Any,
    metadata: Mapping[str, Any],
    *,
    state: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write one file in the layout of kohya's sd-scripts, which ComfyUI and the WebUIs open too.

    Keys are `lora_unet_<module with underscores>.lora_down.weight`, `.lora_up.weight` and `.alpha`; modules
    of an SDXL UNet carry the names of the original implementation (input_blocks, middle_block,
    output_blocks).
    """
    path, own = Path(path), lora_settings(network)
    tensors: dict[str, Tensor] = {}
    for name, tensor in _state(network, state).items():
        module, _, matrix = _plain(name).partition(".lora_")
        key = "lora_unet_" + original_name(module, network.config).replace(".", "_")
        tensors[f"{key}.lora_{'down' if matrix.startswith('A') else 'up'}.weight"] = tensor.to(
            dtype
        ).contiguous()
        tensors[f"{key}.alpha"] = torch.tensor(float(own["alpha"]))
    header = {
        "format": "pt",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(own["rank"]),
        "ss_network_alpha": str(float(own["alpha"])),
        "drspo": _json(metadata),
    }
    Storage(str(path.parent)).write(path.name, _encode(tensors, header))
    return path


def component(network: Any) -> str:
    """What diffusers' pipelines call the network, which is how the keys of its LoRAs begin."""
    return "unet" if isinstance(network, UNet2DConditionModel) else "transformer"


def _state(network: Any, state: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """The given weights, or the adapter's own, sorted by name; the names must be the adapter's."""
    chosen = dict(sorted((lora_state(network) if state is None else dict(state)).items()))
    if list(chosen) != list(named_lora_parameters(network)):
        raise ValueError("the state's names are not those of the network's adapter")
    return chosen


def _plain(name: str) -> str:
    """Parameter name without peft's adapter name: `...to_q.lora_A.default.weight` ->
    `...to_q.lora_A.weight`."""
    for matrix in (".lora_A.", ".lora_B."):
        head, found, _ = name.partition(matrix)
        if found:
            return f"{head}{matrix}weight"
    raise ValueError(f"{name!r} is no LoRA parameter")


def _adapter_config(network: Any) -> dict[str, Any]:
    """The part of peft's LoraConfig that a reload needs; the rest varies between peft versions."""
    own = lora_settings(network)
    return {
        "r": own["rank"],
        "lora_alpha": own["alpha"],
        "target_modules": _modules(network),
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_dora": False,
        "lora_bias": False,
    }


def _modules(network: Any) -> list[str]:
    """The layers that carry the LoRA, by their full names."""
    return sorted({_plain(name).partition(".lora_")[0] for name in named_lora_parameters(network)})


def _encode(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file whose bytes depend on its content alone.

    The library writes metadata in the order of a randomly seeded hash map; its header, eight bytes of
    length and then JSON padded with blanks to a multiple of eight, is written again with sorted metadata.
    """
    data = save(dict(tensors), metadata=dict(metadata))
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(dict(value), sort_keys=True)
