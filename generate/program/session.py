"""A loaded model with its LoRAs and a generator on it: from settings, or from a scroll's record."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import torch

from drspo.config import to_dict
from drspo.errors import UserError
from drspo.files.lora import FILE
from drspo.leaving import public
from generate.images.upscale import SOURCES, load_upscaler
from generate.methods.continued import Continued, Endless
from generate.methods.drspo.blueprint import read_sketch
from generate.methods.drspo.two_stage import DRSPO
from generate.methods.upscaled import Upscaled, smaller
from generate.models.controlnet import CANNY
from generate.models.family import ModelFamily, load_family
from generate.models.hub import HUB_ID, at_revision
from generate.models.specs import MODELS
from generate.program.metadata import Record, adapter_name, lora_name, model_name, versions
from generate.program.source import Source, source_like
from generate.request import Generator, Request, generator_class, needs_control, needs_ip_adapter, settings_of

logger = logging.getLogger(__name__)
SHORT = ("guidance_halves_apart", "memory_ran_out_at_step")
"""Facts of a sampling that only lack of memory brings about, and that move the last bits."""
LORA_FLAGS = {"all": "--lora", "blueprint": "--lora-blueprint", "highres": "--lora-highres"}


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Everything that is loaded once and then makes many scrolls."""

    model: str
    method: str
    model_given: bool = False
    """whether somebody chose the model, so that it stands in for what a record names"""
    names: dict[str, str] = field(default_factory=dict)
    """what a record calls these places, where that is not their own name"""
    settings: dict[str, Any] = field(default_factory=dict)
    loras: dict[str, tuple[str, float]] = field(default_factory=dict)
    """path and weight by stage: "blueprint", "highres", or "all" for methods of one stage"""
    revision: str = ""
    """of the model's repository on the Hub"""
    controlnet: str = ""
    """a Hub id or folder instead of the model's own ControlNet"""
    conditioning: str = ""
    """what that ControlNet is shown, where its name does not say so"""
    ip_adapter: str = ""
    """a file, a folder, or a Hub id with a file, instead of the model's own IP-Adapter"""
    image_encoder: str = ""
    """the folder of that adapter's image tower"""
    other_base: bool = False
    upscale: int = 1
    """how many times the scroll is enlarged behind the method"""
    upscaler: str = ""
    """a file, a folder or a package's folder instead of the model's own upscaler"""
    blueprint: str = ""
    """a picture in the place of drspo's blueprint"""
    endless: bool = False
    """strip by strip, in flat memory"""
    source: Source | None = None
    """a picture to go on with"""
    offload: bool = False
    """keep networks in host memory while they rest"""
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
            stage: {"path": self._name(lora_name, path), "weight": weight, "sha256": self.hashes[stage]}
            for stage, (path, weight) in self.setup.loras.items()
        }
        return Record(
            request=request,
            model=self._name(model_name, self.setup.model),
            fingerprint=self.family.fingerprint,
            method=self.setup.method,
            settings=public(to_dict(self._in_force(request))),
            loras=loras,
            options=self._options(facts or {}),
            versions=versions(),
        )

    def with_settings(self, settings: dict[str, Any]) -> Session:
        """The same model with other settings of the method."""
        setup = replace(self.setup, settings=settings)
        return replace(self, setup=setup, generator=_generator(setup, self.family))

    def _in_force(self, request: Request) -> Any:
        """The settings as numbers, so that a scroll can be made again when a model's own numbers change.

        Those that were asked for: a batch that this machine chose is no setting.
        """
        asked = settings_of(self.setup.method, self.setup.settings)
        method = generator_class(self.setup.method)(self.family, asked)
        if self.setup.source is not None:
            method = Continued(method, self.setup.source.image, self.setup.source.change)
        elif self.setup.endless:
            method = Endless(method)
        return method.resolved(smaller(request, self.setup.upscale))

    def _options(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        family = self.family
        options = {"device": family.device.type, "dtype": str(family.dtype).removeprefix("torch.")}
        options |= {"threads": torch.get_num_threads()} if family.device.type == "cpu" else {}
        options |= {"window_batch": facts["window_batch"]} if "window_batch" in facts else {}
        options |= {key: facts[key] for key in SHORT if facts.get(key)}
        options |= {"revision": family.commit} if family.commit else {}
        if sketch := getattr(getattr(self.generator, "inner", self.generator), "sketch", None):
            options |= {"blueprint": sketch.name, "blueprint_sha256": sketch.sha256}
        options |= self.setup.source.facts() if self.setup.source else {}
        options |= {"endless": 1} if self.setup.endless else {}
        if isinstance(self.generator, Upscaled):
            options |= self.generator.upscaler.facts(self.setup.upscale)
            options |= {"upscaler": self._name(model_name, upscaler_source(self.setup, family))}
        if (adapter := family.ip_adapter) is not None:
            options |= {"ip_adapter": self._name(adapter_name, adapter.files.source)}
            options |= {"ip_adapter_sha256": adapter.sha256}
        if family.controlnet is None:
            return options
        options |= {"controlnet": self._name(model_name, family.controlnet_id)}
        options |= {"controlnet_fingerprint": family.controlnet_fingerprint}
        return options | (
            {"controlnet_revision": family.controlnet_commit} if family.controlnet_commit else {}
        )

    def _name(self, named: Callable[[str], str], place: str) -> str:
        return self.setup.names.get(place) or named(place)


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
        conditioning=setup.conditioning,
        ip_adapter=needs_ip_adapter(setup.method, setup.settings),
        ip_adapter_source=setup.ip_adapter,
        image_encoder=setup.image_encoder,
        revision=setup.revision,
        offload=setup.offload,
    )
    for stage, (path, weight) in setup.loras.items():
        family.load_lora(path, weight, stage, other_base=setup.other_base)
    family.use_lora("all" if "all" in setup.loras else None)
    return Session(setup, family, _generator(setup, family), hashes)


