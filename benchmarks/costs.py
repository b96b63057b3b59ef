"""What a scroll costs on common GPUs, counted without weights: `python -m benchmarks.costs`.

Operations of one evaluation are counted by torch on the meta device, attention included, at SDXL's published
shape; evaluations are those of `generate.catalogue`. Text encoders, ControlNet, autoencoder and everything
around the UNet are not counted. Seconds are operations over SHARE of a card's peak: assumed, not measured.
The last lines weigh what stands beside the UNet in a unit of the data set, a prompt with its six scrolls.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.shapes import sdxl
from generate.catalogue import CATALOGUE

WINDOW, CANVAS, BLUEPRINT = (128, 128), (128, 512), (64, 256)
"""Latents of a window, of a scroll of 1024x4096, and of its blueprint."""
SHARE = 0.4
"""Of the peak that good kernels reach at these sizes: assumed."""
CARDS = {"RTX 3090": 71, "RTX 4090": 165, "L40S": 362, "A100": 312, "H100 SXM": 989}
"""Dense bfloat16 TFLOP/s with sums in float32, as their maker states them."""
PAIRS, STEPS = 1000, 1000
VIT_L = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
         "patch_size": 14, "image_size": 224, "projection_dim": 768}  # fmt: skip


def counted(work: Callable[[], object]) -> float:
    """Floating-point operations of it, in units of 10^12."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e12


def operations(forward: Callable[[int, int, int], object], size: tuple[int, int]) -> float:
    """Floating-point operations of one sample's evaluation at that size of latents, in units of 10^12."""
    with torch.device("meta"), torch.no_grad():
        return counted(lambda: forward(1, *size))


@cache
def works() -> dict[str, float]:
    """10^12 operations of what one does with SDXL, by name."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            forward = sdxl().forward
        window, canvas, blueprint = (operations(forward, size) for size in (WINDOW, CANVAS, BLUEPRINT))
    finally:
        torch.set_default_dtype(before)
    direct = 100 * canvas
    windows = CATALOGUE["multidiffusion"].evaluations * window
    spot = CATALOGUE["spotdiffusion"].evaluations * window
    drspo = CATALOGUE["drspo"].evaluations * window + 100 * blueprint
    # Six scrolls for each prompt: three generators, two seeds. Of a step on one pair: two pictures, each
    # asked once frozen, once trained, and a backward pass of about two forwards.
    built = PAIRS * 2 * (direct + 2 * windows)
    step = 2 * 4
    return {
        "a scroll by `direct`": direct,
        "a scroll by `spotdiffusion`": spot,
        "a scroll by `multidiffusion` or `mad`": windows,
        "a scroll by `drspo`": drspo,
        f"a data set of {PAIRS:,} prompts, 6 scrolls each": built,
        f"`blueprint`'s LoRA, {STEPS:,} steps of one pair": STEPS * step * blueprint,
        f"`highres`'s LoRA, {STEPS:,} steps of one pair, 13 windows": STEPS * step * 13 * window,
    }


def beside() -> dict[str, float]:
    """10^12 operations of a unit's text encoders (its prompt and the negative one) and of its scorer."""
    with torch.device("meta"), torch.no_grad():
        encoders = sdxl().text
        eye = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**VIT_L))
        words, pictures = torch.zeros((2, 77), dtype=torch.long), torch.empty((6, 3, 224, 224))
        return {
            "text encoders, prompt and negative": counted(lambda: [encoder(words) for encoder in encoders]),
            "ViT-L/14 on six scrolls, one view each": counted(lambda: eye(pictures)),
        }


def unit() -> float:
    """10^12 operations of the UNet for a unit of the data set."""
    return next(tera for name, tera in works().items() if name.startswith("a data set")) / PAIRS


def said(seconds: float) -> str:
    """A time with two digits, in the unit that fits."""
    for unit, size in (("s", 90), ("min", 90 * 60), ("h", 90 * 3600)):
        if seconds < size:
            return f"{float(f'{seconds * 90 / size:.2g}'):g} {unit}"
    return f"{float(f'{seconds / 86400:.2g}'):g} days"


def table() -> str:
    """Markdown: each work's operations, and its time on each card."""
    lines = [f"| | PFLOP | {' | '.join(CARDS)} |", f"|---|{'---|' * (len(CARDS) + 1)}"]
    for name, tera in works().items():
        times = [said(tera / (peak * SHARE)) for peak in CARDS.values()]
        lines.append(f"| {name} | {float(f'{tera / 1000:.3g}'):,g} | {' | '.join(times)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
    whole = unit()
    for what, tera in beside().items():
        print(f"{what}: {tera:.2g} TFLOP a unit, 1 / {float(f'{whole / tera:.2g}'):,.0f} of its {whole:,.0f}")
