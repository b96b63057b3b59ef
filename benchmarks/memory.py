"""Memory that published models need on a device, counted without weights: `python -m benchmarks.memory`.

Settings are those of the `config.json` files on the Hub (`benchmarks.shapes`), everything in bfloat16.
`python -m benchmarks.real_size` measures the same on a card.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import diffusers
import torch

from benchmarks.shapes import MODELS, SDXL_UNET, VAE
from generate.canvas.plan import whole_canvas
from generate.images.perceptual import Lpips
from generate.images.vae import widest_bytes
from generate.models.denoisers.denoiser import Condition
from generate.models.family import ModelFamily
from generate.models.footprint import activation_bytes, weight_bytes
from generate.models.schedulers import make_schedule
from generate.models.specs import MODELS as SPECS
from generate.sampling.gradient_memory import gradient_bytes

GIB = 2**30
CARDS = (24, 48, 80)
RESERVED = 1.0
"""GiB of a card that the driver, the libraries and the allocator's gaps take: a round number, not counted."""


@dataclass(frozen=True)
class Need:
    """GiB of each part."""

    text: float
    network: float
    vae: float
    activations: float
    decoding: float

    @property
    def resident(self) -> float:
        """With all networks on the device."""
        return self.text + self.network + self.vae + max(self.activations, self.decoding) + RESERVED

    @property
    def offloaded(self) -> float:
        """With networks in host memory while they rest (`--offload`)."""
        return max(self.text, self.network + self.activations, self.vae + self.decoding) + RESERVED


def need(name: str, height: int, width: int) -> Need:
    """What a model needs for one picture of this size in pixels, as one piece or as one window."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            model = MODELS[name]()
            alive = activation_bytes(lambda: model.forward(model.samples, height // 8, width // 8))
    finally:
        torch.set_default_dtype(before)
    return Need(
        text=sum(map(weight_bytes, model.text)) / GIB,
        network=weight_bytes(model.network) / GIB,
        vae=weight_bytes(model.vae) / GIB,
        activations=alive / GIB,
        decoding=widest_bytes(model.vae, 1024 * 4096) / GIB,
    )


def gradient(side: int, recompute: bool) -> float:
    """GiB that the gradient of one SDXL window of `side` pixels keeps in SyncDiffusion, with LPIPS by VGG.

    The network in float16, the autoencoder and VGG in float32.
    """
    import lpips

    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(**SDXL_UNET).half()
        vae = diffusers.AutoencoderKL(**VAE)
        distance = Lpips(lpips.LPIPS(net="vgg", pnet_rand=True, pretrained=False, verbose=False))
        told = Condition(
            torch.empty(2, 77, 2048).half(), torch.empty(2, 1280).half(), sizes=torch.empty(2, 6).half()
        )
    for network in (unet, vae, distance):
        network.requires_grad_(False)
    family = ModelFamily(
        kind="sdxl", spec=SPECS["sdxl"], model_id="", fingerprint="", unet=unet, vae=vae, tokenizers=[],
        text_encoders=[], scheduler_config={"_class_name": "DDIMScheduler"}, device=torch.device("cpu"),
        dtype=torch.float16,
    )  # fmt: skip
    canvas, schedule = whole_canvas(side, side, 8), make_schedule(family, "ddim", 50)
    return gradient_bytes(family, schedule, distance, canvas, told, recompute=recompute) / GIB


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--sizes", nargs="+", default=["1024x1024"], help="height x width")
    parser.add_argument("--gradient", action="store_true", help="of SyncDiffusion's windows, instead")
    chosen = parser.parse_args(arguments)
    if chosen.gradient:
        print("| SDXL window | everything kept | gradient checkpointing |\n|---|---|---|")
        for side in (512, 1024):
            kept, again = (gradient(side, recompute) for recompute in (False, True))
            print(f"| {side} | {kept:.1f} GiB | {again:.1f} GiB |", flush=True)
        return
    print("| model | size | text | network | activations | all on the device | with --offload | cards (GB) |")
    print("|---|---|---|---|---|---|---|---|")
    for name in chosen.models:
        for size in chosen.sizes:
            height, width = map(int, size.split("x"))
            found = need(name, height, width)
            cells = (found.text, found.network, found.activations, found.resident, found.offloaded)
            row = " | ".join(f"{value:.1f}" for value in cells)
            print(f"| {name} | {size} | {row} | {_cards(found)} |", flush=True)


def _cards(found: Need) -> str:
    """The smallest card for either way; cards are sold in units of 10^9 bytes."""
    smallest = [
        next((str(card) for card in CARDS if value * GIB <= card * 1e9), "none")
        for value in (found.resident, found.offloaded)
    ]
    return f"{smallest[0]}, offloaded {smallest[1]}"


if __name__ == "__main__":
    main()