def _generator(setup: Setup, family: ModelFamily) -> Generator:
    sketch = read_sketch(setup.blueprint) if setup.blueprint else None
    cls, config = generator_class(setup.method), settings_of(setup.method, setup.settings)
    if setup.window_batch:
        config = cls.with_window_batch(config, setup.window_batch)
    generator = cls(family, config)
    if sketch is not None:
        if not isinstance(generator, DRSPO):
            raise UserError(f"{setup.method} has no blueprint that a picture could replace", "--blueprint")
        generator.sketch = sketch
    if setup.source is not None:
        return Continued(generator, setup.source.image, setup.source.change)
    if setup.endless:
        return Endless(generator)
    if setup.upscale == 1:
        return generator
    upscaler = load_upscaler(upscaler_source(setup, family), setup.upscale, family.device)
    return Upscaled(generator, upscaler, setup.upscale)


def upscaler_source(setup: Setup, family: ModelFamily) -> str:
    """Where the upscaler lies: where the setup says, or the model's own; UserError where there is neither."""
    source = setup.upscaler or family.spec.upscaler
    if not source:
        raise UserError(
            f"{setup.model} has no upscaler of its own", "--upscale", f"Give one by --upscaler. {SOURCES}"
        )
    return source


def setup_like(record: Record, setup: Setup) -> Setup:
    """The setup that made a record, on what this machine has: model, LoRAs, ControlNet, device and dtype
    given now replace the record's.

    UserError asks for the flag of what a record names without its place. `check_like` compares fingerprints.
    """
    for stage in setup.loras:
        if stage not in record.loras:
            raise UserError(f"that scroll was made without a LoRA of stage {stage!r}", where="--like")
    loras = {}
    for stage, values in record.loras.items():
        if stage not in setup.loras:
            _ask("LoRA", values["path"], values["sha256"][:12], LORA_FLAGS.get(stage, "--lora"))
        loras[stage] = (setup.loras[stage][0], values["weight"])
    model, controlnet = record.model, record.options.get("controlnet", "")
    control = setup.controlnet or at_revision(controlnet, record.options.get("controlnet_revision", ""))
    if setup.model_given:
        model = setup.model
    else:
        _require_place("model", model, record.fingerprint, "--model")
    if controlnet and not setup.controlnet:
        mark = record.options.get("controlnet_fingerprint", "")
        _require_place("ControlNet", controlnet, mark, "--controlnet")
    upscaler = record.options.get("upscaler", "")
    if upscaler and not setup.upscaler:
        _require_place("upscaler", upscaler, record.options.get("upscaler_sha256", "")[:12], "--upscaler")
    drawn = record.options.get("blueprint", "")
    if drawn and not setup.blueprint:
        mark = record.options.get("blueprint_sha256", "")[:12]
        _ask("picture", drawn, mark, "--blueprint", "Its bytes are")
    if setup.blueprint and not drawn:
        raise UserError("that scroll follows no picture", "--blueprint", "Leave it out.")
    adapter = _adapter_place(record, setup)
    enlarged, shown = setup.upscaler or upscaler, setup.ip_adapter or adapter
    names = {path: record.loras[stage]["path"] for stage, (path, _) in loras.items()}
    return Setup(
        model=model,
        method=record.method,
        settings=record.settings,
        loras=loras,
        revision=setup.revision or ("" if setup.model_given else record.options.get("revision", "")),
        controlnet=control,
        ip_adapter=setup.ip_adapter or adapter,
        image_encoder=setup.image_encoder,
        conditioning=setup.conditioning or CANNY,  # when the scroll was made, it was checked
        names=names | {model: record.model, control: controlnet, enlarged: upscaler, shown: adapter},
        offload=setup.offload,
        upscale=record.options.get("upscale", 1),
        blueprint=setup.blueprint,
        endless=bool(record.options.get("endless")),
        source=source_like(record.options, setup.source),
        upscaler=enlarged,
        other_base=True,  # the hashes are compared, which says more
        device=record.options.get("device", "auto") if setup.device == "auto" else setup.device,
        dtype=record.options.get("dtype", "auto") if setup.dtype == "auto" else setup.dtype,
        threads=record.options.get("threads", 0),
        window_batch=record.options.get("window_batch", 0),
    )


