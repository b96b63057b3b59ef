"""`python -m train` on SDXL's published shape with random numbers: a step, beside what was counted.

    python -m benchmarks.real_training --folder /dev/shm/real            on a card
    python -m benchmarks.real_training --folder /tmp/tiny --tiny         the same path at toy size, anywhere

Every case is the whole program in a process of its own, from pairs of random scrolls to the LoRA, with the
paper's preset and no samples. Seconds are the last step's, of all steps, and from start to end; memory is the
most that tensors held in training, by the run's own log. Counted is what `benchmarks.train_costs` says, less
the GiB that it puts aside for driver and allocator.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from benchmarks import memory, train_costs
from benchmarks.real_size import drawn

CHECKPOINTING = ("--memory.gradient-checkpointing", "True")
CASES: dict[str, tuple[str, ...]] = {
    "blueprint, 512 x 2048": ("blueprint", "--canvas.height", "512", "--canvas.width", "2048"),
    "blueprint, 1024 x 4096": ("blueprint",),
    "blueprint, 1024 x 4096, checkpointing": ("blueprint", *CHECKPOINTING),
    "highres, stream": ("highres",),
    "highres, stream, checkpointing": ("highres", *CHECKPOINTING),
    "highres, two_pass": ("highres", "--memory.schedule", "two_pass"),
}
"""Stage and flags, by the name that `benchmarks.train_costs` counts it under."""
TINY = ("--canvas.height", "64", "--canvas.width", "256", "--canvas.window", "64", "--canvas.stride", "16")


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument(
        "--folder", type=Path, required=True, help="for checkpoint, pairs and runs; then gone"
    )
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--tiny", action="store_true")
    chosen = parser.parse_args(arguments)
    folder = chosen.folder
    try:
        drawn("sdxl", folder / "sdxl", torch.device("cpu" if chosen.tiny else "cuda"), chosen.tiny)
        write_pairs(folder / "pairs.parquet", (64, 256) if chosen.tiny else (1024, 4096))
        counts = [] if chosen.tiny else train_costs.memories(chosen.cases)
        expected = {name: whole for name, _, whole in counts}
        print(
            "| case | s/step | all steps s | program s | counted GiB | measured GiB | |\n" + "|---" * 7 + "|"
        )
        for name in chosen.cases:
            counted = expected.get(name, float("nan")) - memory.RESERVED
            print(row(name, folder, chosen.steps, chosen.tiny, counted), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_pairs(file: Path, size: tuple[int, int], count: int = 3) -> None:
    """Pairs of smooth random scrolls."""
    rng = np.random.default_rng(0)

    def picture() -> dict[str, bytes | None]:
        coarse = Image.fromarray(rng.integers(0, 255, (4, 16, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC).save(buffer, format="JPEG", quality=95)
        return {"bytes": buffer.getvalue(), "path": None}

    rows = [
        {
            "pair_id": str(n),
            "prompt": f"a lake at dusk number {n}",
            "chosen": picture(),
            "rejected": picture(),
        }
        for n in range(count)
    ]
    pq.write_table(pa.Table.from_pylist(rows), file)


def command(name: str, folder: Path, steps: int, tiny: bool) -> list[str]:
    """What follows `python -m train` for a case."""
    stage, *flags = CASES[name]
    return [
        "--config", "paper", "--stage", stage, "--model", str(folder / "sdxl"),
        "--data.source", str(folder / "pairs.parquet"), "--out", str(folder / "out"),
        "--max-steps", str(steps), "--samples.every", "0",
        "--validation.every", "0", "--data.validation-pairs", "0",
        "--checkpoint-every", str(steps), *flags, *(TINY if tiny else ()),
    ]  # fmt: skip


def row(name: str, folder: Path, steps: int, tiny: bool, counted: float) -> str:
    """One case as a line of the table; what went wrong where it did."""
    out = folder / "out"
    began = time.perf_counter()
    train = [sys.executable, "-m", "train", *command(name, folder, steps, tiny)]
    done = subprocess.run(train, capture_output=True, text=True)
    program = time.perf_counter() - began
    if done.returncode:
        return f"| {name} | ended with {done.returncode}: {done.stderr[-1500:]} |"
    steps_taken = [json.loads(line) for line in (out / "timings.jsonl").read_text().splitlines()]
    shutil.rmtree(out)
    seconds = [line["seconds"] for line in steps_taken]
    peak = max(line["peak_mib"] for line in steps_taken) / 1024
    cells = [
        f"{seconds[-1]:.2f}", f"{sum(seconds):.1f}", f"{program:.0f}", f"{counted:.1f}", f"{peak:.1f}",
        f"{peak / counted:.2f}",
    ]  # fmt: skip
    return f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
