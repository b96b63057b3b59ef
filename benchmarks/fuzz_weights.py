"""The readers of weights that `fuzz.py` feeds: LoRAs, models' folders and checkpoints of a training."""

from __future__ import annotations

import contextlib
import json
import random
import tempfile
from pathlib import Path

from benchmarks.fuzz_inputs import TINY, linked, quiet
from benchmarks.mutations import mutate_bytes, mutate_file, mutate_json


class Lora:
    """A LoRA on the tiny model: its weights file alone, or its folder with what it says about itself."""

    def __init__(self, facts: bool) -> None:
        quiet()
        import torch
        from safetensors.torch import save

        from generate.models.family import load_family

        self.facts = facts
        self.family = load_family(str(TINY), device="cpu")
        state = {}
        for name, layer in self.family.unet.named_modules():
            if name.endswith(("attn1.to_q", "attn2.to_k")):
                state[f"unet.{name}.lora_A.weight"] = torch.randn(2, layer.in_features)
                state[f"unet.{name}.lora_B.weight"] = torch.randn(layer.out_features, 2)
        self.state, self.weights = state, save(state)
        self.about = {
            "stage": "highres",
            "base_model": "tiny",
            "base_fingerprint": self.family.fingerprint,
            "rank": 2,
            "alpha": 2.0,
            "canvas": {"height": 128, "width": 512},
        }

    def prepare(self, folder: Path, rng: random.Random) -> None:
        lora = folder / "lora"
        lora.mkdir()
        weights = self.weights
        if not self.facts:
            weights = self._other(rng) if rng.random() < 0.4 else mutate_bytes(weights, rng)
        (lora / "pytorch_lora_weights.safetensors").write_bytes(weights)
        if self.facts:
            (lora / "drspo.json").write_bytes(mutate_json(json.dumps(self.about).encode(), rng))

    def _other(self, rng: random.Random) -> bytes:
        """A whole file of another kind: renamed, cut to another shape, LoHa's and kohya's names."""
        import torch
        from safetensors.torch import save

        state = dict(self.state)
        for key in rng.sample(sorted(state), rng.choice([1, 2, len(state)])):
            tensor = state.pop(key)
            names = [key.replace("lora_A", "hada_w1_a"), key.replace(".lora_A", ".lora.down"), f"{key}.alpha"]
            names += [key.replace("unet.", "lora_unet_").replace(".", "_"), "x", key]
            shapes = [
                tensor[:, :1],
                tensor[:1],
                tensor[None],
                torch.zeros(()),
                tensor.long(),
                tensor * torch.nan,
            ]
            state[rng.choice(names)] = rng.choice(shapes).contiguous()
        return save(state)

    def read(self, folder: Path) -> None:
        from generate.methods.drspo.stages import lora_stages

        self.family.loras.clear()
        try:
            lora_stages(str(folder / "lora"))
            self.family.load_lora(str(folder / "lora"), 1.0, "default")
        finally:
            for network in (self.family.unet, *self.family.text_encoders):
                if hasattr(network, "peft_config"):
                    with contextlib.suppress(Exception):  # what is left of a LoRA that was refused half way
                        network.delete_adapters(list(network.peft_config))


class Checkpoint:
    """A model's folder in diffusers' layout, and a training run's checkpoint."""

    def __init__(self) -> None:
        quiet()
        import torch

        from train.lora.checkpoint import Checkpoints, State

        self.place = tempfile.mkdtemp(prefix="fuzz-checkpoint-")
        lora = {"a": torch.ones(2, 3), "b": torch.zeros(3)}
        optimizer = {
            "state": {0: {"step": torch.tensor(3.0), "m": torch.ones(2)}},
            "param_groups": [{"lr": 1e-3}],
        }
        Checkpoints(Path(self.place), 2).save(
            State(3, lora, optimizer, dict(lora), {"skipped": 0, "best": None})
        )

    def prepare(self, folder: Path, rng: random.Random) -> None:
        source = TINY if rng.random() < 0.6 else Path(self.place)
        linked(source, folder / ("model" if source == TINY else "checkpoints"))
        path = rng.choice([path for path in sorted(folder.rglob("*")) if path.is_file()])
        mutate_file(path, rng)
        if (state := path.parent / "state.json").is_file() and path.is_file() and rng.random() < 0.7:
            self._vouch(path, state)

    def _vouch(self, path: Path, state: Path) -> None:
        """Let the checkpoint say that the changed file is the right one, as who made it on purpose would."""
        import hashlib

        with contextlib.suppress(ValueError, KeyError, TypeError):
            facts = json.loads(state.read_bytes())
            if path.name in facts["files"]:
                facts["files"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
                state.unlink()
                state.write_text(json.dumps(facts))

    def read(self, folder: Path) -> None:
        if (folder / "model").exists():
            from generate.models.family import load_family
            from generate.models.schedulers import make_schedule

            family = load_family(str(folder / "model"), device="cpu")
            make_schedule(family, "checkpoint", 4)
            return
        from train.lora.checkpoint import Checkpoints

        checkpoints = Checkpoints(folder / "checkpoints", 2)
        latest = checkpoints.latest()
        assert latest is not None
        checkpoints.load(latest)
