"""Short trainings on the tiny SDXL of the golden data."""

import json
from pathlib import Path

from safetensors.torch import load_file

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
