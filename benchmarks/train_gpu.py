"""Seconds, memory and share of the matrix peak per training step, on a real-size SDXL UNet with random
weights.

    python -m benchmarks.train_gpu                      both stages, every case that fits, on the GPU
    python -m benchmarks.train_gpu --case highres/stream --steps 10
    python -m benchmarks.train_gpu --tiny --device cpu  the same code path at toy size, anywhere

Speed and memory do not depend on what the weights are, so nothing is downloaded. A step is what training
does: the reference pass, the gradients of winner and loser, the loss, the optimiser. Floating-point
operations are counted while a step runs (recomputation included), the matrix peak is measured on the same
card with one large product.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.shapes import SDXL_UNET
from generate.canvas.blend import window_weights
from generate.canvas.windows import Window, plan_windows
from train.engine.predictor import window_predictor
from train.engine.problem import Problem, Side
from train.lora.adapters import add_lora, lora_parameters
from train.lora.optimizers import build_optimizer
from train.lora.twins import trainable
from train.objective.pair import pair_gradients
from train.settings import LossSettings, OptimizerSettings

TINY = SDXL_UNET | {
    "sample_size": 16,
    "block_out_channels": (8, 16, 16),
    "transformer_layers_per_block": (1, 1, 1),
    "layers_per_block": 1,
    "attention_head_dim": (1, 2, 2),
    "norm_num_groups": 4,
    "cross_attention_dim": 32,
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 64,
}


@dataclass(frozen=True)
class Case:
    """One way to train: canvas in pixels, a schedule, and whether the UNet recomputes activations."""

    name: str
    height: int
    width: int
    windows: bool
    schedule: str = "stream"
    checkpointing: bool = False
    window_batch: int = 1


CASES = (
    Case("highres/stream", 1024, 4096, True),
    Case("highres/stream-batch4", 1024, 4096, True, window_batch=4),
    Case("highres/stream+checkpointing", 1024, 4096, True, checkpointing=True),
    Case("highres/two_pass", 1024, 4096, True, schedule="two_pass"),
    Case("highres/two_pass+checkpointing", 1024, 4096, True, schedule="two_pass", checkpointing=True),
    Case("blueprint/512x2048", 512, 2048, False),
    Case("blueprint/1024x4096", 1024, 4096, False),
    Case("blueprint/1024x4096+checkpointing", 1024, 4096, False, checkpointing=True),
)


@dataclass(frozen=True)
class Row:
    """What one case took."""

    case: str
    seconds: float
    peak_gib: float
    tflop: float
    tflop_per_second: float
    share_of_peak: float
    windows: int
    alive_windows: int


def random_unet(config: dict[str, Any], device: torch.device, dtype: torch.dtype, rank: int) -> Any:
    """The UNet of that shape with random weights made on the device, frozen, with a fresh float32 LoRA."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    torch.manual_seed(0)
    try:
        with torch.device(device):
            unet = UNet2DConditionModel(**config)
    finally:
        torch.set_default_dtype(before)
    add_lora(unet, rank=rank)
    return unet.to(device).train()


