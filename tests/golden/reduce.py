"""Makes this folder from full recordings: `python tests/golden/reduce.py FULL_RECORDINGS OUT`.

What the original implementations took in (initial latents, embeddings, backgrounds) stays float32 to the
bit. What they gave out becomes 16-bit integers with one scale per tensor, which moves no value by more than
1.6e-5 of the tensor's largest. `tests.recordings.load` undoes it.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

METHODS = (
    "diffusers_panorama",
    "elasticdiffusion",
    "gvcf",
    "mad",
    "multidiffusion",
    "spotdiffusion",
    "syncdiffusion",
    "twindiffusion",
)
OUTPUTS = (
    "final_latents",
    "latents_per_step",
    "first_direction",
    "first_local_uncond",
    "grads_first_step",
)
ALL_STEPS = ("syncdiffusion",)
"""Methods whose recorded steps all stay, since gradients amplify rounding; the others keep the first."""


def quantise(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`tensor` as int16 and the scale that gives it back."""
    scale = tensor.double().abs().max() / 32767
    return (tensor.double() / scale).round().to(torch.int16), scale


def reduce_case(source: Path, target: Path) -> None:
    """One recorded case, made small."""
    settings = json.loads((source / "settings.json").read_text())
    tensors = load_file(source / "tensors.safetensors")
    if settings["method"] not in ALL_STEPS and "latents_per_step" in tensors:
        settings["latents_per_step_indices"] = settings["latents_per_step_indices"][:1]
        tensors["latents_per_step"] = tensors["latents_per_step"][:1]
    noise = tensors.pop("variance_noise_per_step", None)
    if noise is not None:
        settings["variance_noise"] = {
            "shape": list(noise.shape),
            "style_noise_first": settings["slerp_alpha"] > 0,
            "first": noise.flatten()[:4].tolist(),
            "last": noise.flatten()[-4:].tolist(),
        }
    small = {name: value.contiguous() for name, value in tensors.items() if name not in OUTPUTS}
    for name in OUTPUTS:
        if name in tensors:
            small[name], small[f"{name}.scale"] = quantise(tensors[name])
    for name in ("tensors", "wall_s"):
        settings.pop(name, None)
    target.mkdir(parents=True, exist_ok=True)
    save_file(small, target / "tensors.safetensors")
    lines = (
        f" {json.dumps(key)}: {json.dumps(finite(value), allow_nan=False)}" for key, value in settings.items()
    )
    (target / "settings.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def finite(value: object) -> object:
    """JSON has no infinity: diffusers reads it from text as well."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    return str(value) if value in (float("inf"), -float("inf")) else value


def reduce_lpips(source: Path, target: Path) -> None:
    """LPIPS's random network; its linear layers are the `lpips` package's own and are not kept."""
    network = {k: v.contiguous() for k, v in load_file(source).items() if k.startswith("net.")}
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(network, target)


if __name__ == "__main__":
    full, out = Path(sys.argv[1]), Path(sys.argv[2])
    for method in METHODS:
        for case in sorted((full / method).iterdir()):
            reduce_case(case, out / method / case.name)
    for model in ("tiny-sd", "tiny-sdxl"):
        shutil.copytree(full / "models" / model, out / "models" / model, dirs_exist_ok=True)
    lpips = Path("models", "lpips-squeeze-rand", "model.safetensors")
    reduce_lpips(full / lpips, out / lpips)
