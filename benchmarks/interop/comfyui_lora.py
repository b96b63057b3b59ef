"""ComfyUI's own *Load LoRA* on a kohya.safetensors of ours, as it stands.

    git clone https://github.com/comfyanonymous/ComfyUI        (its requirements installed)
    python -m benchmarks.interop.comfyui_lora --comfyui PATH

ComfyUI's UNet and diffusers' get the same random weights in a small copy of SDXL's layout. A random LoRA
sits on attention, feed-forward and convolution layers of the latter, and goes to ComfyUI as the file that a
training leaves. Both must predict the same before and with it, and ComfyUI must know every key of the file.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.interop.loras import inputs, largest, prediction, report
from benchmarks.shapes import SDXL_UNET
from drspo.files.lora import KOHYA
from train.lora.adapters import ATTENTION, add_lora, named_lora_parameters
from train.lora.exports import save_kohya

SMALL = SDXL_UNET | {
    "sample_size": 16,
    "block_out_channels": (64, 128, 256),
    "attention_head_dim": (1, 2, 4),
    "cross_attention_dim": 48,
    "transformer_layers_per_block": (1, 1, 2),
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 32,
}
THEIRS = {
    "image_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 64,
    "channel_mult": [1, 2, 4],
    "num_res_blocks": [2, 2, 2],
    "transformer_depth": [0, 0, 1, 1, 2, 2],
    "transformer_depth_middle": 2,
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2],
    "context_dim": 48,
    "adm_in_channels": 80,
    "num_classes": "sequential",
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "use_temporal_attention": False,
    "legacy": False,
    "dtype": torch.float32,
}
"""The same network in ComfyUI's words."""
TARGETS = (*ATTENTION, "ff.net.0.proj", "ff.net.2", "proj_in", "conv1", "conv2", "time_emb_proj")


def main() -> int:
    """Two rows, without the LoRA and with it; 0 when ComfyUI predicts what diffusers does."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--comfyui", type=Path, required=True, help="a checkout")
    asked = parser.parse_args()
    sys.path.insert(0, str(asked.comfyui.resolve()))
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(SMALL).eval()
    patcher = comfyui_model(unet)
    base, theirs = prediction(unet), comfyui_prediction(patcher, unet)
    print(f"without a LoRA: apart by {largest(theirs - base):.3g}")
    with tempfile.TemporaryDirectory() as scratch:
        file = random_lora(unet, Path(scratch))
        patched, unknown = with_lora(patcher, file)
    for key in unknown:
        print(f"ComfyUI does not know {key}")
    rows = {"ComfyUI, kohya": (base, prediction(unet), comfyui_prediction(patched, unet))}
    return report(rows) or int(bool(unknown))


def random_lora(unet: Any, folder: Path) -> Path:
    """Put a random LoRA on the UNet and write it as kohya's file."""
    add_lora(unet, rank=4, alpha=8, targets=TARGETS)
    generator = torch.Generator().manual_seed(1)
    for parameter in named_lora_parameters(unet).values():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return save_kohya(folder / KOHYA, unet, {})


def comfyui_model(unet: Any) -> Any:
    """ComfyUI's model with the weights of diffusers' UNet, inside its patcher."""
    from comfy.cli_args import args

    args.cpu = True  # what `main.py --cpu` says before anything else is imported
    from comfy.model_patcher import ModelPatcher
    from comfy.supported_models import SDXL
    from comfy.utils import unet_to_diffusers

    model = SDXL(THEIRS).get_model({})
    names = unet_to_diffusers(THEIRS)
    weights = {names[name]: tensor for name, tensor in unet.state_dict().items()}
    model.diffusion_model.load_state_dict(weights)
    return ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def with_lora(patcher: Any, file: Path) -> tuple[Any, list[str]]:
    """ComfyUI's patcher with the file loaded as its node *Load LoRA* does, and the layers it did not take."""
    from comfy.sd import load_lora_for_models

    weights = load_file(file)
    patched, _ = load_lora_for_models(patcher, None, weights, 1.0, 0.0)
    layers = {key.split(".")[0] for key in weights}
    taken = {
        "lora_unet_" + name.split(".", 1)[1].removesuffix(".weight").replace(".", "_")
        for name in patched.patches
    }
    return patched, sorted(layers - taken)


def comfyui_prediction(patcher: Any, unet: Any) -> Tensor:
    """What ComfyUI's UNet says to the inputs that diffusers' got."""
    latents, text, added = inputs(unet.config)
    sizes = unet.add_time_proj(added["time_ids"].flatten()).reshape(len(latents), -1)
    patcher.patch_model()
    try:
        with torch.no_grad():
            return patcher.model.diffusion_model(
                latents,
                torch.full((len(latents),), 500.0),
                context=text,
                y=torch.cat([added["text_embeds"], sizes], dim=1),
            )
    finally:
        patcher.unpatch_model()


if __name__ == "__main__":
    sys.exit(main())
