"""diffusers' own DPO script for SDXL on our data, as it stands: on a run, on its export, on a publication.

    git clone https://github.com/huggingface/diffusers        (any checkout that has the script)
    python -m benchmarks.interop.diffusion_dpo --diffusers PATH [--run RUN] [--model FOLDER]

The script is given nothing but the place, the split and a resolution. It counts as read where it takes its
steps and leaves a LoRA whose second halves have moved. Without a run, a small one of the miniature is built.
The script imports wandb whatever is asked of it; where that is not installed an empty module of the name
stands in.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from safetensors.torch import load_file

from benchmarks.train_vs_diffusers import empty_wandb, model_folder, script

WEIGHTS = "pytorch_lora_weights.safetensors"
SMALL = """--config miniature --prompts.limit 4 --candidates.seeds 1 --candidates.steps 4
    --candidates.generators multidiffusion sdxl --pairs.validation-fraction 0""".split()


def main() -> int:
    """Let the script train on each place; 0 when it could on all of them."""
    asked = parse()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        run = asked.run or build(folder / "run")
        tree = folder / "published"
        call(
            "-m", "drspo", "publish", str(run), "me/scrolls", "--license", "cc-by-4.0", "--dry-run", str(tree)
        )
        places = {"the run": run, "its export": run / "export", "the publication": tree}
        found = {name: moved(asked, place, folder / name) for name, place in places.items()}
    for name, change in found.items():
        print(f"{name:<16} {asked.steps} steps, the LoRA moved by {change:.3g}")
    return 0 if all(found.values()) else 1


def moved(asked: argparse.Namespace, place: Path, out: Path) -> float:
    """The largest entry of the LoRA's second halves after training, which begin at zero."""
    settings = {
        "pretrained_model_name_or_path": model_folder(asked.model),
        "dataset_name": place.resolve(),
        "dataset_split_name": "train",
        "output_dir": out,
        "resolution": asked.resolution,
        "train_batch_size": 1,
        "max_train_steps": asked.steps,
        "learning_rate": 1e-4,
        "lr_warmup_steps": 0,
        "seed": 0,
        "cache_dir": out / "cache",
    }
    out.mkdir()
    extra = {} if importlib.util.find_spec("wandb") else {"PYTHONPATH": str(empty_wandb(out))}
    flags = [f"--{key}={value}" for key, value in settings.items()]
    call(str(script(asked.diffusers)), *flags, environment=extra)
    second = [value for name, value in load_file(out / WEIGHTS).items() if name.endswith(".lora.up.weight")]
    return max(float(value.abs().max()) for value in second)


def build(out: Path) -> Path:
    """A small run of the miniature."""
    call("-m", "dataset_builder", *SMALL, "--out", str(out))
    return out


def call(*words: str, environment: dict[str, str] | None = None) -> None:
    """Run Python on these words, on the CPU and offline; its end is ours where it fails."""
    offline = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], env=os.environ | offline | (environment or {}))
    if done.returncode:
        raise SystemExit(f"{' '.join(words[:3])} ended with {done.returncode}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--diffusers", type=Path, required=True, help="a checkout, or the script itself")
    parser.add_argument("--run", type=Path, help="a finished run on this machine; else a small one is built")
    parser.add_argument("--model", default="miniature", help="a folder, or the miniature")
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--steps", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
