"""The ControlNet of a base model: where it lies, whether it fits, and loading it."""

from __future__ import annotations

import inspect
import logging
from typing import Any

import torch

from drspo.errors import UserError
from generate.models.specs import SDXL_CANNY
from generate.models.weights import Checkpoint, locate

logger = logging.getLogger(__name__)
CANNY = "canny"
SHARED = ("block_out_channels", "cross_attention_dim", "transformer_layers_per_block", "addition_embed_type")
"""Settings in which a ControlNet and its UNet must agree."""
SHARED_TOKENS = (
    "in_channels",
    "num_attention_heads",
    "attention_head_dim",
    "joint_attention_dim",
    "pooled_projection_dim",
)
"""The same of FLUX's transformer."""
NETWORKS = {"sd": "ControlNetModel", "sdxl": "ControlNetModel", "flux": "FluxControlNetModel"}
"""The class of a family's ControlNets; other families have none that is known here."""


def locate_controlnet(source: str, base: Checkpoint, dtype: torch.dtype) -> Checkpoint:
    """The ControlNet of a Hub id or folder, checked to be of this base; "" is SDXL's published canny one.

    UserError when it is missing or of another base, before the weights of either are read.
    """
    if base.kind not in NETWORKS:
        raise UserError(
            f"no ControlNet guides the windows of {base.source}",
            hint="Switch control off (--drspo.control.no-enabled): the blueprint and the strength remain.",
        )
    if not source and base.kind != "sdxl":
        raise UserError(
            f"{base.source} names no canny ControlNet, which guides the windows",
            hint="Give one by --controlnet, or switch control off (--drspo.control.no-enabled).",
        )
    if not source:
        logger.info("%s names no ControlNet; taking %s", base.source, SDXL_CANNY)
    single = NETWORKS[base.kind]
    found = locate(source or SDXL_CANNY, prefer_half=dtype == torch.float16, single=single)
    _require_same_base(found, base)
    return found


def require_canny(source: str, conditioning: str) -> None:
    """UserError unless a ControlNet that was given takes canny's line art: by its name, or the user's word.

    A network's files do not say what it was trained to be shown, and one for depth takes lines all the same.
    """
    if conditioning not in ("", CANNY):
        raise UserError(
            f"a ControlNet for {conditioning} cannot guide the windows, which are shown canny's line art",
            hint="Give one that was trained on canny's lines.",
        )
    if source and not conditioning and CANNY not in source.rstrip("/").rpartition("/")[2].lower():
        raise UserError(
            f"{source} does not say what its ControlNet was trained to be shown",
            hint="If it is canny's line art: --controlnet-conditioning canny.",
        )


def _require_same_base(control: Checkpoint, base: Checkpoint) -> None:
    import diffusers

    networks = (
        NETWORKS[base.kind],
        "FluxTransformer2DModel" if base.kind == "flux" else "UNet2DConditionModel",
    )
    theirs_class, ours_class = (getattr(diffusers, name) for name in networks)
    for key in SHARED_TOKENS if base.kind == "flux" else SHARED:
        theirs = _setting(theirs_class, control.config(""), key)
        ours = _setting(ours_class, base.config(base.network), key)
        if theirs != ours:
            raise UserError(
                f"The ControlNet {control.source} is of another base than {base.source}: "
                f"its {key} is {theirs}, the {base.network}'s is {ours}.",
                hint="Choose a ControlNet that was trained for this base model.",
            )


def _setting(network: type, config: dict[str, Any], key: str) -> Any:
    """A setting of a network's configuration file, which leaves out some that are at their default."""
    value = config.get(key, inspect.signature(network).parameters[key].default)
    return list(value) if isinstance(value, (list, tuple)) else value
