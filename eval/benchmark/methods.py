"""The rows a benchmark can name: generators, the paper's ablations, and either with settings of their own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from drspo.config import to_dict
from drspo.errors import UserError, did_you_mean
from drspo.files.texts import load_yaml
from drspo.registry import lookup
from eval.config import EvalConfig
from generate import GENERATORS
from generate.catalogue import SAME
from generate.images.upscale import SCALES
from generate.models.specs import MODELS
from generate.program.session import Setup
from generate.request import settings_of


@dataclass(frozen=True, slots=True)
class Method:
    """A generator with settings, and which of the benchmark's LoRAs its stages wear."""

    generator: str
    settings: dict[str, Any] = field(default_factory=dict)
    wears: dict[str, str] = field(default_factory=dict)
    """Stage of the generator ("all" for one that has none) -> stage that the LoRA was trained for."""


BOTH = {"blueprint": "blueprint", "highres": "highres"}
ABLATIONS: dict[str, Method] = {
    "drspo": Method("drspo", wears=BOTH),
    "drspo-without-dpo": Method("drspo"),
    "drspo-without-highres-dpo": Method("drspo", wears={"blueprint": "blueprint"}),
    "drspo-without-control": Method("drspo", {"control": {"enabled": False}}, BOTH),
    "drspo-without-blueprint": Method("multidiffusion", wears={"all": "highres"}),
    "drspo-with-ip-adapter": Method("drspo", {"image_prompt": {"enabled": True}}, BOTH),
}
"""DRSPO and the rows of Table 2, each in both readings: without DPO as neither LoRA and as no LoRA of the
windows; without control as no line art and as no blueprint at all, which leaves the windows alone; and with
the blueprint as an image prompt beside all the rest (eq. 33)."""

OF_A_ROW = (
    *("model", "controlnet", "ip_adapter", "image_encoder", "lora", "lora_blueprint", "lora_highres"),
    *("upscale", "upscaler"),
)
"""Settings of a row that are not its generator's."""


def method(name: str) -> Method:
    """The method called `name`: an ablation, a generator, or a plugin; UserError with the nearest name."""
    if name in ABLATIONS:
        return ABLATIONS[name]
    if name not in GENERATORS and ":" not in name:
        known = (*GENERATORS, *ABLATIONS)
        raise UserError(f"unknown method {name!r}", "--methods", did_you_mean(name, known))
    lookup(GENERATORS, name, "method")
    return Method(name)


def rows(config: EvalConfig) -> dict[str, Setup]:
    """What each row of the benchmark loads and runs, by its name, in order.

    `methods` names rows as `drspo` or `flux-esrgan=direct`; `options` sets what is a row's own, as
    `flux-esrgan.model=flux` or `drspo.control.scale=0.4`. UserError for a name twice, an option of no row or
    of no meaning, and for two rows that come to the same.
    """
    names = [entry.partition("=")[0] for entry in config.methods]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"the method {name!r} is named twice", "--methods", "name each row once")
        if not name or "/" in name or name.startswith("."):
            raise UserError(f"{name!r} cannot name a row", "--methods", "letters, digits, - and _")
    owned = {name: _options(config.options, name, names) for name in names}
    found = {}
    for entry in config.methods:
        name, given, target = entry.partition("=")
        found[name] = _setup(name, method(target if given else name), owned[name], config)
    _refuse_twins(found)
    return found


def _setup(name: str, chosen: Method, own: dict[str, Any], config: EvalConfig) -> Setup:
    told = {key: own.pop(key) for key in OF_A_ROW if key in own}
    for key, value in told.items():
        if key != "upscale" and not isinstance(value, str):
            raise UserError(f"{value!r} is no {key}", f"options: {name}.{key}", "a name, an id or a path")
    loras = {"blueprint": config.lora_blueprint, "highres": config.lora_highres}
    loras |= {stage: told[f"lora_{stage}"] for stage in loras if f"lora_{stage}" in told}
    worn = {stage: (loras[trained], 1.0) for stage, trained in chosen.wears.items() if loras[trained]}
    if told.get("lora"):
        worn["all"] = (told["lora"], 1.0)
    upscale = told.get("upscale", 1)
    if upscale not in (1, *SCALES):
        raise UserError(f"pictures are enlarged by 2 or 4, not {upscale!r}", f"options: {name}.upscale")
    settings = _merged(chosen.settings, own)
    settings_of(chosen.generator, settings)  # which names what is wrong
    return Setup(
        model=told.get("model", config.model),
        method=chosen.generator,
        settings=settings,
        loras=worn,
        controlnet=told.get("controlnet", ""),
        ip_adapter=told.get("ip_adapter", ""),
        image_encoder=told.get("image_encoder", ""),
        upscale=upscale,
        upscaler=told.get("upscaler", ""),
        device=config.device,
    )


def _options(entries: Iterable[str], name: str, names: list[str]) -> dict[str, Any]:
    """The nested settings of one row; UserError for an entry that belongs to none."""
    found: dict[str, Any] = {}
    for entry in entries:
        path, equals, text = entry.partition("=")
        owner = max((n for n in names if path.startswith(f"{n}.")), key=len, default="")
        if not equals or not owner:
            hint = f"ROW.key=value, with a row of {', '.join(names)}"
            raise UserError(f"{entry!r} sets nothing of a row", "--options", hint)
        if owner == name:
            *parents, key = path.removeprefix(f"{name}.").split(".")
            place = found
            for parent in parents:
                place = place.setdefault(parent, {})
            place[key] = load_yaml(text, f"options: {entry}")
    return found


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = [key for key in under if isinstance(under[key], dict) and isinstance(over.get(key), dict)]
    return {**under, **over, **{key: _merged(under[key], over[key]) for key in both}}


def _refuse_twins(found: dict[str, Setup]) -> None:
    """UserError for two rows that would paint the same pictures, whatever their weights are called."""
    seen: dict[str, str] = {}
    for name, setup in found.items():
        plain = replace(
            setup,
            model=_home(setup.model),
            method=SAME.get(setup.method, setup.method),
            settings=to_dict(settings_of(setup.method, setup.settings)),
            loras={stage: (_home(path), weight) for stage, (path, weight) in setup.loras.items()},
        )
        whole = repr(plain)
        if whole in seen:
            raise UserError(
                f"{seen[whole]} and {name} are the same thing twice",
                "--methods",
                "give --lora-blueprint and --lora-highres, other --options, or leave one of them out",
            )
        seen[whole] = name


def _home(source: str) -> str:
    """Where weights lie, however they are named: by a name of ours, as part of a package, or as a folder."""
    place = MODELS[source].base if source in MODELS else source
    if place.startswith("package:"):
        package, _, folder = place.removeprefix("package:").partition("/")
        return str((Path(str(files(package))) / folder).resolve())
    return str(Path(place).expanduser().resolve()) if Path(place).expanduser().exists() else place
