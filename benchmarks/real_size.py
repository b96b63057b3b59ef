"""Published shapes with random numbers on a card: what a picture takes, beside what was planned and counted.

    python -m benchmarks.real_size --folder /dev/shm/real --models sdxl sd3.5-medium flux pixart-sigma
    python -m benchmarks.real_size --folder /tmp/tiny --tiny --device cpu      the same path at toy size

Seconds and memory do not depend on what the weights are, so nothing is downloaded: a checkpoint of each shape
is drawn in bfloat16, saved in diffusers' layout, loaded as the program loads any, and deleted again. Of each
model it prints

- weights, and the most that is alive beside them in one forward and in decoding: counted by
  `benchmarks.memory` and measured;
- what `--plan` says of a picture and what the picture took, in seconds and GiB, by method and size;
- `direct` beside diffusers' own pipeline on the same request, in turns: the ratio of wall seconds.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from transformers import CLIPTextModel

from benchmarks.direct import bare
from benchmarks.memory import GIB, need
from benchmarks.random_sdxl import SDXL_VAE
from benchmarks.shapes import MODELS, VAE, Model
from generate.images.vae import decode_scroll
from generate.models.family import ModelFamily, load_family
from generate.program.cost import rehearse
from generate.request import Request, generator_class, settings_of

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden"
PROMPT = "a lighthouse by the sea at dusk"
FLOW_VAE = VAE | {"latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159}
VAES = {
    "sdxl": SDXL_VAE,
    **dict.fromkeys(("sd3.5-medium", "sd3.5-large", "flux"), FLOW_VAE | {"force_upcast": False}),
    "pixart-sigma": SDXL_VAE | {"force_upcast": False},
}
SQUARE, SCROLL, BLUEPRINT = (1024, 1024), (1024, 4096), (512, 2048)
RUNS: dict[str, tuple[tuple[str, tuple[int, int], int], ...]] = {
    "sdxl": (
        ("direct", SQUARE, 25), ("direct", SCROLL, 25), ("multidiffusion", SCROLL, 25), ("mad", SCROLL, 25),
    ),
    "sd3.5-medium": (("direct", SQUARE, 28), ("direct", BLUEPRINT, 28), ("multidiffusion", SCROLL, 10)),
    "sd3.5-large": (("direct", SQUARE, 28), ("direct", BLUEPRINT, 28)),
    "flux": (("direct", SQUARE, 28), ("direct", BLUEPRINT, 28), ("multidiffusion", SCROLL, 10)),
    "pixart-sigma": (("direct", SQUARE, 20), ("direct", BLUEPRINT, 20)),
}  # fmt: skip
"""(method, size in pixels, steps) by model."""
TINY = 64
KINDS = {"sd3.5-medium": "sd3", "sd3.5-large": "sd3", "flux": "flux", "pixart-sigma": "pixart-sigma"}
"""The tiny checkpoint of the same family."""


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--folder", type=Path, required=True, help="for one checkpoint at a time, then gone")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=4, help="of direct and the pipeline")
    parser.add_argument("--tiny", action="store_true")
    chosen = parser.parse_args(arguments)
    device = torch.device(chosen.device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    print(f"{where}, torch {torch.__version__}, diffusers {diffusers.__version__}", flush=True)
    for name in chosen.models:
        folder = chosen.folder / name
        try:
            drawn(name, folder, device, chosen.tiny)
            measure(name, folder, device, chosen)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if device.type == "cuda":
                torch.cuda.empty_cache()


def drawn(name: str, folder: Path, device: torch.device, tiny: bool) -> None:
    """Saves a checkpoint of the model's shape with random weights: a tiny one, with its networks replaced."""
    from tests.tiny_transformers import make

    if name == "sdxl":
        shutil.copytree(GOLDEN / "models" / "tiny-sdxl", folder)
    else:
        make(KINDS[name], GOLDEN, folder)
    if tiny:
        return
    with drawing(device):
        networks = parts_of(name, MODELS[name]())
    for part, network in networks.items():
        shutil.rmtree(folder / part)
        network.save_pretrained(folder / part)


def parts_of(name: str, model: Model) -> dict[str, Any]:
    """The networks by the folder that a checkpoint has for each."""
    first, *others = model.text
    if name in ("sdxl", "flux"):
        first = CLIPTextModel(first.config)  # without the projection
    text = {f"text_encoder_{number}": encoder for number, encoder in enumerate(others, 2)}
    denoises = "unet" if name == "sdxl" else "transformer"
    vae = diffusers.AutoencoderKL(**VAES[name])
    return {denoises: model.network, "vae": vae, "text_encoder": first, **text}


