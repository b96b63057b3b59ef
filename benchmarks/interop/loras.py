"""LoRAs of ours, opened by diffusers and by peft as they stand.

    python -m benchmarks.interop.loras --blueprint FOLDER --highres FOLDER [--model FOLDER]

The folders are what a training leaves. A pipeline of diffusers holds both by `load_lora_weights` and wears
one by `set_adapters`; peft wraps the UNet of the model's folder by `PeftModel.from_pretrained`. Nothing but a
place is said to either. What each UNet predicts is compared with what it predicts under our own loader.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from peft import PeftModel
from torch import Tensor

from benchmarks.train_vs_diffusers import model_folder
from generate.models.family import load_family

NEAR = 1e-3
"""How far a prediction may be from ours, as a part of what the LoRA changes in it."""


def main() -> int:
    """One row for each program and stage; 0 when all of them predict what we do."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blueprint", type=Path, required=True, help="the blueprint stage's LoRA")
    parser.add_argument("--highres", type=Path, required=True, help="the high-resolution stage's LoRA")
    parser.add_argument("--model", default="miniature", help="a folder, or the miniature")
    asked = parser.parse_args()
    folder = model_folder(asked.model)
    loras = {"blueprint": asked.blueprint, "highres": asked.highres}
    readers = {"diffusers": with_diffusers, "peft": with_peft}
    return report(
        {
            f"{name}, {stage}": (own(folder), own(folder, loras[stage]), read(folder, loras, stage))
            for name, read in readers.items()
            for stage in loras
        }
    )


def report(rows: dict[str, tuple[Tensor, Tensor, Tensor]]) -> int:
    """Print how far each program's prediction is from ours; 1 where one is too far.

    A row holds the prediction without the LoRA, ours with it, and the other program's.
    """
    far = []
    for name, (base, ours, theirs) in rows.items():
        change, apart = largest(ours - base), largest(theirs - ours)
        print(f"{name:<24} the LoRA changes the prediction by {change:.3g}; apart from ours: {apart:.3g}")
        far += [name] if change == 0 or not apart <= NEAR * change else []
    return 1 if far else 0


def largest(tensor: Tensor) -> float:
    """The largest absolute entry."""
    return float(tensor.abs().max())


def prediction(unet: Any) -> Tensor:
    """What a UNet of diffusers, wrapped or not, says to fixed inputs."""
    latents, text, added = inputs(unet.config)
    with torch.no_grad():
        return unet(latents, 500, text, added_cond_kwargs=added, return_dict=False)[0]


def inputs(config: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Latents [2, 4, 16, 16], text [2, 7, C], and SDXL's pooled text and sizes."""
    generator = torch.Generator().manual_seed(0)
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    latents = torch.randn(2, 4, 16, 16, generator=generator)
    text = torch.randn(2, 7, config.cross_attention_dim, generator=generator)
    pooled_text = torch.randn(2, pooled, generator=generator)
    return latents, text, {"text_embeds": pooled_text, "time_ids": torch.full((2, 6), 128.0)}


def own(folder: str, lora: Path | None = None) -> Tensor:
    """The prediction under our own loader."""
    family = load_family(folder, device="cpu", dtype="float32")
    if lora is not None:
        family.load_lora(str(lora), 1.0, "all")
        family.use_lora("all")
    return prediction(family.unet)


def with_diffusers(folder: str, loras: dict[str, Path], stage: str) -> Tensor:
    """The prediction of a pipeline that holds both LoRAs and wears one of them."""
    pipe = StableDiffusionXLPipeline.from_pretrained(folder)
    for name, path in loras.items():
        pipe.load_lora_weights(str(path), adapter_name=name)
    pipe.set_adapters(stage)
    return prediction(pipe.unet)


def with_peft(folder: str, loras: dict[str, Path], stage: str) -> Tensor:
    """The prediction of the folder's UNet inside peft's own wrapper."""
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    return prediction(PeftModel.from_pretrained(unet, str(loras[stage])))


if __name__ == "__main__":
    sys.exit(main())
