"""Short trainings on the tiny SDXL of the golden data."""

import json
import time
from pathlib import Path

from safetensors.torch import load_file

from tests.forks import Forks
from train.command import main


def flags(golden: Path, source: str, **settings: object) -> list[str]:
    """A command line for a run of seconds: canvas 32x64, windows of 32 in stage highres, rank 4."""
    chosen = {
        "model": golden / "models" / "tiny-sdxl",
        "data.source": source,
        "data.validation-pairs": 2,
        "canvas.height": 32,
        "canvas.width": 64,
        "canvas.window": 32,
        "canvas.stride": 16,
        "lora.rank": 4,
        "lora.alpha": 8,
        "optimizer.name": "adamw",
        "optimizer.lr": 1e-4,
        "optimizer.warmup-steps": 4,
        "checkpoint-every": 2,
        "validation.every": 0,
        "validation.timesteps": 2,
        "device": "cpu",
    }
    chosen |= {name.replace("__", ".").replace("_", "-"): value for name, value in settings.items()}
    return [token for name, value in chosen.items() for token in (f"--{name}", str(value))]


def train(golden: Path, source: str, out: Path, **settings: object) -> Path:
    """A finished run in this process."""
    assert main([*flags(golden, source, **settings), "--out", str(out)]) == 0
    return out


def records(out: Path, name: str = "metrics.jsonl") -> list[dict]:
    """The records of a run."""
    return [json.loads(line) for line in (out / name).read_text().splitlines()]


def weights(out: Path) -> dict:
    """The exported LoRA."""
    return load_file(out / "pytorch_lora_weights.safetensors")


# What a process of the trainer imports before its first step.
HEAVY = ("train.loop", "train.report.samples", "generate.models.family", "peft", "transformers.optimization")


def kill_after(forks: Forks, argv: list[str], metrics: Path, lines: int) -> None:
    """Start a run and kill -9 it when `metrics` has that many lines."""
    pid = forks.start(argv, metrics.parent.with_suffix(".txt"), program="train", HF_HUB_OFFLINE="1")
    deadline = time.monotonic() + 500
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < lines:
        assert time.monotonic() < deadline, "the run did not get that far"
        time.sleep(0.005)
    forks.kill(pid)
    assert forks.wait() == -9
