"""Noise schedulers, and which of them may take one step for all windows at once."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from drspo.errors import UserError, did_you_mean
from generate.models.family import ModelFamily
from generate.models.schedule import EDM, FLOW, Schedule
from generate.models.specs import ModelSpec
from generate.models.weights import TEXT_PARTS

SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "euler": "EulerDiscreteScheduler",
    "pndm": "PNDMScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "ddpm": "DDPMScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
}
LINEAR = {
    "DDIMScheduler",
    "EulerDiscreteScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "TCDScheduler",
} | EDM
STOCHASTIC = {"DDPMScheduler", "EulerAncestralDiscreteScheduler", "LCMScheduler"}
OWN_SCHEDULER = "own"
Size = tuple[int, int]
KNOWN = LINEAR | STOCHASTIC | FLOW
"""Classes that a checkpoint may bring; others are refused by name."""
DRAWS = "it draws noise at every step, which would be averaged away where windows overlap"
NO_SAMPLE = {"PNDMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"} | EDM
"""Classes that cannot take a network that predicts x0 itself."""


def make_schedule(family: ModelFamily, name: str, steps: int, size: Size | None = None) -> Schedule:
    """A fresh schedule of so many steps, built from the checkpoint's own settings.

    "checkpoint" is the class the checkpoint was published with, and "own" what the model is used with here.
    `size` is that of the picture which the network sees, (height, width) in latents: some schedules for flow
    matching depend on it. Settings that the checkpoint leaves out are
    the class's defaults, except `clip_sample`: latents are not bounded by 1, so it is off unless asked for.
    UserError for unknown names, with the nearest one, and where the checkpoint's settings contradict the
    class: it would run, and compute something else.
    """
    import diffusers

    config = dict(family.scheduler_config)
    wanted = class_name(settled(name, family.spec)) or published(config)
    shifts = family.kind not in TEXT_PARTS and wanted in FLOW
    _require_agreement(config, wanted, getattr(diffusers, wanted), shifts)
    if "clip_sample" in parameters(getattr(diffusers, wanted)):
        config.setdefault("clip_sample", False)
    try:
        scheduler = getattr(diffusers, wanted).from_config(config)
        levels = (
            _levels(family.kind, config, steps, size) if wanted in FLOW else {"num_inference_steps": steps}
        )
        scheduler.set_timesteps(**levels, device=family.device)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise UserError(f"The scheduler {name} cannot take {steps} steps: {error}") from error
    return Schedule(scheduler)


def settled(name: str, spec: ModelSpec) -> str:
    """A scheduler's name where "own" asks for the model's."""
    return spec.scheduler if name == OWN_SCHEDULER else name


def _levels(kind: str, config: Mapping[str, Any], steps: int, size: Size | None) -> dict[str, Any]:
    """What a flow-matching scheduler is asked for, as the published pipelines ask.

    FLUX's levels are spaced evenly before they are shifted; the shift mu grows with the number of tokens,
    also beyond the sizes that it was fitted to.
    """
    levels: dict[str, Any] = {"num_inference_steps": steps}
    if kind == "flux" and not config.get("use_flow_sigmas"):
        levels = {"sigmas": np.linspace(1.0, 1 / steps, steps)}
    if config.get("use_dynamic_shifting"):
        if size is None:
            raise UserError("this schedule is shifted by the size of the image, and none is given")
        levels["mu"] = shift(config, size, most=1.15 if kind == "flux" else 1.16)
    return levels


def shift(config: Mapping[str, Any], size: Size, most: float = 1.15) -> float:
    """mu of a picture of (height, width) latents, two a token's side: linear in the number of tokens."""
    tokens = (size[0] // 2) * (size[1] // 2)
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", most)
    slope = (high - low) / (many - few)
    return float(tokens * slope + (low - slope * few))


def published(config: Mapping[str, Any]) -> str:
    """The class that a checkpoint's scheduler folder names; UserError for none and for unknown ones."""
    name = config.get("_class_name")
    if not isinstance(name, str) or name not in KNOWN:
        raise UserError(
            f"the checkpoint's own scheduler is {name}, which is not known here"
            if name
            else "the checkpoint's scheduler_config.json names no scheduler (_class_name)",
            hint=f"Choose another by name: {', '.join(SCHEDULERS)}.",
        )
    return name


def _require_agreement(config: Mapping[str, Any], wanted: str, cls: Any, shifts: bool) -> None:
    """UserError where a class would leave out what the network was trained for."""
    own, kind = str(config.get("_class_name", "")), str(config.get("prediction_type", "epsilon"))
    reason = ""
    if (own in EDM or "sigma_data" in config) and wanted not in EDM:
        reason = "its network was trained for EDM's noise"
    elif (own in FLOW or kind == "flow_prediction" or config.get("use_flow_sigmas")) and wanted not in FLOW:
        reason = "its network was trained for flow matching"
    elif own and own not in EDM and wanted in EDM or own and own not in FLOW and wanted in FLOW:
        reason = f"its network was trained for {own}"
    elif wanted not in FLOW and kind not in ("epsilon", "v_prediction", "sample"):
        reason = f"its network predicts {kind!r}"
    elif kind == "sample" and wanted in NO_SAMPLE:
        reason = "its network predicts x0 itself"
    elif config.get("rescale_betas_zero_snr") and "rescale_betas_zero_snr" not in parameters(cls):
        reason = "its network was trained to zero terminal SNR (rescale_betas_zero_snr)"
    elif config.get("use_dynamic_shifting") and not shifts:
        reason = "its schedule is shifted by the size of the image (use_dynamic_shifting)"
    if reason:
        able = own if own in KNOWN and own != wanted else ""
        raise UserError(
            f"{wanted} would compute something else than this checkpoint needs: {reason}.",
            hint=f"Choose scheduler checkpoint, which is {able} here." if able else "",
        )


def parameters(cls: Any) -> Mapping[str, Any]:
    """The settings that a scheduler's class takes."""
    return inspect.signature(cls.__init__).parameters


def linear_schedule(family: ModelFamily, name: str, steps: int, size: Size | None = None) -> Schedule:
    """A schedule that may take one step for all windows; UserError with the reason for others."""
    schedule = make_schedule(family, name, steps, size)
    require_linear(schedule)
    return schedule


def class_name(name: str) -> str:
    """The diffusers class of a scheduler's name, "" for the checkpoint's own; UserError for unknown names."""
    if name in ("checkpoint", OWN_SCHEDULER):
        return ""
    if name not in SCHEDULERS:
        known = [*SCHEDULERS, "checkpoint", OWN_SCHEDULER]
        raise UserError(f"Unknown scheduler {name!r}.", hint=did_you_mean(name, known))
    return SCHEDULERS[name]


def require_linear(schedule: Schedule) -> None:
    """Raises UserError, with the reason, unless one step on the canvas equals the average of window steps.

    Every window reads the same canvas x_t, and a deterministic scheduler without clipping gives x_{t-1} as a
    linear function of x_t and the history of predictions, so averaging the predictions and stepping once is
    averaging the windows' x_{t-1} (MultiDiffusion, eq. 5). Noise, clipping and thresholding break this.
    """
    name, config = schedule.name, schedule.scheduler.config
    reason = ""
    draws = "sde" in str(config.get("algorithm_type", "")) or config.get("stochastic_sampling", False)
    if name in STOCHASTIC or draws:
        reason = DRAWS
    elif config.get("thresholding", False):
        reason = "its dynamic thresholding is not linear in the prediction"
    elif config.get("clip_sample", False):
        reason = "it clips the predicted latents, which is not linear in the prediction"
    elif name not in LINEAR | FLOW:
        reason = "it is not known to be linear in the prediction"
    if reason:
        raise _not_linear(name, reason)


def check_linear(name: str) -> None:
    """UserError for names that no checkpoint's settings can make linear: unknown ones and stochastic ones."""
    if class_name(name) in STOCHASTIC:
        raise _not_linear(class_name(name), DRAWS)


def _not_linear(name: str, reason: str) -> UserError:
    return UserError(
        f"{name} cannot take one step for all windows: {reason}.",
        hint="Use ddim, euler, pndm, dpmpp_2m or unipc.",
    )
