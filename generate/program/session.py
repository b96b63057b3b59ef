"""A loaded model with its LoRAs and a generator on it: from settings, or from a scroll's record."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from drspo.config import from_dict, to_dict
from drspo.errors import UserError
from drspo.registry import lookup
from generate import GENERATORS
from generate.models.family import ModelFamily, load_family
from generate.models.loras import FILE
from generate.program.metadata import Record, versions
from generate.request import Generator, Request, build_generator

logger = logging.getLogger(__name__)
LORA_FLAGS = {"all": "--lora", "blueprint": "--lora-blueprint", "highres": "--lora-highres"}


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Everything that is loaded once and then makes many scrolls."""

    model: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    loras: dict[str, tuple[str, float]] = field(default_factory=dict)
    """path and weight by stage: "blueprint", "highres", or "all" for methods of one stage"""
    controlnet: str = ""
    """a Hub id or folder instead of the model's own ControlNet"""
    other_base: bool = False
    device: str = "auto"
    dtype: str = "auto"
    threads: int = 0
    """of the CPU; they decide how sums are split, hence the last bits; 0: as torch chooses"""
    window_batch: int = 0
    """windows per forward, without being a setting of its own in the record; 0: the method's setting"""


@dataclass(frozen=True)
class Session:
    """A generator ready to run, and what its scrolls' records say about it."""

    setup: Setup
    family: ModelFamily
    generator: Generator
    hashes: dict[str, str]

    def record(self, request: Request, facts: Mapping[str, Any] | None = None) -> Record:
        """How a scroll of this request is made; `facts` of the finished scroll add what was chosen freely."""
        loras = {
            stage: {"path": path, "weight": weight, "sha256": self.hashes[stage]}
            for stage, (path, weight) in self.setup.loras.items()
        }
        return Record(
            request=request,
            model=self.setup.model,
            fingerprint=self.family.fingerprint,
            method=self.setup.method,
            settings=to_dict(self._in_force(request)),
            loras=loras,
            options=self._options(facts or {}),
            versions=versions(),
        )

    def _in_force(self, request: Request) -> Any:
        """The settings as numbers, so that a scroll can be made again when a model's own numbers change."""
        asked = build_generator(self.setup.method, self.family, self.setup.settings)
        resolved = getattr(asked, "resolved", None)  # a plugin may have nothing to resolve
        return resolved(request) if resolved else asked.config

    def _options(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        family = self.family
        options = {"device": family.device.type, "dtype": str(family.dtype).removeprefix("torch.")}
        options |= {"threads": torch.get_num_threads()} if family.device.type == "cpu" else {}
        options |= {"window_batch": facts["window_batch"]} if "window_batch" in facts else {}
        return options | ({"controlnet": family.controlnet_id} if family.controlnet is not None else {})


def open_session(setup: Setup) -> Session:
    """Loads the model, its ControlNet where the method uses one, and the LoRAs; UserError for what is amiss.

    What can be checked without the model's weights is checked first.
    """
    if setup.threads:
        torch.set_num_threads(setup.threads)
    hashes = {stage: lora_hash(path) for stage, (path, _) in setup.loras.items()}
    family = load_family(
        setup.model,
        device=setup.device,
        dtype=setup.dtype,
        controlnet=needs_control(setup.method, setup.settings),
        controlnet_source=setup.controlnet,
    )
    for stage, (path, weight) in setup.loras.items():
        family.load_lora(path, weight, stage, other_base=setup.other_base)
    family.use_lora("all" if "all" in setup.loras else None)
    settings = with_window_batch(setup.settings, setup.window_batch)
    return Session(setup, family, build_generator(setup.method, family, settings), hashes)


def with_window_batch(settings: dict[str, Any], count: int) -> dict[str, Any]:
    """The settings with so many windows per forward, where the method has windows; 0 changes nothing."""
    if not count:
        return settings
    if "windows" in settings:
        return {**settings, "windows": {**settings["windows"], "window_batch": count}}
    return {**settings, "window_batch": count} if "window_batch" in settings else settings


def needs_control(method: str, settings: dict[str, Any]) -> bool:
    """Whether a method with these settings asks for a ControlNet; its class says so by `needs_control`."""
    cls = lookup(GENERATORS, method, "method")
    config = from_dict(cls.config_class, settings)
    ask = getattr(cls, "needs_control", None)
    return bool(ask(config)) if ask else False


def setup_like(record: Record, setup: Setup) -> Setup:
    """The setup that made a record; LoRA paths, ControlNet, device and dtype given now replace its own."""
    loras = {stage: (values["path"], values["weight"]) for stage, values in record.loras.items()}
    for stage, (path, _) in setup.loras.items():
        if stage not in loras:
            raise UserError(f"that scroll was made without a LoRA of stage {stage!r}", where="--like")
        loras[stage] = (path, loras[stage][1])
    return Setup(
        model=record.model,
        method=record.method,
        settings=record.settings,
        loras=loras,
        controlnet=setup.controlnet or record.options.get("controlnet", ""),
        other_base=True,  # the hashes are compared, which says more
        device=record.options["device"] if setup.device == "auto" else setup.device,
        dtype=record.options["dtype"] if setup.dtype == "auto" else setup.dtype,
        threads=record.options.get("threads", 0),
        window_batch=record.options.get("window_batch", 0),
    )


def check_like(record: Record, now: Record) -> None:
    """UserError where the same bytes are impossible, a warning where they are not certain."""
    if record.fingerprint != now.fingerprint:
        raise UserError(
            f"the weights of {record.model} here ({now.fingerprint}) are not those that made the scroll "
            f"({record.fingerprint})",
            where="--like",
        )
    for stage, values in record.loras.items():
        if values["sha256"] != now.loras[stage]["sha256"]:
            raise UserError(
                f"the LoRA {now.loras[stage]['path']} is not the one that made the scroll",
                where="--like",
                hint=f"Give the right one by {LORA_FLAGS.get(stage, '--lora')} PATH.",
            )
    for line in record.difference(now):
        if line.startswith("options.window_batch"):  # known only when the scroll is made
            continue
        logger.warning("not as when the scroll was made, bytes may differ: %s", line)


def lora_hash(path: str) -> str:
    """SHA-256 of a LoRA's weights file; UserError when there is none."""
    file = Path(path).expanduser()
    file = file / FILE if file.is_dir() else file
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        hint = f"Give a .safetensors file, or a folder with {FILE}."
        raise UserError(f"there is no LoRA at {path}", hint=hint) from error