@contextmanager
def drawing(device: torch.device) -> Iterator[None]:
    """Networks built in here are in bfloat16 on the device, from a fixed seed."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    torch.manual_seed(0)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def measure(name: str, folder: Path, device: torch.device, chosen: argparse.Namespace) -> None:
    """Prints the tables of one model."""
    began = time.perf_counter()
    family = load_family(str(folder), device=str(device), dtype="auto" if chosen.tiny else "bfloat16")
    side = TINY if chosen.tiny else 1024
    if chosen.tiny:
        family.spec = replace(family.spec, window=side // 2, stride=side // 2)
    print(f"\n{name}: loaded in {time.perf_counter() - began:.1f} s")
    if device.type == "cuda" and not chosen.tiny:
        parts(name, family)
    print("| method | size | steps | planned s | took s | | planned GiB | took GiB | |\n" + "|---" * 9 + "|")
    for method, (height, width), steps in RUNS[name]:
        if chosen.tiny:
            height, width, steps = side, side * width // height, 2
        request = Request(
            prompt=PROMPT, height=height, width=width, steps=steps, guidance_scale=family.spec.guidance_scale
        )
        print(planned_and_took(method, family, request), flush=True)
    beside_pipeline(family, folder, side, 2 if chosen.tiny else 20, chosen.rounds)


@torch.no_grad()
def parts(name: str, family: ModelFamily) -> None:
    """Counted beside measured: weights, one forward at 1024 x 1024, decoding of a scroll of 1024 x 4096."""
    device, counted = family.device, need(name, *SQUARE)
    rows = [("weights", counted.text + counted.network + counted.vae, torch.cuda.memory_allocated(device))]
    with torch.device("meta"):
        model = replace(MODELS[name](), network=family.network)
    with drawing(device):
        model.forward(model.samples, 128, 128)
        alive = _beside(device, lambda: model.forward(model.samples, 128, 128))
    rows.append(("one forward", counted.activations, alive))
    latents = torch.randn(1, family.vae.config.latent_channels, 128, 512, device=device)
    rows.append(("decoding", counted.decoding, _beside(device, lambda: decode_scroll(family.vae, latents))))
    print("| | counted GiB | measured GiB | |\n|---|---|---|---|")
    for part, expected, found in rows:
        print(f"| {part} | {expected:.2f} | {found / GIB:.2f} | {found / GIB / expected:.2f} |", flush=True)


def _beside(device: torch.device, work: Callable[[], object]) -> int:
    """The most bytes beside what is there already."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def planned_and_took(method: str, family: ModelFamily, request: Request) -> str:
    """A row: the plan of a request and the picture itself."""
    # Random weights may be asked for sizes that nobody trained them for.
    settings = {"beyond": True} if method == "direct" else {}
    generator = generator_class(method)(family, settings_of(method, settings))
    plan = rehearse(generator, family, request)
    cuda = family.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(family.device)
    seconds = timed(family, lambda: generator.generate([request]))
    peak = torch.cuda.max_memory_allocated(family.device) if cuda else plan.peak_bytes
    cells = [
        method, f"{request.height}x{request.width}", str(request.steps),
        f"{plan.seconds:.2f}", f"{seconds:.2f}", f"{seconds / plan.seconds:.2f}",
        f"{plan.peak_bytes / GIB:.2f}", f"{peak / GIB:.2f}", f"{peak / plan.peak_bytes:.2f}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def beside_pipeline(family: ModelFamily, folder: Path, side: int, steps: int, rounds: int) -> None:
    """Direct sampling and the bare pipeline in turns."""
    request = Request(
        prompt=PROMPT, height=side, width=side, steps=steps, guidance_scale=family.spec.guidance_scale
    )
    direct = generator_class("direct")(family, settings_of("direct", {"beyond": True}))
    published, paint = family, partial(direct.generate, [request])
    if family.pipe is None:
        published, paint = (
            replace(family, pipe=until_latents(family, folder)),
            partial(direct.sample, request),
        )
    ratios = []
    for number in range(rounds + 1):
        theirs = timed(family, lambda: bare(published, request))
        ours = timed(family, paint)
        if number:
            ratios.append(ours / theirs)
    print(f"direct / pipeline, {steps} steps of {side}x{side}: {statistics.median(ratios):.3f}, "
          f"{min(ratios):.3f} to {max(ratios):.3f} in {rounds} turns", flush=True)  # fmt: skip


def until_latents(family: ModelFamily, folder: Path) -> Callable[..., Any]:
    """SDXL's pipeline, which decodes in another precision than we do, without decoding."""
    encoders = dict(zip(("text_encoder", "text_encoder_2"), family.text_encoders, strict=True))
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(
        folder, unet=family.unet, vae=family.vae, **encoders
    )
    pipe.set_progress_bar_config(disable=True)
    return partial(pipe, output_type="latent")


def timed(family: ModelFamily, work: Callable[[], object]) -> float:
    """Wall seconds, the card's work included."""
    began = time.perf_counter()
    work()
    if family.device.type == "cuda":
        torch.cuda.synchronize(family.device)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
