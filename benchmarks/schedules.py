"""Memory and CPU time of the gradient schedules against the number of windows, in one run.

    python -m benchmarks.schedules [--windows 4 8 13 29] [--repeats 9]

`loop` is plain autograd written out here, without the engine: run every window, average, differentiate. The
others are the engine's schedules. Memory is what autograd keeps alive for the backward pass, in bytes of
distinct storages, counted through saved-tensor hooks: exact, and independent of the allocator and of what
else the machine runs. Times are CPU seconds of this process, medians; the schedules take turns, and a ratio
is the median of those within a turn, so that a busy machine disturbs both sides alike.
"""

from __future__ import annotations

import argparse
import statistics
import time
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from generate.canvas.blend import blend, window_weights
from generate.canvas.windows import plan_windows
from train.engine.field import Field
from train.engine.gradient import gradients
from train.engine.predictor import window_predictor
from train.engine.problem import Problem, Schedule, Side, Trainable
from train.lora.adapters import add_lora, lora_parameters

WINDOW, STRIDE = 32, 8
LEVELS = (32, 64, 128)


def small_unet(levels: tuple[int, int, int] = LEVELS) -> Any:
    """A UNet of SDXL's block types, randomly initialised, small enough for 29 windows of plain autograd on a
    CPU."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=WINDOW,
        block_out_channels=levels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
        attention_head_dim=2,
        cross_attention_dim=64,
        norm_num_groups=8,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32,
    )


def make_problem(unet: Any, windows: int) -> Problem:
    """One row of that many windows with stride a quarter of the window, as at 128/32 on real scrolls."""
    width = WINDOW + (windows - 1) * STRIDE
    generator = torch.Generator().manual_seed(1)
    latents, target = (torch.randn(1, 4, WINDOW, width, generator=generator) for _ in range(2))
    embeds, pooled = torch.randn(1, 77, 64, generator=generator), torch.randn(1, 32, generator=generator)
    return Problem(
        sides=(Side(latents=latents, target=target),),
        windows=plan_windows(WINDOW, width, WINDOW, STRIDE),
        weights=window_weights("uniform", WINDOW, WINDOW),
        predict=window_predictor(unet, 500.0, embeds, pooled, (8 * WINDOW, 8 * width)),
    )


def loop(problem: Problem, parameters: list[Tensor]) -> list[Tensor]:
    """Plain autograd, one window at a time, every graph kept until the end."""
    side, windows = problem.sides[0], problem.windows
    crops = [side.latents[..., w.y0 : w.y1, w.x0 : w.x1] for w in windows]
    said = torch.stack([problem.predict(crop, [w]) for crop, w in zip(crops, windows, strict=True)])
    height, width = side.latents.shape[-2:]
    error = (blend(said, windows, problem.weights, height, width) - side.target).square().mean()
    return list(torch.autograd.grad(error, parameters))


def by(schedule: Schedule) -> Callable[[Problem, list[Tensor]], list[Tensor]]:
    """The engine's gradient by that schedule."""
    return lambda problem, parameters: (
        gradients(Field(problem), Trainable(parameters, nullcontext), schedule)[0].grads
    )


RUNS = {"loop": loop} | {name: by(name) for name in ("autograd", "stream", "two_pass")}


class Kept:
    """Bytes of distinct storages that autograd holds, now and at the peak; weights are not counted."""

    def __init__(self, module: Any) -> None:
        self.skip = {p.untyped_storage().data_ptr() for p in module.parameters()}
        self.users: dict[int, int] = {}
        self.now = self.peak = 0

    def pack(self, tensor: Tensor) -> Any:
        """Count a saved tensor's storage once, until the last graph node that holds it is gone."""
        storage = tensor.untyped_storage()
        key, size = storage.data_ptr(), storage.nbytes()
        if key in self.skip:
            return tensor
        holder = Holder(tensor)
        self.users[key] = self.users.get(key, 0) + 1
        if self.users[key] == 1:
            self.now += size
            self.peak = max(self.peak, self.now)
        weakref.finalize(holder, self._drop, key, size)
        return holder

    def _drop(self, key: int, size: int) -> None:
        self.users[key] -= 1
        if self.users[key] == 0:
            self.now -= size


class Holder:
    """Keeps one saved tensor alive exactly as long as the graph does."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def peak_bytes(run: Callable[[], Any], unet: Any) -> tuple[int, Any]:
    """Largest number of bytes that autograd kept at once during the run, and what the run returned."""
    kept = Kept(unet)
    unpack = lambda packed: packed.tensor if isinstance(packed, Holder) else packed  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, unpack):
        returned = run()
    if kept.now:
        raise RuntimeError(f"{kept.now} bytes are still held after the run: the graph leaks")
    return kept.peak, returned


def seconds(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of each run, a value per turn."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.process_time()
            run()
            found[name].append(time.process_time() - start)
    return found


def distance(a: list[Tensor], b: list[Tensor]) -> float:
    """Relative L2 distance of two gradients."""
    flat = [torch.cat([g.reshape(-1) for g in grads]) for grads in (a, b)]
    return float((flat[0] - flat[1]).norm() / flat[1].norm())


def measure(unet: Any, windows: int, repeats: int) -> dict[str, dict[str, float]]:
    """Schedule -> MiB kept, CPU seconds, distance of its gradient from the loop's."""
    problem, parameters = make_problem(unet, windows), lora_parameters(unet)
    runs = {name: (lambda run=run: run(problem, parameters)) for name, run in RUNS.items()}
    kept = {name: peak_bytes(run, unet) for name, run in runs.items()}
    times = seconds(runs, repeats)
    return {
        name: {
            "mib": kept[name][0] / 2**20,
            "seconds": statistics.median(times[name]),
            "ratio": statistics.median(a / b for a, b in zip(times[name], times["loop"], strict=True)),
            "distance": distance(kept[name][1], kept["loop"][1]),
        }
        for name in RUNS
    }


def main() -> None:
    """Measure, print the table and the two goals."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--windows", type=int, nargs="+", default=[4, 8, 13, 29])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument(
        "--levels", type=int, nargs=3, default=LEVELS, help="channels of the UNet's three levels"
    )
    parser.add_argument("--rank", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    unet = small_unet(tuple(options.levels))
    add_lora(unet, rank=options.rank, seed=1)
    with torch.no_grad():
        for parameter in lora_parameters(unet):
            parameter.add_(0.01 * torch.randn_like(parameter))
    print("| windows | " + " | ".join(f"{name}: MiB, CPU s" for name in RUNS) + " |")
    print("|---" * (len(RUNS) + 1) + "|", flush=True)
    table = {}
    for count in sorted(options.windows):
        table[count] = measure(unet, count, options.repeats)
        cells = [f"{table[count][name]['mib']:.1f}, {table[count][name]['seconds']:.2f}" for name in RUNS]
        print(f"| {count} | " + " | ".join(cells) + " |", flush=True)
    report(table)


def report(table: dict[int, dict[str, dict[str, float]]]) -> None:
    """The ratios that the goals are about."""
    for count, row in table.items():
        apart = max(row[name]["distance"] for name in RUNS)
        times = ", ".join(f"{name} {row[name]['ratio']:.3f}" for name in list(RUNS)[1:])
        print(f"{count} windows: CPU time relative to the loop: {times}; gradients at most {apart:.1e} apart")
    counts = sorted(table)
    if len(counts) > 1:
        low, high = counts[-2], counts[-1]
        for name in RUNS:
            growth = table[high][name]["mib"] / table[low][name]["mib"]
            print(f"memory from {low} to {high} windows, {name}: x {growth:.3f}")


if __name__ == "__main__":
    main()
