"""Our blueprint stage beside diffusers' own DPO script for SDXL: CPU seconds per step and peak memory.

    git clone https://github.com/huggingface/diffusers        (any checkout that has the script)
    python -m benchmarks.train_vs_diffusers --diffusers PATH [--model FOLDER] [--pairs FILE.parquet]

Same checkpoint, same square pairs (the script knows no other shape), same rank, learning rate, beta, batch
and seed, winner and loser in one call, no gradient checkpointing, one thread. All programs are started, and
then take turns of a few seconds, the others stopped meanwhile, so that each meets the same better and worse
moments of the machine; what is compared is the median CPU time from one optimiser step to the next.

Ours runs three times: as a first run, which has to encode every pair; with warm caches of latents and
embeddings, which is how every run after the first goes; and with that of references too
(`data.cache_references`), which is how a run goes that differs from an earlier one in loss, LoRA or optimiser
alone. What encoding costs lies before the first step, so a run as a whole is compared as well: CPU seconds
from the start of the process to the end of its last step. The script imports wandb whatever is asked of it;
where that is not installed an empty module of the name stands in.
"""

import argparse
import importlib.util
import io
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from PIL import Image

SCRIPT = "train_diffusion_dpo_sdxl.py"
RANK, RATE, BETA = 64, 1e-5, 5000
SKIPPED = 10
"""First steps, which warm up, that do not count."""


@dataclass
class Program:
    """A training program as a process of its own."""

    name: str
    process: subprocess.Popen
    stamps: Path
    log: Path
    peak_mib: float = 0.0

    @property
    def running(self) -> bool:
        """True until the process has ended; then its peak memory is known."""
        if self.peak_mib:
            return False
        pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
        if pid and status:
            raise SystemExit(f"{self.name} failed:\n{self.log.read_text()[-3000:]}")
        if pid:
            self.peak_mib = usage.ru_maxrss / 1024
        return not pid

    def figures(self) -> dict[str, Any]:
        """The median CPU time of a step, the quartiles, CPU time in all, and peak memory."""
        stamps = json.loads(self.stamps.read_text())
        seconds = [after - before for before, after in itertools.pairwise(stamps[SKIPPED:])]
        low, middle, high = statistics.quantiles(seconds, n=4)
        return {
            "cpu_seconds_per_step": round(middle, 4),
            "quartiles": [round(low, 4), round(high, 4)],
            "cpu_seconds_in_all": round(stamps[-1], 1),
            "peak_mib": round(self.peak_mib),
        }


def main() -> None:
    """Runs the programs in turns and prints the ratios."""
    options = parse()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = folder / "data"
        data.mkdir()
        pairs = data / "train-00000-of-00001.parquet"
        parquet.write_table(square_pairs(options), pairs)
        take_turns([ours(options, pairs, folder, "warm", keep=True)], options.turn)
        programs = [
            ours(options, pairs, folder, "ours, first run", cache="nothing yet"),
            ours(options, pairs, folder, "ours"),
            ours(options, pairs, folder, "ours, references kept", keep=True),
            theirs(options, pairs, folder, "diffusers"),
        ]
        take_turns(programs, options.turn)
        figures = {program.name: program.figures() for program in programs}
    *own, other = figures.values()
    for each in own:
        each |= ratios(each, other)
    print(json.dumps(figures, indent=1))


def take_turns(programs: list[Program], seconds: float) -> None:
    """Lets one process run at a time, each for some seconds, until all have ended."""
    try:
        for program in programs:
            program.process.send_signal(signal.SIGSTOP)
        while waiting := [program for program in programs if program.running]:
            for program in waiting:
                program.process.send_signal(signal.SIGCONT)
                ends = time.monotonic() + seconds
                while program.running and time.monotonic() < ends:
                    time.sleep(0.05)
                if program.running:
                    program.process.send_signal(signal.SIGSTOP)
    finally:
        for program in programs:
            if not program.peak_mib:
                program.process.kill()


def ratios(own: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """Steps per CPU second over the other's, by the steps alone and by the whole run, and peak memory."""
    return {
        "whole_run_ratio": round(other["cpu_seconds_in_all"] / own["cpu_seconds_in_all"], 2),
        "steps_per_cpu_second_ratio": round(other["cpu_seconds_per_step"] / own["cpu_seconds_per_step"], 2),
        "memory_ratio": round(own["peak_mib"] / other["peak_mib"], 2),
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
    parser.add_argument("--steps", type=int, default=300, help="steps of each program")
    parser.add_argument("--turn", type=float, default=3.0, help="seconds that a program runs at a time")
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


def ours(
    options: argparse.Namespace,
    pairs: Path,
    folder: Path,
    name: str,
    keep: bool = False,
    cache: str = "cache",
) -> Program:
    """`python -m train`, measuring nothing and saving only at the end, as the script does."""
    settings = {
        "stage": "blueprint",
        "model": options.model,
        "data.source": pairs,
        "data.validation-pairs": 0,
        "data.cache": folder / cache,
        "data.cache-references": keep,
        "out": folder / name,
        "canvas.height": options.resolution,
        "canvas.width": options.resolution,
        "lora.rank": RANK,
        "lora.alpha": RANK,
        "optimizer.name": "adamw",
        "optimizer.lr": RATE,
        "optimizer.warmup-steps": 0,
        "optimizer.weight-decay": 0.01,
        "loss.beta": BETA,
        "max-steps": options.steps,
        "checkpoint-every": 10_000,
        "device": "cpu",
        "precision": "fp32",
        "seed": 0,
        "memory.window-batch": 2,
    }
    flags = [token for key, value in settings.items() for token in (f"--{key}", str(value))]
    return start(name, ["-m", "train", *flags], {}, folder)


def theirs(options: argparse.Namespace, pairs: Path, folder: Path, name: str) -> Program:
    """The script with its defaults where ours has the same ones."""
    settings = {
        "pretrained_model_name_or_path": model_folder(options.model),
        "dataset_name": pairs.parent,
        "dataset_split_name": "train",
        "output_dir": folder / name,
        "resolution": options.resolution,
        "train_batch_size": 1,
        "rank": RANK,
        "max_train_steps": options.steps,
        "learning_rate": RATE,
        "lr_scheduler": "constant",
        "lr_warmup_steps": 0,
        "beta_dpo": BETA,
        "checkpointing_steps": 10_000,
        "seed": 0,
        "dataloader_num_workers": 0,
        "mixed_precision": "no",
        "report_to": "tensorboard",
        "cache_dir": folder / "hub",
    }
    flags = [f"--{key}={value}" for key, value in settings.items()] + ["--no_hflip"]
    extra = {} if importlib.util.find_spec("wandb") else {"PYTHONPATH": str(empty_wandb(folder))}
    return start(name, [str(script(options.diffusers)), *flags], extra, folder)


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


def start(name: str, program: list[str], extra: dict[str, str], folder: Path) -> Program:
    """The program on one thread, as a process that notes its steps."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
    environment = os.environ | threads | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""} | extra
    stamps, log = folder / f"{name}.json", folder / f"{name}.log"
    command = [sys.executable, "-m", "benchmarks.stamped", str(stamps), *program]
    with open(log, "wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
    return Program(name, process, stamps, log)


if __name__ == "__main__":
    main()
