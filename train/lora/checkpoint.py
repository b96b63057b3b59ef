"""Checkpoints that are whole or absent: a kill or a full disk never damages the one before."""

import hashlib
import io
import json
import logging
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from drspo.errors import UserError
from drspo.files.texts import read_json

log = logging.getLogger(__name__)

Tensors = dict[str, torch.Tensor]


@dataclass
class State:
    """All that a run needs to go on exactly as if it had never stopped."""

    step: int
    lora: Tensors
    optimizer: dict[str, Any]
    ema: Tensors = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    """Plain JSON: configuration hash, counters of the loop, the best measurement so far."""


class Checkpoints:
    """The checkpoints of one run folder: step-NNNNNN/{lora,ema}.safetensors, optimizer.pt, state.json."""

    def __init__(self, folder: Path, keep_last: int) -> None:
        self.folder = folder
        self.keep_last = max(1, keep_last)

    def save(self, state: State, best_step: int = -1) -> Path:
        """Writes `state` beside the others, makes it visible in one rename, then removes those not to be
        kept.

        Raises `UserError` on a full or read-only disk; what was there before stays.
        """
        final = self.path(state.step)
        if not final.exists():
            temporary = self.folder / f".writing-{final.name}"
            try:
                _write(temporary, state)
                os.rename(temporary, final)
                _fsync(self.folder)
            except OSError as error:
                shutil.rmtree(temporary, ignore_errors=True)
                raise self._not_saved(error) from error
        self._prune(best_step)
        return final

    def _not_saved(self, error: OSError) -> UserError:
        kept = self.latest()
        intact = f"; {kept.name} is intact and --resume goes on from there" if kept else ""
        reason = error.strerror or str(error)
        return UserError(
            f"cannot save a checkpoint: {reason}", str(self.folder), f"free some space there{intact}"
        )

    def path(self, step: int) -> Path:
        """Where the checkpoint of that step lies."""
        return self.folder / f"step-{step:06d}"

    def latest(self) -> Path | None:
        """The newest checkpoint, or None."""
        found = self.all()
        return found[-1] if found else None

    def all(self) -> list[Path]:
        """Every checkpoint, oldest first."""
        return sorted(self.folder.glob("step-*"))

    def set_damaged_aside(self) -> None:
        """Renames the newest checkpoints until one is whole, which the log says; `UserError`, and nothing is
        renamed, when there are some and none is whole."""
        damaged = []
        for path in reversed(self.all()):
            try:
                self.verify(path)
                break
            except UserError as error:
                damaged.append((path, error))
        else:
            if damaged:
                hint = "remove that folder to begin again"
                raise UserError("none of the run's checkpoints is whole", str(self.folder), hint)
        for path, why in damaged:
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(path, aside)
            log.warning("%s (%s): set aside as %s, going on before it", why.what, path.name, aside.name)

    def verify(self, path: Path) -> dict[str, Any]:
        """The facts of `path`; `UserError` when a file is missing or does not have the recorded hash."""
        facts = self.facts(path)
        try:
            for name, digest in facts["files"].items():
                if _sha256(path / name) != digest:
                    raise UserError("a checkpoint's file is damaged", str(path / name), _OTHER)
        except (OSError, KeyError) as error:
            raise UserError(f"not a whole checkpoint: {error}", str(path), _OTHER) from error
        return facts

    def facts(self, path: Path) -> dict[str, Any]:
        """What `path` says about itself, without its tensors; `UserError` when it does not say it."""
        try:
            facts = read_json(path / "state.json")
        except UserError as error:
            raise UserError(f"not a whole checkpoint: {error.what}", str(path), _OTHER) from error
        if not isinstance(facts, dict) or not isinstance(facts.get("files"), dict):
            raise UserError("not a whole checkpoint: it does not say which files it has", str(path), _OTHER)
        return facts

    def load(self, path: Path) -> State:
        """The state in `path`; `UserError` when a file is missing or does not have the recorded hash."""
        facts = self.verify(path)
        del facts["files"]
        try:
            ema = load_file(path / "ema.safetensors") if (path / "ema.safetensors").exists() else {}
            optimizer = torch.load(path / "optimizer.pt", map_location="cpu", weights_only=True)
            return State(int(facts.pop("step")), load_file(path / "lora.safetensors"), optimizer, ema, facts)
        except MemoryError:
            raise
        except (
            Exception
        ) as error:  # what torch raises for a file that is no longer a whole one has no common kind
            said = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise UserError(f"not a whole checkpoint: {said}", str(path), _OTHER) from error

    def _prune(self, best_step: int) -> None:
        keep = {path.name for path in self.all()[-self.keep_last :]} | {self.path(best_step).name}
        for path in self.all():
            if path.name not in keep:
                # Renamed first, so that a kill in the middle of removing leaves no half of a checkpoint.
                gone = path.with_name(f".removing-{path.name}")
                os.rename(path, gone)
                shutil.rmtree(gone, ignore_errors=True)
        for leftover in self.folder.glob(".removing-*"):
            shutil.rmtree(leftover, ignore_errors=True)


def refuse_foreign(found: dict[str, str], own: dict[str, str], path: Path) -> None:
    """Raises `UserError` when a checkpoint was written by another configuration or for another base model."""
    for name, value in own.items():
        if found.get(name) != value:
            raise UserError(
                f"the checkpoint is of another {name} ({found.get(name)}, this run has {value})",
                str(path),
                "its optimiser and LoRA do not belong to this run; choose another --out",
            )


_OTHER = "remove that folder: --resume then goes on from the checkpoint before it"


def _write(folder: Path, state: State) -> None:
    """Fills a new folder. Everything is serialised in memory first, so a failing disk shows as one
    OSError."""
    optimizer = io.BytesIO()
    torch.save(state.optimizer, optimizer)
    files = {"lora.safetensors": save(_owned(state.lora)), "optimizer.pt": optimizer.getvalue()}
    if state.ema:
        files["ema.safetensors"] = save(_owned(state.ema))
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    facts = {"step": state.step, **state.facts, "files": digests}
    files["state.json"] = json.dumps(facts, indent=1).encode()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, data in files.items():
        with open(folder / name, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    _fsync(folder)


def _owned(tensors: Tensors) -> Tensors:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
