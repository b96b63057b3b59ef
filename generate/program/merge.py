"""`drspo merge`: a model with a LoRA put into its weights, or with another denoiser, as a folder of its own.

What comes out is a plain folder in diffusers' layout: every program here takes it by `--model`, and so do
others that open such folders. W' = W + weight * (alpha / rank) B A (Hu et al. 2021, eq. 3).
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from drspo.errors import UserError
from drspo.leaving import public_name
from generate.models.family import ModelFamily, load_family
from generate.models.fingerprint import fingerprint
from generate.models.load import load_denoiser
from generate.models.specs import MODELS
from generate.models.weights import OTHER, Checkpoint, locate, locate_denoiser

FACTS = "merged.json"
_PARTIAL = ".part"


def main(argv: list[str]) -> int:
    """Merges, and says where the folder is."""
    parser = argparse.ArgumentParser("drspo merge", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="miniature", help="a model's name, a Hub id or a folder")
    parser.add_argument("--lora", default="", help="a LoRA folder or file that goes into its weights")
    parser.add_argument("--lora-weight", type=float, default=1.0, help="how strongly it acts")
    parser.add_argument("--other-base", action="store_true", help="allow a LoRA of another base model")
    parser.add_argument(
        "--denoiser", default="", help="a Hub id or folder with another UNet or transformer of its kind"
    )
    parser.add_argument("--out", required=True, help="the folder to write")
    asked = parser.parse_args(argv)
    if not (asked.lora or asked.denoiser):
        raise UserError("nothing to put into the model", hint="Give --lora, --denoiser, or both.")
    out = Path(asked.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError("there is something already", asked.out, "Give --out another place.")
    merge(asked.model, out, asked.lora, asked.lora_weight, asked.denoiser, other_base=asked.other_base)
    words = shlex.join(["python", "-m", "generate", "a lighthouse at dusk", "--model", asked.out])
    print(f"model     {asked.out}\nnext      {words} --out scroll.png")
    return 0


def merge(
    model: str,
    out: Path,
    lora: str = "",
    weight: float = 1.0,
    denoiser: str = "",
    *,
    other_base: bool = False,
) -> None:
    """Writes the model into `out` with the LoRA's weights added to its denoiser's, or with another denoiser.

    All arithmetic is in float32; the weights are stored as precisely as the model's own. Everything else is
    copied as it is. UserError for a LoRA or a denoiser that does not fit, before anything is written.
    """
    found = locate(MODELS[model].base if model in MODELS else model, known=MODELS)
    if found.kind == OTHER:
        raise UserError(f"{model} has no denoiser that is known here", "--model")
    other = locate_denoiser(denoiser, found) if denoiser else None
    family = load_family(model, device="cpu", dtype="float32")
    if other is not None:
        _replace(family, other)
    if lora:
        family.load_lora(lora, weight, other_base=other_base)
        family.network.fuse_lora()
        family.network.unload_lora()
    facts: dict[str, Any] = {
        "base_model": public_name(family.model_id),
        "base_fingerprint": family.fingerprint,
    }
    if other is not None:
        facts |= {"denoiser": public_name(other.plain), "denoiser_fingerprint": fingerprint(other)}
    if lora:
        facts |= {"lora": public_name(lora), "lora_weight": weight}
    _write(family.network, found, out, facts)


def _replace(family: ModelFamily, other: Checkpoint) -> None:
    """Gives the family the other denoiser's weights; UserError where a shape differs."""
    mine, theirs = family.network.state_dict(), load_denoiser(other).state_dict()
    shapes = [{name: tuple(tensor.shape) for name, tensor in state.items()} for state in (mine, theirs)]
    if shapes[0] != shapes[1]:
        wrong = sorted(shapes[0].items() ^ shapes[1].items())
        raise UserError(
            f"the denoiser of {other.source} is of another size or kind: {wrong[0][0]} differs",
            "--denoiser",
            f"One for {family.model_id} is needed.",
        )
    family.network.load_state_dict(theirs)


def _write(network: Any, found: Checkpoint, out: Path, facts: dict[str, Any]) -> None:
    """Everything under a name of its own first, so that a folder at `out` is whole."""
    partial = out.with_name(out.name + _PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    parts = [name for name, named in found.index.items() if isinstance(named, list) and named[0] is not None]
    for part in parts:
        if part != found.network and (found.folder / part).is_dir():
            shutil.copytree(found.folder / part, partial / part)
    shutil.copy(found.folder / "model_index.json", partial)
    network.to(_stored_dtype(found)).save_pretrained(
        partial / found.network, variant=found.variant(found.network)
    )
    (partial / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    if out.exists():
        out.rmdir()
    os.replace(partial, out)


def _stored_dtype(found: Checkpoint) -> torch.dtype:
    """How precisely the denoiser's own weights are stored."""
    with safe_open(found.shards(found.network)[0], framework="pt") as file:
        return file.get_tensor(next(iter(file.keys()))).dtype