def make_windows(case: Case, shrink: int) -> tuple[Window, ...]:
    """Windows of 1024 pixels at a quarter's stride (the paper's), or the whole canvas as one; in latents."""
    height, width, side = (size // 8 // shrink for size in (case.height, case.width, 1024))
    if not case.windows:
        return (Window(0, height, 0, width),)
    return plan_windows(height, width, side, side // 4)


def make_problem(unet: Any, case: Case, shrink: int, autocast: torch.dtype | None) -> Problem:
    """A pair of random scrolls on the case's canvas, divided by `shrink` for the toy size."""
    config, device = unet.config, unet.device
    height, width = case.height // 8 // shrink, case.width // 8 // shrink
    windows = make_windows(case, shrink)
    scrolls = torch.randn(3, 1, 4, height, width, device=device)
    text = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    embeds = torch.randn(1, 77, config.cross_attention_dim, device=device, dtype=unet.dtype)
    pooled = torch.randn(1, text, device=device, dtype=unet.dtype)
    return Problem(
        sides=tuple(Side(latents=scroll, target=scrolls[2]) for scroll in scrolls[:2]),
        windows=windows,
        weights=window_weights("uniform", windows[0].height, windows[0].width),
        predict=window_predictor(unet, 500.0, embeds, pooled, (8 * height, 8 * width), autocast=autocast),
        micro_batch=case.window_batch,
    )


def make_step(
    unet: Any, case: Case, shrink: int, autocast: torch.dtype | None
) -> Callable[[], dict[str, float]]:
    """One optimiser step on one pair, as training makes it."""
    problem, parameters = make_problem(unet, case, shrink, autocast), lora_parameters(unet)
    optimizer = build_optimizer(parameters, OptimizerSettings())
    (unet.enable_gradient_checkpointing if case.checkpointing else unet.disable_gradient_checkpointing)()

    def step() -> dict[str, float]:
        result = pair_gradients(problem, trainable(unet), LossSettings(), schedule=case.schedule)
        for parameter, grad in zip(parameters, result.grads, strict=True):
            parameter.grad = grad
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return result.metrics

    return step


def measure(unet: Any, case: Case, options: argparse.Namespace, peak: float) -> Row:
    """Count one step's operations, then time the others."""
    device = unet.device
    step = make_step(unet, case, 8 if options.tiny else 1, options.autocast)
    with FlopCounterMode(display=False) as counter:
        metrics = step()
    flop = float(counter.get_total_flops())
    if device.type == "cuda":  # which warms up
        step()
        torch.cuda.reset_peak_memory_stats(device)
    start = _now(device)
    for _ in range(options.steps):
        step()
    seconds = (_now(device) - start) / options.steps
    rate = flop / seconds
    return Row(
        case=case.name,
        seconds=seconds,
        peak_gib=_peak_gib(device),
        tflop=flop / 1e12,
        tflop_per_second=rate / 1e12,
        share_of_peak=rate / peak,
        windows=len(make_windows(case, 1)),
        alive_windows=int(metrics["alive_windows"]),
    )


def matrix_peak(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Operations per second of the best of ten square products on this device."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        start = _now(device)
        product = a @ b
        best = min(best, _now(device) - start)
    del product
    return 2 * size**3 / best


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _peak_gib(device: torch.device) -> float:
    """Most memory that tensors held on the GPU; not a number elsewhere."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else float("nan")


def parse(argv: list[str]) -> argparse.Namespace:
    """The options, completed: device, precision, cases."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--case", nargs="+", default=[case.name for case in CASES])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--tiny", action="store_true", help="a toy UNet and canvases an eighth of the size")
    parser.add_argument("--json", default="", help="also append one JSON line per case to this file")
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device here; --tiny --device cpu exercises the same code")
    known = {case.name for case in CASES}
    if unknown := set(options.case) - known:
        parser.error(f"unknown case {sorted(unknown)}; known: {sorted(known)}")
    options.dtype = torch.bfloat16 if options.device.startswith("cuda") else torch.float32
    options.autocast = torch.bfloat16 if options.dtype == torch.bfloat16 else None
    return options


def main(argv: list[str]) -> list[Row]:
    """Measure the chosen cases and print a table; a case that does not fit is said so and left out."""
    options = parse(argv)
    device = torch.device(options.device)
    peak = matrix_peak(device, options.dtype, 256 if options.tiny else 8192)
    unet = random_unet(
        TINY if options.tiny else SDXL_UNET, device, options.dtype, 4 if options.tiny else options.rank
    )
    print(
        f"{_device_name(device)}, torch {torch.__version__}, measured matrix peak {peak / 1e12:.1f} TFLOP/s"
    )
    print(
        "| case | s/step | peak GiB | TFLOP/step | TFLOP/s | share of peak | windows alive |\n"
        + "|---" * 7
        + "|"
    )
    rows: list[Row] = []
    for case in CASES:
        if case.name in options.case and (row := _try(unet, case, options, peak)):
            rows.append(row)
            print(_line(row), flush=True)
            if options.json:
                _append(options.json, row)
    return rows


def _try(unet: Any, case: Case, options: argparse.Namespace, peak: float) -> Row | None:
    try:
        return measure(unet, case, options, peak)
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        print(f"| {case.name} | does not fit | | | | | |", flush=True)
        return None


def _line(row: Row) -> str:
    cells = [
        row.case,
        f"{row.seconds:.3f}",
        f"{row.peak_gib:.1f}",
        f"{row.tflop:.3g}",
        f"{row.tflop_per_second:.3g}",
        f"{row.share_of_peak:.1%}",
        f"{row.alive_windows} of {row.windows}",
    ]
    return "| " + " | ".join(cells) + " |"


def _append(path: str, row: Row) -> None:
    with open(path, "a") as file:
        file.write(json.dumps(asdict(row)) + "\n")


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


if __name__ == "__main__":
    main(sys.argv[1:])
