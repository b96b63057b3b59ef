"""How many windows fit into memory at once, and what running out of it looks like."""

from __future__ import annotations

import gc
import os
from typing import Any

import torch

from generate.models.family import ModelFamily

MAPS = 40
"""Peak of one sample's activations, in multiples of the UNet's first feature map (SDXL's and SD's blocks)."""
TOKENS = 16
"""The same of a transformer, in multiples of its tokens: queries, keys, values, a wide layer."""
TEXT = 512
"""Tokens of text beside a picture's, at most."""
LARGEST = 16
"""Windows per forward beyond which accelerators gain nothing more."""


def auto_window_batch(family: ModelFamily, window: tuple[int, int], count: int) -> int:
    """Windows per forward that use at most half of the free memory, both guidance halves counted: 1..16."""
    item = torch.empty((), dtype=family.dtype).element_size()
    if family.unet is None:
        sample = TOKENS * token_width(family.transformer) * (window[0] * window[1] // 4 + TEXT) * item
    else:
        channels = int(family.unet.config.block_out_channels[0])
        sample = MAPS * channels * window[0] * window[1] * item
    fitting = free_bytes(family.device) // 2 // (2 * sample)
    return int(max(1, min(count, LARGEST, fitting)))


def token_width(transformer: Any) -> int:
    """Numbers in one token of a transformer."""
    return int(transformer.config.num_attention_heads * transformer.config.attention_head_dim)


def free_bytes(device: torch.device) -> int:
    """Memory that is free on the device (of the machine, for the CPU)."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + reusable)
    return _free_host_bytes()


def _free_host_bytes() -> int:
    """Free memory of the machine; half of all of it, or 4 GiB, where the system does not tell."""
    known = getattr(os, "sysconf_names", {})
    if "SC_AVPHYS_PAGES" in known:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if "SC_PHYS_PAGES" in known:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return 4 << 30


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the machine has no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        phrase in text for phrase in ("out of memory", "not enough memory", "can't allocate memory")
    )


def release(device: torch.device) -> None:
    """Gives back what a failed forward left behind."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
