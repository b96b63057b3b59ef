"""What a training step on SDXL costs, counted without weights: `python -m benchmarks.train_costs`.

Operations of one pair at SDXL's published shape, on the meta device with a LoRA of rank 64 on the attention,
forward and backward: of diffusers' `train_diffusion_dpo_sdxl.py`, which encodes pictures and prompt anew in
every step, and of ours on the same squares, with latents and texts kept (a first run) and the frozen model's
answers kept too. Only what torch counts is in it: convolutions, matrix products, attention. `before the LoRA`
is the share of a forward before the first layer that has a LoRA, all that policy and reference could share.

Then what one pair of the paper's scrolls keeps on a device, for both stages: weights in bfloat16, the LoRA in
float32 with its gradients and optimiser, and the activations alive at once, attention as the fused kernels
compute it. The autoencoder and the text encoders are not on the device (`make_room`, `--samples.every 0`).

    python -m benchmarks.train_costs --time cuda
    python -m benchmarks.train_costs --time cpu

call the networks as a step of ours and of theirs does, in turns, and print the ratio of seconds: SDXL's on a
card, or with a third of the channels on the CPU. The script keeps its autoencoder in float32 unless it is
given one for half precision.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Collection
from functools import cache
from typing import Any

import diffusers
import torch

from benchmarks import memory, shapes
from benchmarks.costs import counted
from generate.models.footprint import activation_bytes, weight_bytes
from generate.sampling.synchronise import recomputing
from train.lora.adapters import add_lora, lora_parameters, reference

RANK = 64
SQUARE, CANVAS, BLUEPRINT = (128, 128), (128, 512), (64, 256)
"""Latents of a square of 1024 pixels, of a scroll of 1024x4096, and of a blueprint of 512x2048."""
WINDOWS, ALIVE = 13, 4
"""Of a scroll at a stride of a quarter, and how many of them `stream` has alive."""
GRADIENTS = 3
"""Of each LoRA number at once: one a scroll, and their sum; Adafactor's rows and columns are next to none."""


class Unet:
    """A UNet of SDXL's kind on some device, its LoRA on, and what one call of it says."""

    def __init__(self, settings: dict[str, Any], device: str, dtype: torch.dtype) -> None:
        with torch.device(device):
            self.network = diffusers.UNet2DConditionModel(**settings)
        add_lora(self.network, RANK, dtype=dtype)
        self.network.to(dtype).train()
        self.text = int(settings["cross_attention_dim"])
        embedded = settings["addition_time_embed_dim"] * 6
        self.pooled = int(settings["projection_class_embeddings_input_dim"]) - embedded
        self.device, self.dtype = device, dtype

    def __call__(self, samples: int, size: tuple[int, int]) -> torch.Tensor:
        def drawn(*shape: int) -> torch.Tensor:
            return torch.randn(shape, device=self.device, dtype=self.dtype)

        added = {"text_embeds": drawn(samples, self.pooled), "time_ids": drawn(samples, 6)}
        latents, times = drawn(samples, 4, *size), drawn(samples)
        said = self.network(latents, times, drawn(samples, 77, self.text), added_cond_kwargs=added)
        return said.sample

    def asked(self, samples: int, size: tuple[int, int]) -> None:
        """The frozen model's answer."""
        with torch.no_grad(), reference(self.network):
            self(samples, size)

    def trained(self, samples: int, size: tuple[int, int]) -> None:
        """Forward and backward."""
        self(samples, size).square().mean().backward()

    @property
    def learned(self) -> int:
        """Numbers of the LoRA."""
        return sum(parameter.numel() for parameter in lora_parameters(self.network))


@cache
def unet() -> Unet:
    """SDXL's, without numbers."""
    return Unet(shapes.SDXL_UNET, "meta", torch.bfloat16)


@cache
def operations() -> dict[str, float]:
    """10^12 operations of the parts of a step on one pair of squares of 1024 pixels, by name."""
    model = unet()
    with torch.device("meta"), torch.no_grad():
        vae, encoders = diffusers.AutoencoderKL(**shapes.VAE), shapes.sdxl().text
        pictures, words = torch.empty(2, 3, 1024, 1024), torch.zeros((1, 77), dtype=torch.long)
        encoding = counted(lambda: vae.encode(pictures))
        texts = counted(lambda: [encoder(words) for encoder in encoders])
    asked = counted(lambda: model.asked(2, SQUARE))
    with recomputing([model.network], True):
        again = counted(lambda: model.trained(2, SQUARE))
    return {
        "pictures": encoding,
        "text": texts,
        "reference": asked,
        "policy": counted(lambda: model.trained(2, SQUARE)),
        "policy, checkpointing": again,
        "before the LoRA": counted(lambda: _until_lora(model)),
    }


def _until_lora(model: Unet) -> None:
    """A forward of two samples that ends where the first LoRA begins."""
    first = next(module for name, module in model.network.named_modules() if name.endswith("attn1.to_q"))

    def stop(*_: object) -> None:
        raise StopIteration

    hook = first.register_forward_pre_hook(stop)
    try:
        with torch.no_grad():
            model(2, SQUARE)
    except StopIteration:
        return
    finally:
        hook.remove()


def steps() -> dict[str, float]:
    """10^12 operations of a step on one pair, by whose it is."""
    part = operations()
    trained = part["reference"] + part["policy"]
    return {
        "diffusers' script": trained + part["pictures"] + part["text"],
        "ours, a first run": trained,
        "ours, answers of the frozen model kept": part["policy"],
        "ours, a first run that shared what comes before the LoRA": trained - part["before the LoRA"],
    }


