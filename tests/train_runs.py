"""Short trainings on the tiny SDXL of the golden data."""

import json
import os
import signal
import subprocess
import sys
import time
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


SERVER = """
import json, os, sys
import train.loop, train.report.samples, diffusers, peft, transformers.optimization, accelerate
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from train.command import main
print("ready", flush=True)
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        os._exit(main(json.loads(line)))
    print(pid, flush=True)
    os.waitpid(pid, 0)
    print("ended", flush=True)
"""


class Starter:
    """Real processes of the trainer without a start's imports: a process that has made them forks each
    one."""

    def __init__(self, root: Path) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            cwd=root,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self.server.stdin and self.server.stdout
        assert self.server.stdout.readline() == "ready\n"

    def kill_after(self, argv: list[str], metrics: Path, lines: int) -> None:
        """Start a run and kill -9 it when `metrics` has that many lines."""
        self.server.stdin.write(json.dumps(argv) + "\n")
        self.server.stdin.flush()
        pid = int(self.server.stdout.readline())
        deadline = time.monotonic() + 500
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < lines:
            assert time.monotonic() < deadline, "the run did not get that far"
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)
        assert self.server.stdout.readline() == "ended\n"

    def close(self) -> None:
        """End the server."""
        self.server.stdin.close()
        self.server.wait(30)