def _adapter_place(record: Record, setup: Setup) -> str:
    """What a record calls its IP-Adapter, "" where it has none; UserError where that is no place and none is
    given."""
    adapter: str = record.options.get("ip_adapter", "")
    if adapter and not setup.ip_adapter:
        mark = record.options.get("ip_adapter_sha256", "")[:12]
        place = adapter if adapter.startswith("package:") else adapter.partition(":")[0]
        _require_place("IP-Adapter", place, mark, "--ip-adapter")
    return adapter


def _require_place(what: str, name: str, mark: str, flag: str) -> None:
    """UserError that asks for a place where the record has only a name, and neither a Hub id nor ours."""
    if not (name in MODELS or name.startswith("package:") or HUB_ID.fullmatch(name)):
        _ask(what, name, mark, flag)


def _ask(what: str, name: str, mark: str, flag: str, compared: str = "Its weights are") -> NoReturn:
    kind = compared.split()[1]
    weights, article = f" ({kind} {mark})" if mark else "", "an" if what[0] in "aeiou" else "a"
    raise UserError(
        f"that scroll was made with {article} {what} called {name}{weights}, and a file never says "
        "where it lay",
        where="--like",
        hint=f"Say where it lies here: {flag} PATH. {compared} compared.",
    )


def check_like(record: Record, now: Record) -> None:
    """UserError where the same bytes are impossible, a warning where they are not certain."""
    marks = [("model", "--model", record.fingerprint, now.fingerprint)]
    if here := now.options.get("controlnet_fingerprint", ""):
        there = record.options.get("controlnet_fingerprint", here)  # which older records do not have
        marks.append(("ControlNet", "--controlnet", there, here))
    if here := now.options.get("upscaler_sha256", ""):
        marks.append(("upscaler", "--upscaler", record.options.get("upscaler_sha256", ""), here))
    if now.options.get("source_sha256", "") != record.options.get("source_sha256", ""):
        raise UserError("this is not the scroll that was gone on with", "--like", "Its pixels are compared.")
    here, then = (one.options.get("blueprint_sha256", "") for one in (now, record))
    if here != then:
        raise UserError(
            f"this picture ({here[:12]}) is not the one that the scroll follows ({then[:12]})",
            where="--blueprint",
        )
    if here := now.options.get("ip_adapter_sha256", ""):
        marks.append(("IP-Adapter", "--ip-adapter", record.options.get("ip_adapter_sha256", ""), here))
    for what, flag, then, here in marks:
        if then != here:
            raise UserError(
                f"the weights of this {what} ({here}) are not those that made the scroll ({then})",
                where="--like",
                hint=f"Give the right one by {flag} PATH.",
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
        if line.startswith(tuple(f"options.{key}" for key in SHORT)):
            logger.warning("memory was short when the scroll was made (%s): bytes may differ", line)
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