def stages() -> dict[str, float]:
    """10^12 operations of a first run's step on one pair of scrolls, by stage."""
    model = unet()

    def step(size: tuple[int, int]) -> float:
        return counted(lambda: model.asked(2, size)) + counted(lambda: model.trained(2, size))

    return {
        "blueprint, 512 x 2048": step(BLUEPRINT),
        "blueprint, 1024 x 4096": step(CANVAS),
        f"highres, 1024 x 4096 in {WINDOWS} windows": WINDOWS * step(SQUARE),
    }


def kept(alive: int, size: tuple[int, int], recompute: bool) -> int:
    """The most bytes of activations alive at once where so many forwards wait for their backward."""
    model = unet()

    def work() -> None:
        with torch.enable_grad():
            for said in [model(1, size) for _ in range(alive)]:
                said.square().mean().backward()

    with recomputing([model.network], recompute):
        return int(activation_bytes(work))


def memories(only: Collection[str] = ()) -> list[tuple[str, float, float]]:
    """(stage and settings, GiB of activations, GiB in all with Adafactor) of a step on one pair.

    Of those that are named, or of all.
    """
    model, rows = unet(), []
    learned = 4 * model.learned * (1 + GRADIENTS)
    frozen = weight_bytes(model.network) - 2 * model.learned
    places = (
        ("blueprint, 512 x 2048", 1, BLUEPRINT),
        ("blueprint, 1024 x 4096", 1, CANVAS),
        ("highres, stream", ALIVE, SQUARE),
        ("highres, two_pass", 1, SQUARE),
    )
    for name, alive, size in places:
        for recompute in (False, True):
            called = f"{name}{', checkpointing' * recompute}"
            if only and called not in only:
                continue
            activations = kept(alive, size, recompute) / memory.GIB
            whole = (frozen + learned) / memory.GIB + activations + memory.RESERVED
            rows.append((called, activations, whole))
    return rows


def tables() -> str:
    """Markdown: the parts of a step, the ratios, and memory beside cards."""
    lines = ["| 10^12 operations of one pair, 1024 x 1024 | |", "|---|---|"]
    lines += [f"| {name} | {tera:.1f} |" for name, tera in operations().items()]
    theirs = steps()["diffusers' script"]
    lines += ["", "| a step | 10^12 operations | of theirs |", "|---|---|---|"]
    lines += [f"| {name} | {tera:.1f} | {tera / theirs:.2f} |" for name, tera in steps().items()]
    lines += ["", "| a first run's step on one pair of scrolls | 10^12 operations |", "|---|---|"]
    lines += [f"| {name} | {tera:.0f} |" for name, tera in stages().items()]
    lines += ["", "| stage | activations | in all | card |", "|---|---|---|---|"]
    for name, activations, whole in memories():
        card = next((f"{card} GB" for card in memory.CARDS if whole * memory.GIB <= card * 1e9), "none")
        lines.append(f"| {name} | {activations:.1f} GiB | {whole:.1f} GiB | {card} |")
    return "\n".join(lines)


MEDIUM = shapes.SDXL_UNET | {
    "block_out_channels": (96, 192, 384), "attention_head_dim": (3, 6, 12),
    "transformer_layers_per_block": (1, 1, 3), "cross_attention_dim": 256,
}  # fmt: skip


def timed(turns: int, device: str) -> str:
    """Seconds of a step, ours and theirs in turns: SDXL on a card, squares of 1024 pixels; fewer channels and
    256 pixels on the CPU, whose own seconds count there.
    """
    torch.manual_seed(0)
    cuda = device == "cuda"
    model = Unet(shapes.SDXL_UNET if cuda else MEDIUM, device, torch.bfloat16 if cuda else torch.float32)
    # On the CPU the autoencoder takes as much of the UNet's work as at SDXL's shape.
    channels = {} if cuda else {"block_out_channels": (32, 64, 128, 128)}
    size = SQUARE if cuda else (32, 32)
    with torch.device(device):
        vae = diffusers.AutoencoderKL(**shapes.VAE | channels).requires_grad_(False)
        pictures = torch.randn(2, 3, 8 * size[0], 8 * size[1])

    def ours() -> None:
        model.asked(2, size)
        model.trained(2, size)

    def theirs(dtype: torch.dtype) -> None:
        with torch.no_grad():
            vae.to(dtype).encode(pictures.to(dtype))
        ours()

    kinds: dict[str, Callable[[], object]] = {"theirs": lambda: theirs(torch.float32)}
    if cuda:
        kinds["theirs, given an autoencoder for half precision"] = lambda: theirs(torch.bfloat16)
    kinds |= {"ours": ours, "ours, answers kept": lambda: model.trained(2, size)}
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(turns + 1):
        for name, work in kinds.items():
            began = _clock(cuda)
            work()
            if turn:
                seconds[name].append(_clock(cuda) - began)
    lines = ["| a step | seconds | of theirs, median over turns |", "|---|---|---|"]
    for name, own in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(own, seconds["theirs"], strict=True))
        lines.append(f"| {name} | {statistics.median(own):.3f} | {ratio:.2f} |")
    return "\n".join(lines)


def _clock(cuda: bool) -> float:
    """Seconds: of this process on a CPU, by the wall once a card has done its work."""
    if not cuda:
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--time", choices=("cpu", "cuda"), default="", help="time steps instead")
    parser.add_argument("--turns", type=int, default=7)
    chosen = parser.parse_args()
    print(timed(chosen.turns, chosen.time) if chosen.time else tables())


if __name__ == "__main__":
    main()
