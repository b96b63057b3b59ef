"""Our blueprint stage beside diffusers' own DPO script for SDXL: CPU seconds per step and peak memory.

    git clone https://github.com/huggingface/diffusers        (any checkout that has the script)
    python -m benchmarks.train_vs_diffusers --diffusers PATH [--model FOLDER] [--pairs FILE.parquet]

Same checkpoint, same square pairs (the script knows no other shape), same rank, learning rate, beta, batch
and seed, winner and loser in one call, no gradient checkpointing, one thread. Each program runs twice, with
few and with many steps; the difference of the two is free of start-up costs. The programs take turns, so that
both see the machine's better and worse moments; medians are compared. Ours runs with warm caches,
which is how every run after the first goes. The script imports wandb whatever is asked of it; where that is
not installed an empty module of the name stands in.
"""

import argparse
import importlib.util
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from PIL import Image

SCRIPT = "train_diffusion_dpo_sdxl.py"
RANK, RATE, BETA = 64, 1e-5, 5000


@dataclass(frozen=True)
class Cost:
    """What one process took."""

    cpu_seconds: float
    peak_mib: float


def main() -> None:
    """Runs both programs and prints the ratios."""
    options = parse()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = folder / "data"
        data.mkdir()
        pairs = data / "train-00000-of-00001.parquet"
        parquet.write_table(square_pairs(options), pairs)
        ours(options, pairs, folder, "warm", 1)
        costs: dict[str, list[Cost]] = {"ours": [], "diffusers": []}
        for turn in range(options.repeats):
            for name, run in (("ours", ours), ("diffusers", theirs)):
                costs[name].append(per_step(run, options, pairs, folder, f"{name}-{turn}"))
    figures: dict[str, Any] = {name: summary(found) for name, found in costs.items()}
    speed = figures["diffusers"]["cpu_seconds_per_step"] / figures["ours"]["cpu_seconds_per_step"]
    memory = figures["ours"]["peak_mib"] / figures["diffusers"]["peak_mib"]
    figures |= {"steps_per_cpu_second_ratio": round(speed, 2), "memory_ratio": round(memory, 2)}
    print(json.dumps(figures, indent=1))


def per_step(
    run: Callable[..., Cost], options: argparse.Namespace, pairs: Path, folder: Path, name: str
) -> Cost:
    """CPU seconds of one step, from a short and a long run, and the long one's peak memory."""
    few, many = options.steps
    short, long = (run(options, pairs, folder, f"{name}-{steps}", steps) for steps in (few, many))
    return Cost((long.cpu_seconds - short.cpu_seconds) / (many - few), long.peak_mib)


def summary(costs: list[Cost]) -> dict[str, Any]:
    """The medians, and every turn's seconds."""
    seconds = [round(cost.cpu_seconds, 4) for cost in costs]
    return {
        "cpu_seconds_per_step": round(statistics.median(seconds), 4),
        "peak_mib": round(statistics.median(cost.peak_mib for cost in costs)),
        "turns": seconds,
    }


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--diffusers", type=Path, required=True, help="a checkout of diffusers, or the script itself"
    )
    parser.add_argument("--model", default="miniature", help="a folder, or the miniature")
    parser.add_argument(
        "--pairs", type=Path, help="a pick-a-pic-shaped Parquet file of square pairs; empty: drawn here"
    )
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--steps", type=int, nargs=2, default=(4, 64), metavar=("FEW", "MANY"))
    parser.add_argument("--repeats", type=int, default=5, help="turns of each program")
    return parser.parse_args()


def square_pairs(options: argparse.Namespace) -> pa.Table:
    """The given pairs, or 32 drawn ones, in pick-a-pic's columns with raw bytes."""
    if options.pairs:
        return parquet.read_table(options.pairs)
    side = options.resolution
    rows = [
        {
            "caption": f"a lake at dusk number {index}",
            "jpg_0": picture(index, side, 4),
            "jpg_1": picture(1000 + index, side, side),
            "label_0": 1.0,
        }
        for index in range(32)
    ]
    return pa.Table.from_pylist(rows)


def picture(seed: int, side: int, grain: int) -> bytes:
    """A square JPEG: soft with a small grain, noise with a large one."""
    pixels = np.random.default_rng(seed).integers(0, 255, (grain, grain, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC).save(
        buffer, format="JPEG", quality=95
    )
    return buffer.getvalue()


def ours(options: argparse.Namespace, pairs: Path, folder: Path, name: str, steps: int) -> Cost:
    """`python -m train`, measuring nothing and saving only at the end, as the script does."""
    settings = {
        "stage": "blueprint", "model": options.model, "data.source": pairs, "data.validation-pairs": 0,
        "data.cache": folder / "cache", "out": folder / name, "canvas.height": options.resolution,
        "canvas.width": options.resolution, "lora.rank": RANK, "lora.alpha": RANK, "optimizer.name": "adamw",
        "optimizer.lr": RATE, "optimizer.warmup-steps": 0, "optimizer.weight-decay": 0.01, "loss.beta": BETA,
        "max-steps": steps, "checkpoint-every": 10_000, "device": "cpu", "precision": "fp32", "seed": 0,
        "memory.window-batch": 2,
    }  # fmt: skip
    flags = [token for key, value in settings.items() for token in (f"--{key}", str(value))]
    return measure([sys.executable, "-m", "train", *flags], {}, folder / f"{name}.log")


def theirs(options: argparse.Namespace, pairs: Path, folder: Path, name: str, steps: int) -> Cost:
    """The script with its defaults where ours has the same ones."""
    settings = {
        "pretrained_model_name_or_path": model_folder(options.model), "dataset_name": pairs.parent,
        "dataset_split_name": "train", "output_dir": folder / name, "resolution": options.resolution,
        "train_batch_size": 1, "rank": RANK, "max_train_steps": steps,
        "learning_rate": RATE, "lr_scheduler": "constant", "lr_warmup_steps": 0,
        "beta_dpo": BETA, "checkpointing_steps": 10_000, "seed": 0, "dataloader_num_workers": 0,
        "mixed_precision": "no", "report_to": "tensorboard", "cache_dir": folder / "hub",
    }  # fmt: skip
    flags = [f"--{key}={value}" for key, value in settings.items()] + ["--no_hflip"]
    extra = {} if importlib.util.find_spec("wandb") else {"PYTHONPATH": str(empty_wandb(folder))}
    return measure([sys.executable, str(script(options.diffusers)), *flags], extra, folder / f"{name}.log")


def script(place: Path) -> Path:
    """The DPO script in a checkout."""
    found = [place] if place.is_file() else sorted(place.rglob(SCRIPT))
    if not found:
        raise SystemExit(f"no {SCRIPT} under {place}")
    return found[0].resolve()


def model_folder(model: str) -> str:
    """A folder that `from_pretrained` opens."""
    if model != "miniature":
        return model
    import miniature

    return str(Path(miniature.__path__[0]) / "weights" / "sdxl")


def empty_wandb(folder: Path) -> Path:
    """A folder with an empty module `wandb`."""
    stand_in = folder / "stand-in"
    stand_in.mkdir(exist_ok=True)
    (stand_in / "wandb.py").touch()
    return stand_in


def measure(command: list[str], extra: dict[str, str], log: Path) -> Cost:
    """Runs a command on one thread; its CPU seconds with those of its children, and its peak memory."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
    environment = os.environ | threads | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""} | extra
    started = time.monotonic()
    with open(log, "wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command[:4])} ... failed:\n{log.read_text()[-3000:]}")
    print(f"{log.stem}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


if __name__ == "__main__":
    main()
