"""Run by torchrun: a pair's gradients by the whole network, and then by one that is shared out, as JSON.

torchrun ... tests/sharded_gradients.py GOLDEN FLUX_FOLDER OUT
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from generate.models.family import load_family
from train.canvas import make_canvas
from train.config import TrainConfig
from train.lora.adapters import lora_parameters
from train.network import make_trainee, wear_lora
from train.objective.draws import grid_draw
from train.pairs.prepare import EncodedPair, no_prompt
from train.settings import CanvasConfig, LoraConfig, LossSettings, MemoryConfig
from train.sharding import shard

CHECKPOINTED = MemoryConfig(gradient_checkpointing=True)
TOGETHER = MemoryConfig(window_batch=2)
CASES = {
    "flux, windows one after another": ("flux", "highres", MemoryConfig()),
    "flux, activations recomputed": ("flux", "highres", CHECKPOINTED),
    "flux, both scrolls in a call": ("flux", "blueprint", TOGETHER),
    "sdxl, windows one after another": ("sdxl", "highres", MemoryConfig()),
    "sdxl, every window alive": ("sdxl", "highres", MemoryConfig(schedule="autograd")),
}


def measured(folder: str, stage: str, memory: MemoryConfig, shared: bool) -> dict:
    """Errors and gradients of two steps with a measurement between them, and the frozen numbers held here."""
    config = TrainConfig(
        stage=stage,
        canvas=CanvasConfig(height=64, width=128, window=64, stride=32),
        lora=LoraConfig(rank=4, dropout=0.1),
        loss=LossSettings(beta=10, region_weight=0.5),
        memory=memory,
    )
    family = load_family(folder, device="cpu", dtype="float32")
    for parameter in family.network.parameters():
        # A mapped file's weights lie anywhere, and products round by where their operands begin.
        parameter.data = parameter.data.clone()
    embeds, pooled = no_prompt(family)
    wear_lora(family, config)
    own = torch.Generator().manual_seed(1)
    for parameter in lora_parameters(family.network):
        parameter.data.copy_(0.05 * torch.randn(parameter.shape, generator=own))
    if shared:
        shard(family.network, torch.device("cpu"), dist.get_world_size())
    canvas = make_canvas(config, family.spec)
    trainee = make_trainee(family, canvas, config)
    size = (canvas.height // canvas.factor, canvas.width // canvas.factor)
    shape = (1, int(family.vae.config.latent_channels), *size)
    own = torch.Generator().manual_seed(2 + dist.get_rank())  # another pair on each process
    chosen, rejected = torch.randn(shape, generator=own), torch.randn(shape, generator=own)
    pair = EncodedPair(f"pair-{dist.get_rank()}", chosen, rejected, embeds, pooled)
    first = trainee.gradients(pair, 0)
    between = trainee.errors(pair, grid_draw(0, pair.pair_id, 500, shape, config.noise), lambda ask: ask())
    second = trainee.gradients(pair, 1)
    frozen = [p for p in family.network.parameters() if not p.requires_grad]
    return {
        "errors": [r.metrics[n] for r in (first, between, second) for n in ("error_w", "winner_drift", "z")],
        "gradient": [float(value) for grad in first.grads + second.grads for value in grad.flatten()],
        "held": sum((p.to_local() if shared else p).numel() for p in frozen),  # type: ignore[operator]
    }


def main(golden: str, flux: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    folders = {"flux": flux, "sdxl": str(Path(golden) / "models" / "tiny-sdxl")}
    found = {
        name: [measured(folders[kind], stage, memory, shared) for shared in (False, True)]
        for name, (kind, stage, memory) in CASES.items()
    }
    Path(out, f"{os.environ['RANK']}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
